import { chmodSync, chownSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { haveLinuxGuest, makeLinuxGuest } from '../../src/lab/build/small-linux.ts';
import { makeDemoMaster } from '../../src/lab/guest/demo-master.ts';
import { builtProgram } from '../support/built-program.ts';
import { haveLibvirtd, startLibvirtd, type TestLibvirtd } from '../support/libvirtd.ts';
import { have, isRoot, mustRun, run, tempDir } from '../support/programs.ts';
import { LabBench, labBench, poolNames, qemuCheck } from './support.ts';

/** A Linux boot is five seconds of a processor's time under emulation. */
const seats = process.env.COWHERD_LONG === '1' ? 10 : 2;
const names = Array.from({ length: seats }, (_, i) => `student-${String(i + 1).padStart(2, '0')}`);

/** What the guest has said of itself, from the seat's console. */
function heard(bench: LabBench, seat: string): { host: string; instance: string; boots: string } | undefined {
  const log = readFileSync(bench.path('class', `${seat}.log`), 'utf8');
  const line = /cowherd-guest host=(\S+) instance=(\S+) boots=(\d+)/.exec(log);
  return line ? { host: line[1], instance: line[2], boots: line[3] } : undefined;
}

async function untilHeard(bench: LabBench, wanted: readonly string[]): Promise<void> {
  while (!wanted.every((seat) => heard(bench, seat)))
    await new Promise((resolve) => setTimeout(resolve, 250));
}

describe.skipIf(!haveLibvirtd || !haveLinuxGuest())(
  'seats of a small Linux, under libvirt with emulation',
  () => {
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
      await mustRun('qemu-img', [
        'convert',
        '-O',
        'qcow2',
        bench.path('linux.raw'),
        bench.path('masters/linux.qcow2'),
      ]);
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
        if (have('virt-xml-validate'))
          await mustRun('virt-xml-validate', [bench.path('class', file), 'domain']);
      }
      await bench.must('start');
      expect(await states()).toEqual(names.map(() => 'running'));
      await untilHeard(bench, names);
      for (const seat of names) expect(heard(bench, seat)).toMatchObject({ host: seat, boots: '1' });
      expect(new Set(names.map((seat) => heard(bench, seat)!.instance)).size).toBe(seats);

      const before = heard(bench, 'student-01')!;
      expect(await bench.run('reset', 'student-01')).toMatchObject({ code: 1 });
      await bench.must('reset', 'student-01', '--stop', '--start');
      await untilHeard(bench, ['student-01']);
      const after = heard(bench, 'student-01')!;
      expect(after).toMatchObject({ host: 'student-01', boots: '1' });
      expect(after.instance).not.toBe(before.instance);
      expect(await states()).toEqual(names.map(() => 'running'));

      // Without a reset, the seat is the same one, one boot on. Its guest hears the power button.
      expect(await bench.must('stop', 'student-02', '--wait', '120')).toContain('1 seat stopped');
      expect(await virsh('domstate', '--reason', 'class-student-02')).toContain('shut off (shutdown)');
      const same = heard(bench, 'student-02')!;
      await bench.must('start', 'student-02');
      await untilHeard(bench, ['student-02']);
      expect(heard(bench, 'student-02')).toEqual({ ...same, boots: '2' });

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
  },
);

describe.skipIf(!haveLibvirtd)('ten seats of the demo guest, under libvirt with emulation', () => {
  it('each says its own name from its own disk, and how often it has booted', async () => {
    await using libvirtd = await startLibvirtd();
    const bench = new LabBench(libvirtd.dir);
    mkdirSync(bench.path('masters'));
    const master = bench.path('masters/demo.raw');
    await makeDemoMaster(master, { size: 8 * 1024 * 1024, payloadBytes: 0 });
    bench.write('lab.yaml', {
      master,
      seats: 10,
      runner: { libvirt: libvirtd.uri },
      guest: 'demo',
      memory: '16M',
      network: 'none',
      disks: [{ name: 'data', size: '1G' }],
    });
    await bench.must('up');
    const boot = async () => {
      const { started } = await bench.json<{ started: { seat: string; ok: boolean; lines: string[] }[] }>(
        'start',
        '--watch',
      );
      return Object.fromEntries(started.map((one) => [one.seat, one.lines.join('|')]));
    };
    const names = Array.from({ length: 10 }, (_, i) => `student-${String(i + 1).padStart(2, '0')}`);
    const first = await boot();
    for (const seat of names) expect(first[seat]).toBe(`cowherd seat=${seat} boots=1 master=demo`);
    await bench.must('reset', 'student-05');
    const again = await boot();
    for (const seat of names) {
      expect(again[seat]).toBe(`cowherd seat=${seat} boots=${seat === 'student-05' ? 1 : 2} master=demo`);
    }
    expect(poolNames(bench).filter((name) => name.endsWith('+data.qcow2'))).toHaveLength(10);
    await bench.must('down');
    expect((await mustRun('virsh', ['-c', libvirtd.uri, 'list', '--all', '--name'])).trim()).toBe('');
  }, 300_000);
});

