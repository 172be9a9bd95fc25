import { lstatSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { cowImg } from '../../src/cli/cow-img.ts';
import { testContext } from '../support/cli-context.ts';
import { have, mustRun, openQemuIo, run, tempDir } from '../support/programs.ts';
import type { DifferenceId } from './differences.ts';
import { normalised } from './normalise.ts';
import { buildWorld } from './world.ts';

/*
 * Runs one command line through the installed qemu-img and through cow-img, in two identical copies of a prepared
 * directory (world.ts), and compares stdout, stderr, exit code, and the files that result.
 *
 * A row is the line as one would type it after `qemu-img`; single and double quotes group words, and `$PWD` is the
 * directory. Lines run in order, each on a fresh copy (unless the table only reads). A line whose answer
 * differs names its entry of differences.ts and says what ours answers.
 */

export interface Row {
  readonly line: string;
  /** Why the answers differ, and what ours is: the exit code, and a part of stderr (or of stdout). */
  readonly differs?: DifferenceId;
  readonly ours?: { readonly code: number; readonly stderr?: string; readonly stdout?: string };
  /** What a qemu-io holds open meanwhile: its arguments, mostly a file of the world (for writing). */
  readonly held?: string;
  /**
   * How equal the files must be afterwards: 'bytes' (default), or 'contents': equal to qemu-img compare, clean to its
   * check, equal to its info. 'info': only that, for an image whose backing file is not there.
   */
  readonly files?: 'bytes' | 'contents' | 'info';
  /** The format that a judge is told of a file whose bytes differ; absent: it probes. */
  readonly format?: string;
  /** The answers are equal, and the files are not: ours are as they were before. */
  readonly filesDiffer?: DifferenceId;
  /** The same, if both refuse; if they do not, the files are equal. */
  readonly filesDifferIfRefused?: DifferenceId;
}

export interface TableOptions {
  /** The lines change nothing: both programs work in one directory, and that it did not change is checked. */
  readonly readOnly?: boolean;
  /** Makes the directory that the lines work in, at a path that does not exist; default `buildWorld`. */
  readonly world?: (path: string) => Promise<void>;
  /**
   * Keys of `info`'s format-specific data (at any depth) that are never the same twice: identifiers and times that
   * are made up when an image is.
   */
  readonly volatile?: readonly string[];
}

interface Answer {
  readonly stdout: string;
  readonly stderr: string;
  readonly code: number;
}

/** A describe block with one test a row. */
export function lines(title: string, rows: readonly (string | Row)[], options: TableOptions = {}): void {
  describe.skipIf(!have('qemu-img') || !have('qemu-io'))(title, () => {
    let world: string;
    let before: Map<string, string>;
    const home = process.cwd();

    beforeAll(async () => {
      world = await sharedWorld(options.world ?? buildWorld);
      before = listing(world);
    });

    afterAll(() => {
      process.chdir(home);
      expect(listing(world), 'the prepared directory was changed').toEqual(before);
    });

    for (const entry of rows) {
      const row: Row = typeof entry === 'string' ? { line: entry } : entry;
      it(short(row.line), async () => {
        if (options.readOnly) {
          await compareAnswers(row, world, world);
          return;
        }
        await using copies = await tempDir('cowherd-line-');
        const here = entriesFor(row, world);
        for (const copy of ['a', 'b']) {
          await copyEntries(here, world, copies.file(copy));
        }
        const code = await compareAnswers(row, copies.file('a'), copies.file('b'));
        if (row.filesDiffer || (row.filesDifferIfRefused && code !== 0)) {
          rmSync(copies.file('a'), { recursive: true });
          await copyEntries(here, world, copies.file('a'));
          await compareFiles(row, copies.file('a'), copies.file('b'), options.volatile);
        } else if (row.differs === undefined)
          await compareFiles(row, copies.file('a'), copies.file('b'), options.volatile);
      });
    }
  });
}

type WorldBuilder = (path: string) => Promise<void>;
const built = new Map<WorldBuilder, Promise<string>>();

afterAll(async () => {
  for (const world of built.values()) rmSync(dirname(await world), { recursive: true, force: true });
});

/** The prepared directory, built once for all tables of a test file. */
function sharedWorld(build: WorldBuilder): Promise<string> {
  const known = built.get(build);
  if (known) return known;
  const made = (async () => {
    const place = mkdtempSync(join(tmpdir(), 'cowherd-world-'));
    await build(join(place, 'world'));
    return join(place, 'world');
  })();
  built.set(build, made);
  return made;
}

/** Entries of the world that stand on each other: copied together. */
const chained =
  'a,b c.qcow2 dir dangling.qcow2 grandchild.qcow2 link.qcow2 loop1.qcow2 loop2.qcow2 mid.qcow2 noformat.qcow2 ' +
  'orphan.qcow2 overraw.qcow2 overv2.qcow2 plain.qcow2 prefixed.qcow2 raw.img remote.qcow2 short.qcow2 top.qcow2 ' +
  'wrongformat.qcow2';

/** What a line can touch: the entries that it names, and with one of a chain all of the chains. */
function entriesFor(row: Row, world: string): string[] {
  const text = `${row.line} ${row.held ?? ''}`;
  const entries = readdirSync(world);
  const named = entries.filter((name) => text.includes(name));
  if (!named.some((name) => chained.includes(name))) return named;
  return entries.filter((name) => named.includes(name) || chained.includes(name));
}

async function copyEntries(names: readonly string[], from: string, to: string): Promise<void> {
  mkdirSync(to);
  if (names.length > 0) await mustRun('cp', ['-a', '--sparse=always', '--', ...names, to], { cwd: from });
}

/** A line as a test's title. */
function short(line: string): string {
  return line.length > 100 ? `${line.slice(0, 60)} … (${line.length} characters)` : line;
}

/** Gives the exit code of qemu-img. */
async function compareAnswers(row: Row, theirDirectory: string, ourDirectory: string): Promise<number> {
  const theirs = await holding(row, theirDirectory, () => runTheirs(row, theirDirectory));
  const ours = await holding(row, ourDirectory, () => runOurs(row.line, ourDirectory));
  if (row.differs === undefined) {
    expect(normalised(ours, ourDirectory), row.line).toEqual(normalised(theirs, theirDirectory));
    return theirs.code;
  }
  expect(normalised(ours, ourDirectory), `${row.line}: the difference is gone`).not.toEqual(
    normalised(theirs, theirDirectory),
  );
  expect(row.ours, `${row.line}: what ours answers must be said`).toBeDefined();
  expect(ours).toMatchObject({
    code: row.ours!.code,
    stderr: expect.stringContaining(row.ours!.stderr ?? ''),
    stdout: expect.stringContaining(row.ours!.stdout ?? ''),
  });
  return theirs.code;
}

async function holding<T>(row: Row, directory: string, work: () => Promise<T>): Promise<T> {
  if (row.held === undefined) return work();
  await using _holder = await openQemuIo(row.held.split(' '), directory);
  return await work();
}

/** Differences of which qemu-img's side is that it never answers: it gets a moment, and the exit code is 137. */
const hanging: readonly (DifferenceId | undefined)[] = ['fifo', 'backing-loop', 'bench-nothing'];

function runTheirs(row: Row, directory: string): Promise<Answer> {
  const timeout = hanging.includes(row.differs) ? 500 : 100_000;
  return run('qemu-img', words(row.line, directory), { cwd: directory, timeout });
}

async function runOurs(line: string, directory: string): Promise<Answer> {
  process.chdir(directory);
  const context = testContext({ program: 'qemu-img', cwd: directory });
  const code = await cowImg(words(line, directory), context);
  return { stdout: context.out(), stderr: context.err(), code };
}

/** Takes a line apart as a shell does, as far as quotes and `$PWD` go. */
export function words(line: string, directory: string): string[] {
  const found: string[] = [];
  for (const match of line.matchAll(/(?:'[^']*'|"[^"]*"|[^\s'"])+/g)) {
    found.push(match[0].replace(/'([^']*)'|"([^"]*)"/g, (_all, single, double) => single ?? double ?? ''));
  }
  return found.map((word) => word.replaceAll('$PWD', directory));
}

/** Each path below `directory` with what it is: type, permissions, size, times, link target. */
function listing(directory: string): Map<string, string> {
  const found = new Map<string, string>();
  for (const path of paths(directory)) {
    const stats = lstatSync(join(directory, path));
    found.set(path, [kindOf(directory, path), stats.size, stats.mtimeMs, stats.ino].join(' '));
  }
  return found;
}

function paths(directory: string): string[] {
  return readdirSync(directory, { recursive: true, encoding: 'utf8' }).sort();
}

function kindOf(directory: string, path: string): string {
  const stats = lstatSync(join(directory, path));
  const link = stats.isSymbolicLink() ? readlinkSync(join(directory, path)) : '';
  return `${stats.mode.toString(8)} ${link}`;
}

async function compareFiles(
  row: Row,
  theirs: string,
  ours: string,
  volatile: readonly string[] = [],
): Promise<void> {
  const kinds = (directory: string) => paths(directory).map((path) => `${path} ${kindOf(directory, path)}`);
  expect(kinds(ours), `${row.line}: files`).toEqual(kinds(theirs));
  for (const path of paths(theirs)) {
    const [their, our] = [join(theirs, path), join(ours, path)];
    if (!lstatSync(their).isFile() || (await sameBytes(their, our))) continue;
    if (row.files !== 'contents' && row.files !== 'info') {
      throw new Error(`${row.line}: the bytes of ${path} differ`);
    }
    const info = await infoOf(our, ours, row.format, volatile);
    expect(info, path).toEqual(await infoOf(their, theirs, row.format, volatile));
    if (row.files === 'contents') await compareImages(String(info.format), their, our);
  }
}

/** Copies keep the time of the original, so two files of one time were not touched. */
async function sameBytes(a: string, b: string): Promise<boolean> {
  const [first, second] = [lstatSync(a, { bigint: true }), lstatSync(b, { bigint: true })];
  if (first.size !== second.size) return false;
  if (first.mtimeNs === second.mtimeNs) return true;
  if (first.size <= 64n * 1024n * 1024n) {
    const [one, other] = [readFileSync(a), readFileSync(b)];
    // Copies have paths of one length: an image may name its own directory.
    return (
      one.equals(other) ||
      one.toString('latin1').replaceAll(dirname(a), dirname(b)) === other.toString('latin1')
    );
  }
  // Large and sparse: qemu-img skips the holes.
  return (await run('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', a, b])).code === 0;
}

/** What qemu-img says of an image in `directory`, without what depends on where and how it is stored. */
async function infoOf(
  image: string,
  directory: string,
  format: string | undefined,
  volatile: readonly string[],
): Promise<Record<string, unknown>> {
  const how = format === undefined ? [] : ['-f', format];
  const text = await mustRun('qemu-img', ['info', '-U', ...how, '--output=json', image]);
  const info = JSON.parse(text.replaceAll(directory, '$PWD'), (key, value) =>
    volatile.includes(key) ? undefined : value,
  );
  // A snapshot that the line took has the moment's date.
  for (const snapshot of info.snapshots ?? []) {
    delete snapshot['date-sec'];
    delete snapshot['date-nsec'];
  }
  // A new VMDK image has a random content ID.
  delete info['format-specific']?.data?.cid;
  return {
    ...info,
    filename: undefined,
    'actual-size': undefined,
    'full-backing-filename': undefined,
  };
}

/** Two images that may lie differently in their files, judged by qemu-img. */
async function compareImages(format: string, their: string, our: string): Promise<void> {
  await mustRun('qemu-img', ['compare', '-f', format, '-F', format, their, our]);
  if (format === 'raw') return;
  const { code, stdout, stderr } = await run('qemu-img', ['check', '-f', format, our]);
  // 63: the format has nothing to check.
  if (code !== 63) expect({ code, stdout, stderr }, `check of ${our}`).toMatchObject({ code: 0, stderr: '' });
}
