import { mkdirSync, readFileSync, rmdirSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { openLab } from '../../src/lab/lab.ts';
import { recordsFor } from '../../src/platform/dependents.ts';
import { haveLibvirtd, startLibvirtd, type TestLibvirtd } from '../support/libvirtd.ts';
import { unmount } from '../support/mounts.ts';
import { isRoot, mustRun, run, tempDir } from '../support/programs.ts';
import { LabBench, labBench } from './support.ts';

/** A disk that can be mounted at `usb` of a bench, and unmounted. */
async function usbOf(bench: LabBench) {
  const [disk, usb] = [bench.path('disk'), bench.path('usb')];
  for (const folder of [disk, usb]) mkdirSync(folder, { recursive: true });
  const { code } = await run('mount', ['-t', 'tmpfs', 'none', disk]);
  const mount = () => mustRun('mount', ['--bind', disk, usb]);
  if (code === 0) await mount();
  return {
    there: code === 0,
    mount,
    unmount: () => unmount(usb),
    async [Symbol.asyncDispose]() {
      for (const folder of [usb, disk]) await unmount(folder).catch(() => undefined);
    },
  };
}

describe.skipIf(!haveLibvirtd)('a pool that was copied from a disk that is not mounted', () => {
  let libvirtd: TestLibvirtd;
  let bench: LabBench;
  let usb: Awaited<ReturnType<typeof usbOf>>;
  const write = (file: string, pool: string, master = 'masters/m.raw') =>
    bench.write(file, {
      seats: 2,
      network: 'none',
      pool,
      master,
      runner: { libvirt: libvirtd.uri },
    });
  const dump = () =>
    mustRun('virsh', ['-c', libvirtd.uri, 'dumpxml', '--inactive', '--security-info', 'class-student-01']);
  const domains = async () =>
    (await mustRun('virsh', ['-c', libvirtd.uri, 'list', '--all', '--name'])).trim();

  beforeAll(async () => {
    libvirtd = await startLibvirtd();
    bench = new LabBench(libvirtd.dir);
    mkdirSync(bench.path('masters'));
    writeFileSync(bench.path('masters/m.raw'), new Uint8Array(1024 * 1024).fill(7));
  }, 60_000);
  beforeEach(async ({ skip }) => {
    usb = await usbOf(bench);
    if (!usb.there) skip('mounting is not allowed here');
    write('lab.yaml', 'usb/class');
    await bench.must('up');
  });
  afterEach(async () => {
    await bench.run('down', 'copy.yaml');
    await bench.run('down', 'lab.yaml', '--forget-gone');
    await usb[Symbol.asyncDispose]();
    expect(await domains()).toBe('');
  });
  afterAll(() => libvirtd?.[Symbol.asyncDispose](), 60_000);

  /** Every verb that would tell libvirt of the copy says what is in the way, and changes no domain. */
  async function refusesAll(): Promise<void> {
    const before = await dump();
    for (const verb of [['plan'], ['up', '--dry-run'], ['up'], ['start', 'student-01']]) {
      const [name, ...rest] = verb;
      const { code, out, err } = await bench.run(name, 'copy.yaml', ...rest);
      expect([verb, code, out + err]).toEqual([
        verb,
        1,
        expect.stringMatching(/made by the seat of '.*usb(?:.|\n)*mounted\?(?:.|\n)*up --forget-gone/),
      ]);
    }
    expect(await dump()).toBe(before);
  }

  it('takes over none of its domains, and becomes the one where that is said', async () => {
    await mustRun('cp', ['-a', bench.path('usb/class'), bench.path('copy')]);
    write('copy.yaml', 'copy');
    await usb.unmount();
    await refusesAll();
    // What is written into the copy by others proves no more.
    await bench.must('reset', 'copy.yaml', 'student-01');
    await refusesAll();
    await usb.mount();
    expect(await bench.must('up', 'lab.yaml')).toContain('nothing to do');
    expect((await bench.run('up', 'copy.yaml')).err).toContain('two labs of one name');
    expect((await bench.run('up', 'copy.yaml', '--forget-gone')).err).toContain('two labs of one name');
    await usb.unmount();
    const before = await dump();
    expect(await bench.must('plan', 'copy.yaml', '--forget-gone')).toContain('2 domains to define');
    expect(await dump()).toBe(before);
    await bench.must('up', 'copy.yaml', '--forget-gone');
    expect(await dump()).toContain(bench.path('copy/student-01.qcow2'));
    expect(await bench.must('up', 'copy.yaml')).toContain('nothing to do');
    // Cut off before it told libvirt.
    for (const name of ['class-student-01', 'class-student-02'])
      await mustRun('virsh', ['-c', libvirtd.uri, 'undefine', name]);
    writeFileSync(bench.path('d.xml'), before);
    await mustRun('virsh', ['-c', libvirtd.uri, 'define', bench.path('d.xml')]);
    await bench.must('up', 'copy.yaml');
    expect(await dump()).toContain(bench.path('copy/student-01.qcow2'));
    await usb.mount();
    expect((await bench.run('up', 'lab.yaml')).err).toContain('two labs of one name');
  });

  it('takes over none where its masters were copied with it', async () => {
    mkdirSync(bench.path('usb/course/masters'), { recursive: true });
    await mustRun('cp', [bench.path('masters/m.raw'), bench.path('usb/course/masters/m.raw')]);
    await bench.must('down');
    write('usb/course/lab.yaml', 'class');
    await bench.must('up', 'usb/course/lab.yaml');
    await mustRun('cp', ['-a', bench.path('usb/course'), bench.path('course')]);
    write('copy.yaml', 'course/class', 'course/masters/m.raw');
    await usb.unmount();
    await refusesAll();
    await bench.must('up', 'copy.yaml', '--forget-gone');
    expect(await dump()).toContain(bench.path('course/class/student-01.qcow2'));
    await bench.must('down', 'copy.yaml');
  });

  it('is known for what it is where it was moved there by hand', async () => {
    await mustRun('mv', [bench.path('usb/class'), bench.path('copy')]);
    write('copy.yaml', 'copy');
    await bench.must('up', 'copy.yaml');
    expect(await dump()).toContain(bench.path('copy/student-01.qcow2'));
    await mustRun('mv', [bench.path('copy'), bench.path('usb/class')]);
    await bench.must('up', 'lab.yaml');
    expect(await dump()).toContain(bench.path('usb/class/student-01.qcow2'));
    // The same disk, mounted elsewhere.
    mkdirSync(bench.path('usb2'), { recursive: true });
    await usb.unmount();
    await mustRun('mount', ['--bind', bench.path('disk'), bench.path('usb2')]);
    try {
      write('copy.yaml', 'usb2/class');
      await bench.must('up', 'copy.yaml');
      expect(await dump()).toContain(bench.path('usb2/class/student-01.qcow2'));
      await bench.must('down', 'copy.yaml');
    } finally {
      await unmount(bench.path('usb2'));
    }
  });

  it('is no copy where move brought it there', async () => {
    await bench.must('move', 'usb/class', bench.path('copy'), '.');
    await usb.unmount();
    expect(await bench.must('up', 'lab.yaml')).toContain('nothing to do');
    await bench.must('down', 'lab.yaml');
  });
});

describe.skipIf(!isRoot)('a pool whose copy is used while its disk is not mounted', () => {
  it('keeps its names on the master', async ({ skip }) => {
    await using bench = await labBench();
    await using usb = await usbOf(bench);
    if (!usb.there) skip('mounting is not allowed here');
    const lab = (file: string, pool: string) => bench.write(file, { seats: 2, pool });
    lab('lab.yaml', 'usb/class');
    await bench.must('up');
    await mustRun('cp', ['-a', bench.path('usb/class'), bench.path('copy')]);
    lab('copy.yaml', 'copy');
    const id = () => openLab(bench.path('copy.yaml'), bench.path()).id;
    const own = id();
    expect(own).not.toBe(openLab(bench.path('lab.yaml'), bench.path()).id);
    const folder = () => JSON.parse(readFileSync(bench.path('copy/.cowherd/lab-class.json'), 'utf8')).folder;
    const before = folder();
    await usb.unmount();
    expect(id()).toBe(own);
    await bench.must('up', 'copy.yaml');
    const disks = (pool: string) => [1, 2].map((n) => bench.path(pool, `student-0${n}.qcow2`));
    const recorded = () =>
      recordsFor(bench.path('masters/m.raw'))
        .flatMap(({ dependents }) => dependents)
        .sort();
    expect(recorded()).toEqual([...disks('copy'), ...disks('usb/class')]);
    // Nothing but a claim makes of a copy what it was copied from.
    expect(folder()).toMatchObject(before);
    await bench.must('down', 'copy.yaml');
    expect(recorded()).toEqual(disks('usb/class'));
    await usb.mount();
    expect(await bench.must('up')).toContain('nothing to do');
    await bench.must('down');
    expect(recorded()).toEqual([]);
  });

  it('takes the names of the original off the master where that is gone for good', async ({ skip }) => {
    await using bench = await labBench();
    await using usb = await usbOf(bench);
    if (!usb.there) skip('mounting is not allowed here');
    const recorded = () =>
      recordsFor(bench.path('masters/m.raw'))
        .flatMap(({ dependents }) => dependents)
        .map((path) => path.slice(bench.path().length));
    const copied = async () => {
      bench.write('lab.yaml', { seats: 1, pool: 'usb/class' });
      await bench.must('up');
      await mustRun('cp', ['-a', bench.path('usb/class'), bench.path('copy')]);
      await usb.unmount();
      bench.write('lab.yaml', { seats: 1, pool: 'copy' });
    };
    await copied();
    // Its names are kept by who does not say so, and found by who says it later.
    expect((await bench.run('up')).out).toContain('up --forget-gone');
    expect(await bench.must('up', '--dry-run', '--forget-gone')).toContain('forget who stood on it');
    expect(recorded().sort()).toEqual(['/copy/student-01.qcow2', '/usb/class/student-01.qcow2']);
    await bench.must('up', '--forget-gone');
    expect(recorded()).toEqual(['/copy/student-01.qcow2']);
    expect(await bench.must('up', '--forget-gone')).toContain('nothing to do');
    await bench.must('down');
    await usb.mount();
    await mustRun('rm', ['-r', bench.path('usb/class')]);
    // An original that is there gives up nothing.
    await copied();
    await bench.must('up');
    await usb.mount();
    await bench.must('up', '--forget-gone');
    expect(recorded().sort()).toEqual(['/copy/student-01.qcow2', '/usb/class/student-01.qcow2']);
    await usb.unmount();
    expect((await bench.run('down', '--dry-run')).err).toContain('down --forget-gone');
    await bench.must('down', '--forget-gone');
    expect(recorded()).toEqual([]);
    expect(statSync(bench.path('masters/m.raw')).mode & 0o200).toBe(0o200);
  });

  it('signs for its former masters in the place of the original that is gone', async ({ skip }) => {
    await using bench = await labBench();
    await using usb = await usbOf(bench);
    if (!usb.there) skip('mounting is not allowed here');
    bench.write('lab.yaml', { seats: 1, pool: 'usb/class' });
    await bench.must('up');
    writeFileSync(bench.path('masters/n.raw'), new Uint8Array(1024 * 1024).fill(8));
    bench.write('lab.yaml', { seats: 1, pool: 'usb/class', master: 'masters/n.raw' });
    await bench.must('up');
    mkdirSync(bench.path('here'));
    await mustRun('cp', ['-a', bench.path('usb/class'), bench.path('here/class')]);
    await usb.unmount();
    bench.write('lab.yaml', { seats: 1, pool: 'here/class', master: 'masters/n.raw' });
    await bench.must('up', '--forget-gone');
    const former = bench.path('masters/m.raw');
    const disk = bench.path('here/class/student-01.qcow2');
    expect(recordsFor(former).flatMap(({ dependents }) => dependents)).toEqual([disk]);
    expect(statSync(former).mode & 0o222).toBe(0);
    await bench.must('reset', 'lab.yaml', 'student-01');
    await bench.must('up');
    expect(recordsFor(former)).toEqual([]);
    expect(statSync(former).mode & 0o200).toBe(0o200);
  });

  it('takes nothing off where the original only cannot be looked at', async ({ skip }) => {
    await using bench = await labBench();
    await using usb = await usbOf(bench);
    if (!usb.there) skip('mounting is not allowed here');
    bench.write('lab.yaml', { seats: 1, pool: 'usb/class' });
    await bench.must('up');
    await mustRun('cp', ['-a', bench.path('usb/class'), bench.path('copy')]);
    await usb.unmount();
    bench.write('lab.yaml', { seats: 1, pool: 'copy' });
    // Nobody gets through it, as through a folder of another user's.
    rmdirSync(bench.path('usb'));
    symlinkSync('usb', bench.path('usb'));
    const { out } = await bench.run('up', '--forget-gone');
    rmSync(bench.path('usb'));
    mkdirSync(bench.path('usb'));
    expect(out).not.toContain('forget who stood on it');
    const names = recordsFor(bench.path('masters/m.raw')).flatMap(({ dependents }) => dependents);
    expect(names.sort()).toEqual(['copy', 'usb/class'].map((pool) => bench.path(pool, 'student-01.qcow2')));
  });

  it('is found by a state that says of no folder, as versions before wrote it', async () => {
    await using bench = await labBench();
    await using moved = await tempDir();
    bench.write('lab.yaml', { seats: 2 });
    await bench.must('up');
    const path = bench.path('class/.cowherd/lab-class.json');
    const { folder, ...state } = JSON.parse(readFileSync(path, 'utf8'));
    expect(folder).toEqual({
      fileSystem: expect.any(String),
      inode: expect.any(String),
      born: expect.any(String),
    });
    for (const verb of ['up', 'status']) {
      writeFileSync(path, JSON.stringify(state));
      await bench.must(verb);
      expect(JSON.parse(readFileSync(path, 'utf8')).folder).toEqual(folder);
    }
    writeFileSync(path, JSON.stringify(state));
    await mustRun('cp', ['-a', bench.path('class'), moved.file('class')]);
    await mustRun('rm', ['-r', bench.path('class')]);
    bench.write('lab.yaml', { seats: 2, pool: moved.file('class') });
    await bench.must('up');
    expect(await bench.must('up')).toContain('nothing to do');
    await bench.must('down');
  });
});
