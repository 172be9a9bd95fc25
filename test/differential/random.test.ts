import fc from 'fast-check';
import { afterAll, describe, expect, it } from 'vitest';
import { cowImg } from '../../src/cli/cow-img.ts';
import { testContext } from '../support/cli-context.ts';
import { have, mustRun, run, tempDir } from '../support/programs.ts';

/*
 * Random chains made by qemu-io: map, compare and convert of both programs over the same files. COWHERD_RUNS sets how
 * many chains are tried.
 */

const runs = Number(process.env.COWHERD_RUNS ?? 12);
const home = process.cwd();
const kib = 1024;

interface Write {
  readonly kind: 'data' | 'zero' | 'discard' | 'packed';
  /** Sectors. */
  readonly at: number;
  readonly length: number;
  readonly fill: number;
}

interface Level {
  readonly clusterBits: number;
  readonly version: '0.10' | '1.1';
  readonly metadata: boolean;
  /** Bytes past the base's size, in units of 64 KiB; may be negative. */
  readonly longer: number;
  readonly writes: readonly Write[];
}

const write = fc.record<Write>({
  kind: fc.constantFrom('data', 'data', 'data', 'zero', 'discard', 'packed'),
  at: fc.nat(4000),
  length: fc.oneof(fc.integer({ min: 1, max: 40 }), fc.integer({ min: 1, max: 1500 })),
  fill: fc.integer({ min: 0, max: 255 }),
});
const writes = fc.array(write, { maxLength: 8 });
const level = fc.record<Level>({
  clusterBits: fc.constantFrom(9, 10, 12, 14, 16, 18),
  version: fc.constantFrom('1.1', '1.1', '0.10'),
  metadata: fc.boolean(),
  longer: fc.integer({ min: -8, max: 8 }),
  writes,
});
const chain = fc.record({
  rawWrites: writes,
  oddBytes: fc.constantFrom(0, 0, 100, 511),
  levels: fc.array(level, { minLength: 1, maxLength: 3 }),
  sparse: fc.constantFrom('', '-S 0', '-S 512', '-S 64k'),
});

function commands(list: readonly Write[], size: number, clusterBytes: number): string[] {
  const found: string[] = [];
  for (const { kind, at, length, fill } of list) {
    let offset = at * 512;
    let bytes = length * 512;
    if (kind === 'packed') {
      offset -= offset % clusterBytes;
      bytes = clusterBytes;
    }
    bytes = Math.min(bytes, size - (size % 512) - offset);
    if (bytes <= 0 || (kind === 'packed' && (clusterBytes === 1 || bytes < clusterBytes))) continue;
    const verb = {
      data: `write -P ${fill}`,
      zero: 'write -z',
      discard: 'discard',
      packed: `write -c -P ${fill}`,
    };
    found.push('-c', `${verb[kind]} ${offset} ${bytes}`);
  }
  return found;
}

async function build(directory: string, drawn: typeof chain extends fc.Arbitrary<infer T> ? T : never) {
  const inHere = { cwd: directory };
  let size = 2048 * kib;
  await mustRun('qemu-img', ['create', '-q', '-f', 'raw', 'level0', String(size)], inHere);
  await run('qemu-io', ['-f', 'raw', ...commands(drawn.rawWrites, size, 1), 'level0'], inHere);
  if (drawn.oddBytes > 0) await mustRun('truncate', ['-s', `-${drawn.oddBytes}`, 'level0'], inHere);
  const names = ['level0'];
  for (const [index, { clusterBits, version, longer, writes: list }] of drawn.levels.entries()) {
    const name = `level${index + 1}`;
    size = Math.max(64 * kib, size + longer * 64 * kib);
    const options = `compat=${version},cluster_size=${2 ** clusterBits}`;
    const backing = ['-b', names[index], '-F', index === 0 ? 'raw' : 'qcow2'];
    await mustRun(
      'qemu-img',
      ['create', '-q', '-f', 'qcow2', '-o', options, ...backing, name, String(size)],
      inHere,
    );
    await run('qemu-io', ['-f', 'qcow2', ...commands(list, size, 2 ** clusterBits), name], inHere);
    names.push(name);
  }
  if (drawn.levels[0].metadata) {
    const options = `preallocation=metadata,cluster_size=${2 ** drawn.levels[0].clusterBits}`;
    await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', options, 'alone', '2M'], inHere);
    await run('qemu-io', ['-f', 'qcow2', ...commands(drawn.rawWrites, 2048 * kib, 1), 'alone'], inHere);
    names.push('alone');
  }
  // Space that was set aside and never written counts as data once its pages are cached, so answers about it depend
  // on who read the file before. A copy has holes in its place.
  for (const name of names) {
    await mustRun('cp', [name, 'copy'], inHere);
    await mustRun('mv', ['copy', name], inHere);
  }
  return names;
}

async function ours(directory: string, args: readonly string[]) {
  process.chdir(directory);
  const context = testContext({ program: 'qemu-img', cwd: directory });
  const code = await cowImg(args, context);
  return { stdout: context.out(), stderr: context.err(), code };
}

async function equalAnswers(directory: string, line: string): Promise<void> {
  const args = line.split(' ').filter((word) => word !== '');
  const theirs = await run('qemu-img', args, { cwd: directory });
  expect(await ours(directory, args), line).toEqual(theirs);
}

describe.skipIf(!have('qemu-img') || !have('qemu-io'))('random chains', () => {
  afterAll(() => process.chdir(home));

  it(`${runs} of them read alike`, { timeout: 60_000 + runs * 20_000 }, async () => {
    await fc.assert(
      fc.asyncProperty(chain, async (drawn) => {
        await using directory = await tempDir('cowherd-random-');
        const here = directory.path;
        const names = await build(here, drawn);
        for (const name of names) {
          await equalAnswers(here, `map --output=json ${name}`);
          await equalAnswers(here, `map ${name}`);
          await equalAnswers(here, `map -s 100001 -l 300003 --output=json ${name}`);
        }
        const top = names[drawn.levels.length];
        for (const other of names) {
          for (const strict of ['', '-s', '-p'])
            await equalAnswers(here, `compare ${strict} ${top} ${other}`);
        }
        await convertAlike(here, top, drawn.sparse);
        process.chdir(home);
      }),
      { numRuns: runs, endOnFailure: true },
    );
  });
});

/** To raw the files must be equal, holes included; to qcow2 they must read alike and be sound. */
async function convertAlike(here: string, top: string, sparse: string): Promise<void> {
  const convert = async (options: string, format: string) => {
    const line = (target: string) =>
      `convert ${sparse} ${options} -O ${format} ${top} ${target}`.split(' ').filter(Boolean);
    await mustRun('qemu-img', line('theirs'), { cwd: here });
    expect(await ours(here, line('ours')), options).toEqual({ stdout: '', stderr: '', code: 0 });
    await mustRun('qemu-img', ['compare', '-f', format, '-F', format, 'theirs', 'ours'], { cwd: here });
  };
  await convert('', 'raw');
  await mustRun('cmp', ['theirs', 'ours'], { cwd: here });
  const map = (name: string) =>
    mustRun('qemu-img', ['map', '-f', 'raw', '--output=json', name], { cwd: here });
  expect(await map('ours')).toBe(await map('theirs'));
  for (const options of ['', '-c', '-o cluster_size=4k', '-W -m 8']) {
    await convert(options, 'qcow2');
    await mustRun('qemu-img', ['check', '-q', 'ours'], { cwd: here });
  }
}
