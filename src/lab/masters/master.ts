import { createHash } from 'node:crypto';
import { type BigIntStats, closeSync, openSync, rmSync, statSync } from 'node:fs';
import { basename, dirname, join, relative, resolve } from 'node:path';
import { DiskError, isDiskError } from '../../errors.ts';
import type { Image } from '../../image/image.ts';
import { openImageFile, trustedImages } from '../../node.ts';
import { blockDeviceSize } from '../../platform/block-device.ts';
import { recordFolder } from '../../platform/dependents.ts';
import { lastingPathOf } from '../../platform/device-names.ts';
import { asSystemError } from '../../platform/errno.ts';
import { readHead, readJsonFile, writeJsonFile } from '../../platform/json-file.ts';
import { hostFileOf, type OnProgress } from '../../storage/store.ts';
import { describeSeats } from '../describe.ts';
import { type FileFacts, fileFactsSchema, type MasterState } from '../state.ts';
import { contentDigest, contentDigestPrefix } from './content-digest.ts';
import { sampleOf } from './file-sample.ts';

/** Bytes at a file's start that are hashed: the first cluster of a qcow2 image, and so its header. */
const headBytes = 64 * 1024;

/** A master as it is now. Paths are absolute. */
export interface Master {
  /** Symbolic links resolved, but for those that are a device's lasting name: what overlays name. */
  readonly path: string;
  readonly format: string;
  /** Guest bytes. */
  readonly size: number;
  readonly files: readonly FileFacts[];
}

/** Facts about a file, without reading more of it than its head. Throws `not-found`, `denied` … */
export function fileFacts(path: string): FileFacts {
  try {
    const stat = statSync(path, { bigint: true });
    const head = new Uint8Array(headBytes);
    const got = readHead(path, head);
    const device = stat.isBlockDevice();
    return {
      path,
      size: device ? deviceBytes(path, stat) : Number(stat.size),
      mtime: device ? '0' : String(stat.mtimeNs),
      inode: device ? '0' : String(stat.ino),
      head: createHash('sha256').update(head.subarray(0, got)).digest('hex'),
      ...(device ? {} : { ctime: String(stat.ctimeNs) }),
    };
  } catch (cause) {
    throw asSystemError(cause, 'read', path);
  }
}

function deviceBytes(path: string, { rdev }: BigIntStats): number {
  const fd = openSync(path, 'r');
  try {
    return blockDeviceSize(fd, Number(rdev), path);
  } finally {
    closeSync(fd);
  }
}

/** Facts that were taken of a device when its size was not yet among them. */
function isUnmeasured({ size, mtime }: FileFacts): boolean {
  return size === 0 && mtime === '0';
}

/**
 * What differs between two facts about the same file, in words; undefined when nothing does. A date of writing can be put back. Where only
 * the other one, of any change, is not what it was, `file` (absolute; default: `now.path`) is looked into: a mode, a link or an owner may
 * have changed, which a hypervisor does at every start.
 */
export function factsDiffer(before: FileFacts, now: FileFacts, file = now.path): string | undefined {
  if (before.size !== now.size && !isUnmeasured(before))
    return `its size was ${before.size} bytes and is ${now.size}`;
  if (before.head !== now.head) return 'its header changed';
  if (before.inode !== now.inode) return 'it is another file now (its inode changed)';
  if (before.mtime !== now.mtime) return `it was written to at ${timeOf(now.mtime)}`;
  if (before.sample === undefined || before.ctime === now.ctime || before.sample === sampled(file))
    return undefined;
  return 'its content changed, though its date did not';
}

function sampled(path: string): string {
  try {
    return sampleOf(path);
  } catch (cause) {
    throw asSystemError(cause, 'read', path);
  }
}

/** Facts to compare later ones with. */
function withSample(facts: FileFacts): FileFacts {
  return facts.ctime === undefined ? facts : { ...facts, sample: sampled(facts.path) };
}

function timeOf(nanoseconds: string): string {
  return new Date(Number(BigInt(nanoseconds) / 1_000_000n)).toISOString();
}

