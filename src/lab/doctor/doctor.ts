import { type Finding, walkPath } from './access.ts';
import type { Account } from './account.ts';
import { type Needed, withReferences } from './references.ts';
import { moduleFindings, securityModule } from './security-module.ts';

/** Something that keeps QEMU from what it needs. */
export interface Ailment extends Finding {
  /** What it is in the way of. */
  readonly hinders: readonly string[];
}

export interface Diagnosis {
  readonly account: string;
  /** Files that were looked at. */
  readonly files: number;
  readonly ailments: readonly Ailment[];
}

/**
 * Finds what keeps `account` from opening the files and all that they stand on. Each trouble is told once, with everything
 * that it hinders. Reads headers and modes only.
 */
export function diagnose(wanted: readonly Needed[], account: Account): Diagnosis {
  const module = account.becomesOwner ? securityModule() : undefined;
  const ailments = new Map<string, Finding & { hinders: string[] }>();
  const add = (finding: Finding, as: string) => {
    const key = `${finding.path}\0${finding.what}`;
    const known = ailments.get(key) ?? { ...finding, hinders: [] };
    if (!known.hinders.includes(as)) known.hinders.push(as);
    ailments.set(key, known);
  };
  const looked = new Set<string>();
  for (const top of wanted) {
    const { needed, findings } = withReferences(top);
    for (const finding of findings) add(finding, top.as);
    for (const one of needed) {
      looked.add(one.path);
      const opener = one.shared ? { ...account, becomesOwner: false } : account;
      for (const finding of walkPath(one.path, opener, one.wants)) add(finding, top.as);
      for (const finding of moduleFindings(one.path, module, !one.shared)) add(finding, top.as);
    }
  }
  return { account: account.name, files: looked.size, ailments: [...ailments.values()] };
}
