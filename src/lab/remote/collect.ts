import { basename } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { backingPathOf, type ImageHead } from '../disks/overlay.ts';
import type { HostView, RemoteHost } from './host.ts';
import type { RemoteLab, RemoteView } from './lab.ts';
import { type MasterCopy, names } from './records.ts';
import { headsOn } from './standing.ts';

/** How long a copy without its record is watched: who writes to it is still at work. */
export const watchMs = 2_000;

/** Something on a host that nobody needs any more. */
export interface RemoteGarbage {
  readonly host: string;
  readonly kind: 'copy' | 'cut off' | 'record';
  /** Names in the host's folder, in the order in which they go. */
  readonly files: readonly string[];
  /** Bytes that they take. */
  readonly allocated: number;
  readonly why: string;
}

export interface RemoteCollection {
  readonly garbage: readonly RemoteGarbage[];
  readonly kept: readonly { readonly host: string; readonly file: string; readonly why: string }[];
}

/** Looks for copies of masters, and parts of them, that nothing on their host stands on. Changes nothing. */
export async function planRemoteCollection(lab: RemoteLab, view: RemoteView): Promise<RemoteCollection> {
  const found = await Promise.all(view.hosts.map((one) => planHost(lab, view, one)));
  return { garbage: found.flatMap((one) => one.garbage), kept: found.flatMap((one) => one.kept) };
}

async function planHost(lab: RemoteLab, view: RemoteView, host: HostView): Promise<RemoteCollection> {
  const garbage: RemoteGarbage[] = [];
  const kept: { host: string; file: string; why: string }[] = [];
  const { name } = host.host;
  if (host.down !== undefined || host.files.size === 0) return { garbage, kept };
  const remote = lab.hosts.get(name)!;
  const heads = await headsOn(remote, host.files);
  const whole = new Map(host.copies.map((copy) => [copy.file, copy]));
  for (const file of [...host.files].filter(names.isCopy).sort()) {
    // An extra disk of a seat may be called like one.
    if (heads.get(file)?.provenance) continue;
    const copy = whole.get(file);
    // Another machine's lab file may name another master than the one here.
    const current = [view.master?.content, host.placement?.master.content];
    if (copy && current.includes(copy.content)) continue;
    const why = whyKept(lab, host, heads, file) ?? (copy ? undefined : await whyBusy(remote, file));
    if (why !== undefined) kept.push({ host: name, file, why });
    else {
      const record = names.copyRecord(file);
      const allocated = (await remote.pool.facts(file))?.allocated ?? 0;
      garbage.push({
        host: name,
        kind: copy ? 'copy' : 'cut off',
        // The record first: a copy without one counts for nothing, a record without its copy would be untrue.
        files: host.files.has(record) ? [record, file] : [file],
        allocated,
        why: copy ? 'nothing stands on it' : 'a copy that was cut off left it',
      });
    }
  }
  for (const record of [...host.files].filter(names.isCopyRecord).sort()) {
    const file = record.slice(0, -names.copyRecord('').length);
    if (host.files.has(file)) continue;
    garbage.push({ host: name, kind: 'record', files: [record], allocated: 0, why: 'its copy is not there' });
  }
  return { garbage, kept };
}

/** Why a copy stays, as far as its host tells: its domains, its disks (also such whose domain is gone), and other labs. */
function whyKept(
  lab: RemoteLab,
  { host, files, standing }: Pick<HostView, 'host' | 'files' | 'standing'>,
  heads: ReadonlyMap<string, ImageHead>,
  file: string,
): string | undefined {
  const path = `${host.pool}/${file}`;
  if (standing.has(path)) return 'a domain stands on it';
  for (const head of heads.values()) {
    if (head.damage !== undefined) return `'${basename(head.path)}' cannot be read, and may stand on it`;
    if (backingPathOf(head) === path) return `'${basename(head.path)}' stands on it`;
  }
  // Its disks may be about to stand on one.
  const other = [...files].find(
    (one) => names.isPlacement(one) && names.placementRevision(lab.spec.name, one) === undefined,
  );
  return other === undefined ? undefined : `another lab is in this folder: '${other}'`;
}

async function whyBusy({ pool }: RemoteHost, file: string): Promise<string | undefined> {
  const first = await pool.factsNow(file);
  await sleep(watchMs);
  return (await pool.factsNow(file))?.mtime === first?.mtime ? undefined : 'it is being written to';
}

/**
 * Removes copies of masters that `wanted` picks and nothing on the host stands on. None while another lab has its record in the folder.
 * Gives the names of what was removed.
 */
export async function removeCopies(
  lab: RemoteLab,
  remote: RemoteHost,
  wanted: (copy: MasterCopy) => boolean,
): Promise<readonly string[]> {
  const host = await remote.look(lab.spec.name);
  const copies = host.copies.filter(wanted);
  if (copies.length === 0) return [];
  const heads = await headsOn(remote, host.files);
  const removed = copies
    .filter(({ file }) => whyKept(lab, host, heads, file) === undefined)
    .flatMap(({ file }) => [names.copyRecord(file), file]);
  for (const file of removed) await remote.pool.remove(file);
  return removed;
}

/**
 * What `removeCopies` would remove of a host, as it was looked at, once these seats are gone from it, with the files that are `going` anyway.
 */
export async function copiesWithout(
  lab: RemoteLab,
  view: HostView,
  gone: { readonly seats: ReadonlySet<string>; readonly going: ReadonlySet<string> },
): Promise<readonly string[]> {
  if (view.copies.length === 0) return [];
  const files = new Set([...view.files].filter((file) => !gone.going.has(file)));
  const left = view.seats.filter(({ name }) => !gone.seats.has(name));
  const standing = new Set([...view.standingBeside, ...left.flatMap(({ master }) => master ?? [])]);
  const heads = await headsOn(lab.hosts.get(view.host.name)!, files);
  return view.copies
    .filter(({ file }) => whyKept(lab, { host: view.host, files, standing }, heads, file) === undefined)
    .flatMap(({ file }) => [names.copyRecord(file), file]);
}

/** Removes what a plan found, host by host. The caller holds the lab's lock, and has made the plan under it. */
export async function collectRemote(lab: RemoteLab, garbage: readonly RemoteGarbage[]): Promise<void> {
  for (const { host, files } of garbage)
    for (const file of files) await lab.hosts.get(host)!.pool.remove(file);
}