/** Opens the master and looks at it and its chain. Throws what opening throws. */
export async function inspectMaster(path: string, format?: string): Promise<Master> {
  const real = openedPathOf(path);
  await using image = await openPlain(real, format);
  const files: FileFacts[] = [];
  for (let one: Image | undefined = image; one; one = one.backing) {
    files.push(fileFacts(openedPathOf(hostFileOf(one.layer.source)?.path ?? one.layer.source.name)));
  }
  return { path: real, format: image.layer.format, size: image.size, files };
}

async function openPlain(path: string, format: string | undefined): Promise<Image> {
  try {
    return await openImageFile(path, { format, policy: trustedImages });
  } catch (error) {
    if (!isDiskError(error) || error.field !== 'key-secret') throw error;
    throw new DiskError(
      'unsupported',
      `'${path}' is encrypted, or stands on what is: a master must be plain`,
      {
        path,
        field: 'encrypt',
        detail: { fix: "cow-img convert decrypts it; 'encrypt:' in the lab file encrypts the seats" },
      },
    );
  }
}

function openedPathOf(path: string): string {
  try {
    return lastingPathOf(path);
  } catch (cause) {
    throw asSystemError(cause, 'open', path);
  }
}

/** The master's state for a lab's pool: file paths become relative to it. Files that are as in `before` are told of in its words. */
export function masterState(
  master: Master,
  content: string,
  pool: string,
  before?: MasterState,
): MasterState {
  return {
    format: master.format,
    size: master.size,
    content,
    files: master.files.map((one, i) => {
      const path = pathFrom(pool, one.path);
      const known = before?.files[i];
      const isKnown = known?.path === path && factsDiffer(known, one) === undefined;
      if (isKnown && known.size === one.size) return known;
      return { ...withSample(one), path };
    }),
  };
}

/** Whether a recorded master's files are these, and as they were. */
export function isAsRecorded(master: Master, known: MasterState, pool: string): boolean {
  return (
    known.files.length === master.files.length &&
    master.files.every(
      (one, i) => known.files[i].path === pathFrom(pool, one.path) && !factsDiffer(known.files[i], one),
    )
  );
}

/** The state after the files' modes were changed by us: nothing else of them was. */
export function afterHold(state: MasterState, pool: string): MasterState {
  const now = (known: FileFacts): FileFacts => {
    const { ctime, ...facts } = fileFacts(resolve(pool, known.path));
    return ctime === undefined || factsDiffer(known, { ...facts, ctime: known.ctime })
      ? known
      : { ...known, ctime };
  };
  return { ...state, files: state.files.map(now) };
}

/** Whether a file was changed in any way since its facts were written down, by the date that no program can put back. */
export function hasOldDates(state: MasterState, pool: string): boolean {
  return state.files.some(({ path, ctime }) => {
    const stat = statSync(resolve(pool, path), { bigint: true, throwIfNoEntry: false });
    return ctime !== undefined && stat !== undefined && ctime !== String(stat.ctimeNs);
  });
}

/** The state with these dates as they are now, of files whose samples are what they were. */
export function withNewDates(state: MasterState, pool: string): MasterState {
  const now = (known: FileFacts): FileFacts => {
    // The date is of before the sample: what changes after it is seen the next time.
    const facts = fileFacts(resolve(pool, known.path));
    return known.sample === undefined || facts.ctime === undefined || factsDiffer(known, facts) !== undefined
      ? known
      : { ...known, ctime: facts.ctime };
  };
  return { ...state, files: state.files.map(now) };
}

/**
 * A path as an image in `folder` names it: relative, but absolute for what is below /dev. Both are real paths. A colon in
 * the first part would be taken for a protocol, so a `../` precedes it.
 */
export function pathFrom(folder: string, path: string): string {
  if (path.startsWith('/dev/')) return path;
  const name = relative(folder, path);
  return /^[^/]*:/.test(name) ? `./${name}` : name;
}

/** A file of a master's state that is not as it was. */
export interface MasterChange {
  /** Absolute path. */
  readonly path: string;
  /** In words, for people. */
  readonly what: string;
  readonly gone: boolean;
}

