import { isDeepStrictEqual } from 'node:util';
import { isDiskError } from '../errors.ts';
import { nameExists, readImageHead } from './disks/overlay.ts';
import { type Lab, realPath, seatPaths } from './lab.ts';
import {
  computeContent,
  type DigestOptions,
  hasOldDates,
  inspectMaster,
  type Master,
  type MasterChange,
  masterChanged,
  masterChanges,
  masterState,
  rememberedContent,
  withNewDates,
} from './masters/master.ts';
import { lockPool } from './pool/pool-lock.ts';
import { formerOf, isSameMaster, masterPath } from './standing/former.ts';
import { type MasterState, readState, writeState } from './state.ts';

/** What became of a master since its clones were made. */
export interface MasterVerdict {
  /**
   * 'as-it-was': nothing touched its files, or their content was compared and is the same. 'touched': something did, and
   * the content was not compared. 'changed': it was, and is another one. 'missing': a file of its chain is gone.
   * 'unknown': no clone was made yet.
   */
  readonly state: 'as-it-was' | 'touched' | 'changed' | 'missing' | 'unknown';
  readonly changes: readonly MasterChange[];
  /** The whole content was read and compared just now. */
  readonly verified: boolean;
}

export interface VerifyOptions {
  /** Compares the whole content. */
  readonly digest?: DigestOptions;
  /** Where only dates differ, and the content is known to be the same, the lab remembers the new ones. Default: nothing is written. */
  readonly remember?: boolean;
}

/**
 * Compares the master with what the lab remembers: at once by size, time, inode and header; with `digest` by its whole
 * content.
 */
export async function verifyMaster(lab: Lab, options: VerifyOptions = {}): Promise<MasterVerdict> {
  const { state } = lab;
  const { digest, remember = false } = options;
  if (!state) return { state: 'unknown', changes: [], verified: false };
  const changes = masterChanges(state.master, lab.pool);
  if (changes.length === 0 && !digest) {
    if (remember) await rememberChange(lab);
    return { state: 'as-it-was', changes, verified: false };
  }
  // What counts is the file that the seats' disks name, whatever the lab file has named since; where that is gone, `up` links anew.
  const known = masterPath(state.master, lab.pool);
  const renamed = !isSameMaster(state.master, lab.pool, lab.spec.master.path);
  let master: Master;
  try {
    const path = renamed && nameExists(known) ? known : lab.spec.master.path;
    master = await inspectMaster(path, state.master.format);
  } catch (error) {
    if (!isDiskError(error)) throw error;
    const missing = isDiskError(error, 'not-found') || changes.some((change) => change.gone);
    return {
      state: missing ? 'missing' : 'changed',
      changes: orSay(changes, lab, error.message),
      verified: false,
    };
  }
  const content = digest ? await computeContent(master, digest) : rememberedContent(master);
  const verified = digest !== undefined;
  if (content === undefined) {
    const missing = changes.some((change) => change.gone);
    return { state: missing ? 'missing' : 'touched', changes, verified };
  }
  if (content !== state.master.content) {
    return { state: 'changed', changes: orSay(changes, lab, 'its content is another one'), verified };
  }
  if (changes.length > 0 && !renamed && remember)
    await rememberDates(lab, state.master, ({ content }) => masterState(master, content, lab.pool));
  return { state: 'as-it-was', changes: [], verified };
}

function orSay(changes: readonly MasterChange[], lab: Lab, what: string): readonly MasterChange[] {
  return changes.length > 0 ? changes : [{ path: lab.spec.master.path, what, gone: false }];
}

/**
 * The lab remembers when its master was last changed, where nothing but a mode, an owner or a link of it was: else it would be looked into
 * each time anew. A hypervisor changes the owner at every start. And which folder its pool is, where a version before has made it.
 */
export async function rememberChange(lab: Lab): Promise<void> {
  const { state, pool } = lab;
  if (state && (state.folder === undefined || hasOldDates(state.master, pool)))
    await rememberDates(lab, state.master, (known) => withNewDates(known, pool));
}

async function rememberDates(
  lab: Lab,
  before: MasterState,
  dated: (known: MasterState) => MasterState,
): Promise<void> {
  try {
    // Reads samples, while nobody need wait.
    const master = dated(before);
    using _lock = await lockPool(lab.lockPath, `the lab "${lab.name}"`);
    // Another command may have been at work until now: what it has written stays.
    const now = readState(lab.pool, lab.name);
    if (now && isDeepStrictEqual(now.master, before)) writeState(lab.pool, { ...now, master });
  } catch (error) {
    // Another command works on the lab, or it cannot be written: the dates are compared again next time.
    if (!isDiskError(error)) throw error;
  }
}

/** Throws `changed`, naming the seats, unless the master is as it was. */
export async function assertMasterUnchanged(lab: Lab, seats: readonly string[]): Promise<void> {
  const verdict = await verifyMaster(lab);
  if (verdict.state === 'as-it-was') return;
  throw masterChanged(lab, seats, describeChanges(verdict.changes, lab));
}

/** Throws `changed` where a former master is not as it was, and one of the seats stands on it. */
export function assertFormerUnchanged(lab: Lab, former: MasterState, seats: readonly string[]): void {
  const standing = seats.filter(
    (seat) => formerOf(lab.state, readImageHead(seatPaths(lab.pool, seat).disk)) === former,
  );
  if (standing.length === 0) return;
  const changes = masterChanges(former, lab.pool);
  if (changes.length === 0) return;
  const path = masterPath(former, lab.pool);
  throw masterChanged(
    { spec: { master: { path } } },
    standing,
    describeChanges(changes, { spec: { master: { path } } }),
  );
}

/** What changed, in words: a file is named where it is not simply the master. */
export function describeChanges(
  changes: readonly MasterChange[],
  lab: { readonly spec: { readonly master: { readonly path: string } } },
): string {
  const master = realPath(lab.spec.master.path);
  return changes.map(({ path, what }) => (realPath(path) === master ? what : `${path}: ${what}`)).join('; ');
}
