import { dirname, resolve } from 'node:path';
import { DOMParser, type Element } from '@xmldom/xmldom';
import { backingPathOf, fileIdentity, nameExists, readImageHead } from '../disks/overlay.ts';
import { type Finding, shellWord } from './access.ts';

/** A file that QEMU opens. */
export interface Needed {
  readonly path: string;
  readonly wants: 'read' | 'write';
  /** What it is to whom: `the disk of student-01`. */
  readonly as: string;
  /** Others use it too: libvirt leaves its owner as it is. */
  readonly shared?: boolean;
}

/** As QEMU's own limit for a chain. */
const longestChain = 200;

/** An image with all that it stands on, and what is wrong with the names it gives. */
export function withReferences(top: Needed): {
  readonly needed: readonly Needed[];
  readonly findings: readonly Finding[];
} {
  const needed: Needed[] = [top];
  const findings: Finding[] = [];
  const seen = new Set([fileIdentity(top.path)]);
  let path = top.path;
  for (let depth = 0; depth < longestChain; depth++) {
    let head: ReturnType<typeof readImageHead>;
    try {
      head = readImageHead(path);
    } catch {
      // Who may not read it learns that from the walk.
      break;
    }
    if (head?.damage !== undefined) {
      findings.push({
        path,
        what: `its header cannot be read: ${head.damage}`,
        fix: `cow-img check ${shellWord(path)}`,
      });
    }
    if (head?.dataFile !== undefined) {
      const data = resolve(dirname(path), head.dataFile);
      // libvirt knows nothing of it, and gives it to nobody.
      needed.push({
        path: data,
        wants: depth === 0 ? top.wants : 'read',
        as: `the data of '${path}'`,
        shared: true,
      });
    }
    if (!head?.backing) break;
    const backing = backingPathOf(head);
    if (backing === undefined) break;
    if (head.backing.format === undefined) {
      findings.push({
        path,
        what: `it does not say what format its backing file '${head.backing.path}' has, and libvirt does not guess`,
        fix: `cow-img rebase -u -f qcow2 -b ${shellWord(head.backing.path)} -F FORMAT ${shellWord(path)}   # FORMAT: see cow-img info`,
      });
    }
    needed.push({ path: backing, wants: 'read', as: `what '${path}' stands on`, shared: true });
    const identity = fileIdentity(backing);
    if (identity !== undefined && seen.has(identity)) {
      findings.push({
        path,
        what: `it stands on '${backing}', which stands on it: a circle`,
        fix: `cow-img rebase -u -f qcow2 -b MASTER -F qcow2 ${shellWord(path)}   # MASTER: what it was made from`,
      });
      break;
    }
    seen.add(identity);
    path = backing;
  }
  return { needed, findings };
}

/** The files that a domain's XML names for QEMU to open; `pathOf` tells where a volume of a storage pool is. */
export async function filesOfDomain(
  xml: string,
  domain: string,
  pathOf: (pool: string, volume: string) => Promise<string>,
): Promise<readonly Needed[]> {
  const document = new DOMParser({ onError: () => undefined }).parseFromString(xml, 'text/xml');
  const needed: Needed[] = [];
  for (const disk of Array.from(document.getElementsByTagName('disk'))) {
    const source = Array.from(disk.childNodes).find((one) => one.nodeName === 'source');
    if (source?.nodeType !== 1) continue;
    const element = source as Element;
    const [pool, volume] = [element.getAttribute('pool'), element.getAttribute('volume')];
    const path =
      pool && volume
        ? await pathOf(pool, volume)
        : (element.getAttribute('file') ?? element.getAttribute('dev'));
    if (!path) continue;
    const kind = disk.getAttribute('device') ?? 'disk';
    const readOnly = kind === 'cdrom' || disk.getElementsByTagName('readonly').length > 0;
    needed.push({ path, wants: readOnly ? 'read' : 'write', as: `a ${kind} of ${domain}` });
  }
  for (const name of ['loader', 'kernel', 'initrd']) {
    const path = document.getElementsByTagName(name)[0]?.textContent?.trim();
    if (!path?.startsWith('/')) continue;
    // One that is only read stays whose it is.
    needed.push({ path, wants: 'read', as: `the ${name} of ${domain}`, shared: name === 'loader' });
  }
  const variables = document.getElementsByTagName('nvram')[0]?.textContent?.trim();
  // Made at the first start.
  if (variables?.startsWith('/') && nameExists(variables))
    needed.push({ path: variables, wants: 'write', as: `the firmware variables of ${domain}` });
  return needed;
}