/** Compares the files of a recorded master with what is there. Reads 64 KiB of each. */
export function masterChanges(state: MasterState, pool: string): readonly MasterChange[] {
  const changes: MasterChange[] = [];
  for (const before of state.files) {
    const path = resolve(pool, before.path);
    try {
      const what = factsDiffer(before, fileFacts(path));
      if (what !== undefined) changes.push({ path, what, gone: false });
    } catch (error) {
      if (!(error instanceof DiskError)) throw error;
      const gone = error.code === 'not-found';
      changes.push({ path, what: gone ? 'it is gone' : error.message, gone });
    }
  }
  return changes;
}

export interface DigestOptions {
  readonly onProgress?: OnProgress;
  readonly signal?: AbortSignal;
}

/**
 * The digest of the master's content, computed; throws `changed` when its files changed meanwhile, and `locked`
 * while a program writes to it.
 */
export async function computeContent(master: Master, options: DigestOptions = {}): Promise<string> {
  let content: string;
  {
    await using image = await openImageFile(master.path, { format: master.format, policy: trustedImages });
    content = await contentDigest(image, options);
  }
  for (const before of master.files) {
    const what = factsDiffer(before, fileFacts(before.path));
    if (what === undefined) continue;
    throw new DiskError('changed', `'${before.path}' changed while it was read: ${what}`, {
      path: before.path,
      detail: { fix: 'shut down what writes to it and try again' },
    });
  }
  rememberContent(master, content);
  return content;
}

/** What was computed for this master before, if its files have not been touched since. */
export function rememberedContent(master: Master): string | undefined {
  if (!isDated(master)) return undefined;
  let value: Record<string, unknown> | undefined;
  try {
    value = readJsonFile(contentRecord(master.path), 1024 * 1024);
  } catch (error) {
    // A damaged or unreadable memory is none: it can be computed again.
    if (error instanceof DiskError) return undefined;
    throw error;
  }
  const { content, files } = (value ?? {}) as { content?: unknown; files?: unknown };
  if (typeof content !== 'string' || !content.startsWith(contentDigestPrefix)) return undefined;
  const known = masterFilesOf(files);
  if (known?.length !== master.files.length) return undefined;
  const folder = dirname(master.path);
  const same = master.files.every(
    (one, i) => known[i].path === pathFrom(folder, one.path) && factsDiffer(known[i], one) === undefined,
  );
  return same ? content : undefined;
}

/** Undefined for what is damaged. */
function masterFilesOf(value: unknown): readonly FileFacts[] | undefined {
  const parsed = fileFactsSchema().array().safeParse(value);
  return parsed.success ? parsed.data : undefined;
}

/** A block device has no date that a write would change: nobody can say that what was computed still holds. */
function isDated({ files }: Master): boolean {
  return files.every((one) => one.mtime !== '0');
}

/** Remembers a master's digest beside it, for as long as nothing touches its files. */
export function rememberContent(master: Master, content: string): void {
  if (!isDated(master)) return;
  try {
    writeJsonFile(contentRecord(master.path), { version: 1, content, files: relativeFiles(master) });
  } catch (error) {
    // A folder that cannot be written only costs the next lab the time to compute it again.
    if (!(error instanceof DiskError)) throw error;
  }
}

/** Forgets what was computed for a master that no lab holds any more. */
export function forgetContent(path: string): void {
  rmSync(contentRecord(path), { force: true });
}

/** Where the content of an image is remembered. */
export function contentRecord(path: string): string {
  return join(dirname(path), recordFolder, `${basename(path)}.content.json`);
}

function relativeFiles(master: Master): readonly FileFacts[] {
  const folder = dirname(master.path);
  return master.files.map((one) => ({ ...withSample(one), path: pathFrom(folder, one.path) }));
}

/** The refusal to use seats whose master is not what it was when they were made. */
export function masterChanged(
  lab: { readonly spec: { readonly master: { readonly path: string } } },
  seats: readonly string[],
  what: string,
): DiskError {
  const { path } = lab.spec.master;
  const affected = describeSeats(seats);
  return new DiskError('changed', `The master '${path}' changed since its clones were made: ${what}`, {
    path,
    detail: {
      seats: affected,
      fix: [
        `Affected: ${affected}. Their disks are wrong on a changed master, so nothing was started or altered.`,
        "'cowherd status --verify' compares the whole content: if only a date changed, it says so and all is well.",
        "Else bring the master back from a backup; or 'cowherd reset all --accept-master' makes the seats new.",
      ].join('\n'),
    },
  });
}
