import { DiskError, isDiskError } from '../../errors.ts';
import { backingPathOf, fileIdentity, readHeadIfOpen } from '../disks/overlay.ts';
import type { Lab } from '../lab.ts';
import type { OtherDomain, Runner } from '../runner/runner.ts';
import { disksOf } from '../seats/seat-key.ts';
import { byIdentity } from '../standing/release.ts';

/*
 * Domains of the same hypervisor that use a seat's disk: one that is off has no lock on it, and its image may lie where nobody looks.
 */

/**
 * Throws `in-use` where a domain that is none of the seats whose disks are among `paths` has one of these, or an image that stands on one.
 * For what throws disks away and for what writes to them. Images of domains that may not be read are passed over.
 */
export async function assertNoOtherDomain(
  paths: readonly string[],
  { seats, unlisted }: Pick<Lab, 'seats' | 'unlisted'>,
  runner: Pick<Runner, 'otherDomains'>,
): Promise<void> {
  const files = byIdentity(paths);
  if (files.size === 0 || !runner.otherDomains) return;
  const named = new Set(paths);
  const lab = [...seats.values(), ...unlisted.values()];
  const own = lab.filter((seat) => disksOf(seat).some(({ path }) => named.has(path)));
  for (const domain of await runner.otherDomains(own, lab)) {
    for (const file of domain.files) {
      const on = standsOnOneOf(file, files);
      if (on !== undefined) throw otherDomainError(domain, { file, on });
    }
  }
}

/** Which of the files an image is, or stands on through however many others. */
function standsOnOneOf(image: string, files: ReadonlyMap<string, string>): string | undefined {
  const seen = new Set<string>();
  for (let at: string | undefined = image; at !== undefined; ) {
    const identity = fileIdentity(at);
    if (identity === undefined || seen.has(identity)) return undefined;
    const found = files.get(identity);
    if (found !== undefined) return found;
    seen.add(identity);
    const head = headOf(at);
    at = head && backingPathOf(head);
  }
  return undefined;
}

/** What somebody's domain names need not be an image, nor a file that can be read. */
function headOf(path: string) {
  try {
    return readHeadIfOpen(path);
  } catch (error) {
    if (isDiskError(error)) return undefined;
    throw error;
  }
}

/** The refusal to touch a file that a domain has, or that the domain's image stands on. */
export function otherDomainError(
  { uri, name }: Pick<OtherDomain, 'uri' | 'name'>,
  { file, on }: { readonly file: string; readonly on: string },
): DiskError {
  const letGo = `let the domain go: virsh -c '${uri}' undefine '${name}' (its files stay)`;
  return file === on
    ? new DiskError('in-use', `The domain '${name}' has '${on}' too`, {
        path: on,
        detail: { fix: `give it a copy of its own (cow-img convert, virsh edit), or ${letGo}` },
      })
    : new DiskError('in-use', `The domain '${name}' uses '${file}', which stands on '${on}'`, {
        path: on,
        detail: {
          fix: `make its image independent (cow-img rebase -b '' …), or ${letGo} and remove the image`,
        },
      });
}