describe.skipIf(!have('virsh'))("a lab over libvirt's driver without guests", () => {
  it('defines 200 seats like a domain of its own, in one run', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml', {
      seats: 200,
      runner: { libvirt: 'test:///default' },
      template: 'test',
      cpus: 3,
    });
    const began = performance.now();
    const said = await bench.must('up');
    console.log(`200 seats made and defined in ${Math.round(performance.now() - began)} ms`);
    expect(said).toContain('+ 200 domains to define');
    const xml = readFileSync(bench.path('class/student-117.xml'), 'utf8');
    // Only what the lab file says overrules the template.
    expect(xml).toContain('8388608');
    expect(xml).toMatch(/<vcpu[^>]*>3</);
    expect(xml).toContain(bench.path('class/student-117.qcow2'));
    if (have('virt-xml-validate')) {
      await mustRun('virt-xml-validate', [bench.path('class/student-117.xml'), 'domain']);
    }
    // That driver forgets everything with its connection.
    expect(await bench.must('plan')).toContain('+ 200 domains to define');
  }, 60_000);

  it('says what is wrong with a template, a hypervisor, or a runner that cannot', async () => {
    await using bench = await labBench();
    const told = async (values: Record<string, unknown>) => {
      bench.write('lab.yaml', values);
      return (await bench.run('up')).err;
    };
    const libvirt = { libvirt: 'test:///default' };
    expect(await told({ runner: libvirt, template: 'gone' })).toContain("failed to get domain 'gone'");
    expect(await told({ runner: libvirt, template: './gone.xml' })).toContain('there is no file');
    expect(await told({ runner: { libvirt: 'qemu+unix:///system?socket=/nowhere' } })).toContain(
      'libvirt does not answer at qemu+unix:///system?socket=/nowhere',
    );
    expect(await told({ runner: 'qemu', firmware: 'uefi' })).toContain('firmware needs libvirt here');
    expect(await told({ runner: libvirt, seed: { 'user-data': 'gone' } })).toContain('there is no file');
    expect(await told({ runner: libvirt, seed: { network: { address: '10.0.0.1' } } })).toContain(
      'is no address with its prefix',
    );
  });
});

describe.skipIf(!isRoot || !have('setpriv'))('a disk that libvirt left to another owner', () => {
  it('is reset and removed by whom the folder belongs to', async () => {
    await using dir = await tempDir();
    chmodSync(dir.path, 0o755);
    const [node, program] = await builtProgram(dir.path, 'cowherd', 'cowherd');
    mkdirSync(dir.file('home'));
    writeFileSync(dir.file('home/m.raw'), new Uint8Array(1024 * 1024));
    writeFileSync(dir.file('home/lab.yaml'), 'lab: class\nmaster: m.raw\nseats: 2\nrunner: files\n');
    await mustRun('chown', ['-R', 'nobody', dir.file('home')]);
    const asNobody = (...args: string[]) =>
      mustRun('setpriv', ['--reuid=nobody', '--regid=nogroup', '--clear-groups', node, program, ...args], {
        cwd: dir.file('home'),
        env: { HOME: dir.file('home') },
      });
    await asNobody('up');
    const disk = dir.file('home/class/student-01.qcow2');
    chownSync(disk, 0, 0);
    expect(await asNobody('reset', 'student-01')).toContain('1 seat reset');
    expect(statSync(disk).uid).not.toBe(0);
    chownSync(disk, 0, 0);
    expect(await asNobody('down')).toContain('Removed 2 seats');
  }, 60_000);
});
