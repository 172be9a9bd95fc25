import { describe, expect, it } from 'vitest';
import { openLab } from '../../src/lab/lab.ts';
import { FilesRunner } from '../../src/lab/runner/files-runner.ts';
import { flattenSeat } from '../../src/lab/seats/flatten-seat.ts';
import { have, mustRun, run } from '../support/programs.ts';
import { type LabBench, labBench, qemuCheck } from './support.ts';

const qemu = have('qemu-io') && have('qemu-img');
const disk = (bench: LabBench) => bench.path('class/student-01.qcow2');
const io = (path: string, ...commands: string[]) =>
  mustRun('qemu-io', ['-f', 'qcow2', ...commands.flatMap((one) => ['-c', one]), path]);
const info = async (bench: LabBench) =>
  JSON.parse(await mustRun('qemu-img', ['info', '--output', 'json', disk(bench)]));

async function labWithWork(): Promise<LabBench> {
  const bench = await labBench();
  bench.write('lab.yaml', { seats: 1 });
  await bench.must('up');
  await io(disk(bench), 'write -P 7 1M 64k');
  return bench;
}

describe.skipIf(!qemu)('flatten', () => {
  it('refuses a disk with internal snapshots, unless it is told to drop them', async () => {
    await using bench = await labWithWork();
    await mustRun('qemu-img', ['snapshot', '-c', 'thesis', disk(bench)]);
    await io(disk(bench), 'write -P 9 1M 64k');
    const kept = bench.snapshot(disk(bench));
    for (const options of [['--dry-run'], []]) {
      const { code, err } = await bench.run('flatten', 'student-01', ...options);
      expect([code, err]).toEqual([1, expect.stringContaining('thesis')]);
      expect(err).toContain('--drop-snapshots');
    }
    expect(bench.snapshot(disk(bench))).toEqual(kept);
    const dry = await bench.must('flatten', 'student-01', '--drop-snapshots', '--dry-run');
    expect(dry).toContain('thesis');
    expect(bench.snapshot(disk(bench))).toEqual(kept);
    await bench.must('flatten', 'student-01', '--drop-snapshots');
    expect((await info(bench)).snapshots).toBeUndefined();
    await io(disk(bench), 'read -P 9 1M 64k', 'read -P 0x5a 0 1M');
  });

  it('keeps bitmaps', async () => {
    await using bench = await labWithWork();
    await mustRun('qemu-img', ['bitmap', '--add', disk(bench), 'since-monday']);
    await io(disk(bench), 'write -P 9 8M 64k');
    const before = (await info(bench))['format-specific'].data.bitmaps;
    expect(before).toMatchObject([{ name: 'since-monday', flags: ['auto'] }]);
    await bench.must('flatten', 'student-01');
    await qemuCheck(disk(bench));
    expect((await info(bench))['format-specific'].data.bitmaps).toEqual(before);
  });

  /** Flattens while something else happens between the copy and its place. */
  async function meddled(bench: LabBench, work: () => Promise<unknown>): Promise<void> {
    let done = false;
    class Meddler extends FilesRunner {
      override async domainType(): Promise<undefined> {
        // Asked first when the definition is loosened: the copy is made then.
        if (!done) await work();
        done = true;
      }
    }
    await using runner = new Meddler();
    await flattenSeat(openLab('lab.yaml', bench.dir.path), 'student-01', { runner });
  }

  it('lets nobody write to the disk between the copy and its place', async () => {
    await using bench = await labWithWork();
    const codes: number[] = [];
    const write = ['-f', 'qcow2', '-c', 'write -P 5 5M 64k', disk(bench)];
    await meddled(bench, async () => codes.push((await run('qemu-io', write)).code ?? -1));
    expect(codes[0]).toBe(1);
    await io(disk(bench), 'read -P 0 5M 64k', 'read -P 7 1M 64k');
  });

  it('does not replace a disk that was written to meanwhile, by a program without locks', async () => {
    await using bench = await labWithWork();
    const options = `driver=qcow2,file.filename=${disk(bench)},file.locking=off`;
    const write = ['--image-opts', options, '-c', 'write -P 5 5M 64k'];
    await expect(meddled(bench, () => mustRun('qemu-io', write))).rejects.toMatchObject({ code: 'changed' });
    await io(disk(bench), 'read -P 5 5M 64k', 'read -P 7 1M 64k');
    expect(await info(bench)).toHaveProperty('backing-filename');
  });
});
