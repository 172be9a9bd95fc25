import { chmodSync, mkdirSync, readFileSync, statSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { haveLibvirtd, startLibvirtd, type TestLibvirtd } from '../support/libvirtd.ts';
import { haveLinuxGuest, makeLinuxGuest } from '../support/linux-guest.ts';
import { have, mustRun, run } from '../support/programs.ts';
import { LabBench, poolNames, qemuCheck } from './support.ts';

const seats = 10;
const names = Array.from({ length: seats }, (_, i) => `student-${String(i + 1).padStart(2, '0')}`);

/** What the guest has said of itself, from the seat's console. */
function heard(bench: LabBench, seat: string): { host: string; instance: string; boots: string } | undefined {
  const log = readFileSync(bench.path('class', `${seat}.log`), 'utf8');
  const line = /cowherd-guest host=(\S+) instance=(\S+) boots=(\d+)/.exec(log);
  return line ? { host: line[1], instance: line[2], boots: line[3] } : undefined;
}

async function untilHeard(bench: LabBench, wanted: readonly string[]): Promise<void> {
  while (!wanted.every((seat) => heard(bench, seat))) await new Promise((resolve) => setTimeout(resolve, 250));
}

describe.skipIf(!haveLibvirtd || !haveLinuxGuest())('ten seats of a small Linux, under libvirt with emulation', () => {
  let libvirtd: TestLibvirtd;
  let bench: LabBench;
  const virsh = (...args: string[]) => mustRun('virsh', ['-c', libvirtd.uri, ...args]);
  const states = async () =>
    (await bench.json<{ seats: { state: string }[] }>('status')).seats.map((seat) => seat.state);

  beforeAll(async () => {
    libvirtd = await startLibvirtd();
    bench = new LabBench(libvirtd.dir);
    mkdirSync(bench.path('masters'));
    await makeLinuxGuest(libvirtd.dir, bench.path('linux.raw'));
    await mustRun('qemu-img', ['convert', '-O', 'qcow2', bench.path('linux.raw'), bench.path('masters/linux.qcow2')]);
    chmodSync(bench.path('masters/linux.qcow2'), 0o644);
    bench.write('lab.yaml', {
      master: 'masters/linux.qcow2',
      seats,
      runner: { libvirt: libvirtd.uri },
      memory: '96M',
      network: 'user',
      seed: { users: [{ name: 'student' }] },
    });
  }, 60_000);
  afterAll(async () => {
    await bench?.run('down', '--stop');
    await libvirtd?.[Symbol.asyncDispose]();
  }, 60_000);

  it('each answers with its own name, from its own disk; one is reset while the others run', async () => {
    const masterBefore = statSync(bench.path('masters/linux.qcow2'));
    expect(await bench.must('plan')).toContain(`+ ${seats} domains to define`);
    await bench.must('up');
    expect(await bench.must('up')).toContain('nothing to do');
    for (const seat of names) {
      const xml = await virsh('dumpxml', '--inactive', `class-${seat}`);
      expect(xml).toContain("type='qemu'");
      expect(xml).toContain(`name="${seat}"`);
    }
    for (const file of poolNames(bench).filter((name) => name.endsWith('.xml'))) {
      if (have('virt-xml-validate')) await mustRun('virt-xml-validate', [bench.path('class', file), 'domain']);
    }
    await bench.must('start');
    expect(await states()).toEqual(names.map(() => 'running'));
    await untilHeard(bench, names);
    for (const seat of names) expect(heard(bench, seat)).toMatchObject({ host: seat, boots: '1' });
    expect(new Set(names.map((seat) => heard(bench, seat)!.instance)).size).toBe(seats);

    const before = heard(bench, 'student-03')!;
    expect(await bench.run('reset', 'student-03')).toMatchObject({ code: 1 });
    await bench.must('reset', 'student-03', '--stop', '--start');
    await untilHeard(bench, ['student-03']);
    const after = heard(bench, 'student-03')!;
    expect(after).toMatchObject({ host: 'student-03', boots: '1' });
    expect(after.instance).not.toBe(before.instance);
    expect(await states()).toEqual(names.map(() => 'running'));

    // Without a reset, the seat is the same one, one boot on. Its guest hears the power button.
    expect(await bench.must('stop', 'student-04', '--wait', '120')).toContain('1 seat stopped');
    expect(await virsh('domstate', '--reason', 'class-student-04')).toContain('shut off (shutdown)');
    const same = heard(bench, 'student-04')!;
    await bench.must('start', 'student-04');
    await untilHeard(bench, ['student-04']);
    expect(heard(bench, 'student-04')).toEqual({ ...same, boots: '2' });

    await bench.must('stop', '--now');
    expect(await states()).toEqual(names.map(() => 'off'));
    for (const seat of names) await qemuCheck(bench.path('class', `${seat}.qcow2`));
    expect(await bench.must('status', '--verify')).toContain('as it was (its whole content compared)');
    // libvirt has left the master with its owner.
    expect(statSync(bench.path('masters/linux.qcow2')).uid).toBe(masterBefore.uid);
    await bench.must('down');
    expect((await virsh('list', '--all', '--name')).trim()).toBe('');
    expect((await run('ls', [bench.path('class')])).code).not.toBe(0);
  }, 600_000);
});
