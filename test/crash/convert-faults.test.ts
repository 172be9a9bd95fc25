import { readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { cowImg } from '../../src/cli/cow-img.ts';
import { systemError } from '../../src/platform/errno.ts';
import { FileStore } from '../../src/storage/file.ts';
import { testContext } from '../support/cli-context.ts';
import { have, mustRun, run, type TempDir, tempDir } from '../support/programs.ts';

/*
 * `convert` over real files of which any operation fails, on the source or on the target: cow-img says what the system
 * said, the source is as it was, a new target is not there at all (an old one is as it was), and one that is written in
 * place (`-n`) is in order, and takes the same conversion again. qemu-img judges.
 */

/** `ESHORT`: somebody has cut the file off in the midst of what is read. */
type Fault = 'EIO' | 'ENOSPC' | 'ESHORT';

const operations = ['read', 'write', 'zero', 'resize', 'flush', 'extent', 'copyRangeTo'] as const;
const failing: Readonly<Record<Fault, readonly (typeof operations)[number][]>> = {
  EIO: operations,
  ENOSPC: ['write', 'zero', 'resize', 'copyRangeTo'],
  ESHORT: ['read'],
};
const words = { EIO: 'Input/output error', ENOSPC: 'No space left on device', ESHORT: 'Input/output error' };

/** From here on the operation of number `at` fails in this way (and, `lasting`, those after it). */
function plan(fault: Fault, at: number, lasting: boolean): { seen: number; hit: string[] } {
  const count = { seen: 0, hit: [] as string[] };
  for (const operation of operations) {
    const real = FileStore.prototype[operation] as (...args: unknown[]) => Promise<unknown>;
    vi.spyOn(FileStore.prototype, operation).mockImplementation(async function (
      this: FileStore,
      ...args: unknown[]
    ) {
      const counts = fault !== 'ESHORT' || this.path.endsWith('source.qcow2');
      if (counts && failing[fault].includes(operation)) {
        const index = count.seen++;
        if (lasting ? index >= at : index === at) {
          count.hit.push(`${operation} of ${this.name}`);
          if (fault !== 'ESHORT') {
            throw systemError(fault, operation, this.name);
          }
          const [from, into] = args as [number, Uint8Array];
          truncateSync(this.path, from + Math.floor(into.length / 2));
        }
      }
      return real.apply(this, args);
    } as never);
  }
  return count;
}

interface Case {
  readonly name: string;
  readonly line: (target: string) => readonly string[];
  readonly format: string;
  readonly target: 'new' | 'old' | 'in place';
}

const onto =
  (...options: string[]) =>
  (target: string) => ['convert', ...options, 'source.qcow2', target];
const cases: readonly Case[] = [
  { name: 'a new qcow2', line: onto('-O', 'qcow2'), format: 'qcow2', target: 'new' },
  { name: 'a packed qcow2', line: onto('-c', '-O', 'qcow2'), format: 'qcow2', target: 'old' },
  { name: 'a raw image', line: onto('-O', 'raw'), format: 'raw', target: 'old' },
  { name: 'a sparse VMDK', line: onto('-O', 'vmdk'), format: 'vmdk', target: 'new' },
  {
    name: 'a flat VMDK with its extent',
    line: onto('-O', 'vmdk', '-o', 'subformat=monolithicFlat'),
    format: 'vmdk',
    target: 'new',
  },
  { name: 'a VHDX', line: onto('-O', 'vhdx', '-o', 'block_size=1M'), format: 'vhdx', target: 'new' },
  { name: 'a qcow2 that is there', line: onto('-n', '-O', 'qcow2'), format: 'qcow2', target: 'in place' },
  { name: 'a VMDK that is there', line: onto('-n', '-O', 'vmdk'), format: 'vmdk', target: 'in place' },
];

/** Runs of one case and one kind of fault at most; COWHERD_CONVERT_FAULTS=1000 for every operation in turn. */
const most = Number(process.env.COWHERD_CONVERT_FAULTS ?? 5);

describe.skipIf(!have('qemu-img') || !have('qemu-io'))('convert, where any operation may fail', () => {
  let dir: TempDir;
  const home = process.cwd();

  beforeAll(async () => {
    dir = await tempDir('cowherd-faults-');
    await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', 'source.qcow2', '3M'], { cwd: dir.path });
    await mustRun(
      'qemu-io',
      ['-c', 'write -P 1 64k 200k', '-c', 'write -P 2 1M 64k', '-c', 'write -P 3 2900k 60k', 'source.qcow2'],
      { cwd: dir.path },
    );
    process.chdir(dir.path);
  });
  afterEach(() => {
    vi.restoreAllMocks();
  });
  afterAll(async () => {
    process.chdir(home);
    await dir?.remove();
  });

  async function convert(line: readonly string[]) {
    const context = testContext({ program: 'cow-img', cwd: dir.path });
    const code = await cowImg(line, context);
    vi.restoreAllMocks();
    return { code, err: context.err(), out: context.out() };
  }

  for (const { name, line, format, target } of cases) {
    it(`into ${name}`, async () => {
      const source = readFileSync('source.qcow2');
      await mustRun('qemu-img', ['create', '-q', '-f', format, 'empty', '3M']);
      const empty = readFileSync('empty');
      const prepare = (): ReadonlyMap<string, Buffer> => {
        for (const file of readdirSync('.')) if (file !== 'source.qcow2') rmSync(file);
        writeFileSync('source.qcow2', source);
        if (target === 'old') writeFileSync('target', 'what was there');
        if (target === 'in place') writeFileSync('target', empty);
        return new Map(readdirSync('.').map((file) => [file, readFileSync(file)]));
      };
      for (const fault of ['EIO', 'ENOSPC', 'ESHORT'] as const) {
        prepare();
        const all = plan(fault, Number.POSITIVE_INFINITY, false);
        expect(await convert(line('target'))).toEqual({ code: 0, err: '', out: '' });
        await mustRun('qemu-img', ['compare', '-f', 'qcow2', '-F', format, 'source.qcow2', 'target']);
        expect(all.seen).toBeGreaterThan(0);
        const step = Math.max(1, all.seen / most);
        for (let next = 0; next < all.seen; next += step) {
          const at = Math.floor(next);
          const before = prepare();
          const { hit } = plan(fault, at, at % 2 === 1);
          const answer = await convert(line('target'));
          const what = `${fault} at ${at} of ${all.seen} (${hit[0]}): ${answer.err}`;
          expect(hit.length, what).toBeGreaterThan(0);
          if (answer.code === 0) {
            // What could not be read is read once more, in smaller pieces; by then the disk may answer.
            expect([fault, hit.length, hit[0]], what).toEqual(['EIO', 1, 'read of source.qcow2']);
            await mustRun('qemu-img', ['compare', '-f', 'qcow2', '-F', format, 'source.qcow2', 'target']);
            continue;
          }
          expect(answer.code, what).toBe(1);
          expect(answer.err, what).toMatch(/^cow-img: /);
          if (fault !== 'ESHORT') {
            expect(answer.err, what).toContain(words[fault]);
            expect(readFileSync('source.qcow2').equals(source), what).toBe(true);
          }
          if (target !== 'in place') {
            expect(readdirSync('.').sort(), what).toEqual([...before.keys()].sort());
            for (const [file, bytes] of before) {
              if (file !== 'source.qcow2') expect(readFileSync(file).equals(bytes), what).toBe(true);
            }
            continue;
          }
          writeFileSync('source.qcow2', source);
          const check = await run('qemu-img', ['check', '-f', format, 'target']);
          // 3: clusters that nothing uses.
          expect([0, 3], `${what}\n${check.stdout}${check.stderr}`).toContain(check.code);
          expect(await convert(line('target')), what).toMatchObject({ code: 0, err: '' });
          await mustRun('qemu-img', ['compare', '-f', 'qcow2', '-F', format, 'source.qcow2', 'target']);
        }
      }
    });
  }
});
