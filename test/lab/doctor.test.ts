import { chmodSync, mkdirSync, renameSync, symlinkSync, writeFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { encodeNewImage } from '../../src/formats/qcow2/create.ts';
import { moduleFindings } from '../../src/lab/doctor/security-module.ts';
import { unmount } from '../support/mounts.ts';
import { have, isRoot, mustRun, openQemuIo, run } from '../support/programs.ts';
import { type LabBench, labBench } from './support.ts';

interface Told {
  ailments: { path: string; what: string; fix: string; hinders: string[] }[];
}

/** Whether the user `nobody` can read the file: the kernel's word. */
async function readable(path: string): Promise<boolean> {
  const { code } = await run('setpriv', ['--reuid=nobody', '--regid=nogroup', '--clear-groups', 'cat', path]);
  return code === 0;
}

const doctor = async (bench: LabBench, ...args: string[]) =>
  (await bench.json<Told>('doctor', ...args, '--user', 'nobody')).ailments;

describe.skipIf(!isRoot || !have('setpriv') || !have('qemu-img'))('doctor', () => {
  it('finds every folder and file on the way that QEMU’s user may not pass; its fixes are all that is needed', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml', { seats: 3, pool: 'deep/down' });
    await bench.must('up');
    chmodSync(bench.path('deep'), 0o700);
    chmodSync(bench.path('masters/m.raw'), 0o400);
    const seat = bench.path('deep/down/student-02.qcow2');
    const found = await doctor(bench, 'lab.yaml');
    expect(found.map(({ path }) => path).sort()).toEqual(
      [bench.dir.path, bench.path('deep'), bench.path('masters/m.raw')]
        .concat([1, 2, 3].map((n) => bench.path(`deep/down/student-0${n}.qcow2`)))
        .sort(),
    );
    expect(found.find((one) => one.path === bench.path('deep'))).toMatchObject({
      what: expect.stringMatching(/^nobody may not enter this folder \(drwx------/),
      fix: `chmod o+x ${bench.path('deep')}`,
      hinders: ['a disk of student-01', 'a disk of student-02', 'a disk of student-03'],
    });
    expect(await readable(seat)).toBe(false);
    for (const { fix } of found) await mustRun('sh', ['-c', fix]);
    expect(await readable(seat)).toBe(true);
    expect(await readable(bench.path('masters/m.raw'))).toBe(true);
    expect(await doctor(bench, 'lab.yaml')).toEqual([]);
    expect(await bench.must('doctor', 'lab.yaml', '--user', 'nobody')).toBe(
      '4 files looked at: QEMU, as nobody, can open every one\n',
    );
    await bench.must('down');
  });

  it('follows links and names, and tells of what is missing, circular, or without a format', async () => {
    await using bench = await labBench();
    chmodSync(bench.dir.path, 0o755);
    mkdirSync(bench.path('a'));
    mkdirSync(bench.path('secret'), 0o700);
    const image = (...args: string[]) =>
      mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', ...args], { cwd: bench.path('a') });
    await image(bench.path('secret/base.qcow2'), '1M');
    symlinkSync('../secret', bench.path('a/link'));
    await image('-b', 'link/base.qcow2', '-F', 'qcow2', 'top.qcow2');
    chmodSync(bench.path('a/top.qcow2'), 0o666);
    expect((await doctor(bench, 'a/top.qcow2')).map(({ path }) => path)).toEqual([bench.path('secret')]);

    await image('-u', '-b', 'gone.qcow2', '-F', 'qcow2', 'orphan.qcow2', '1M');
    await image('-u', '-b', 'self.qcow2', '-F', 'qcow2', 'made.qcow2', '1M');
    renameSync(bench.path('a/made.qcow2'), bench.path('a/self.qcow2'));
    const told = async (name: string) =>
      (await doctor(bench, `a/${name}`)).map(({ what }) => what).filter((what) => !what.startsWith('nobody'));
    expect(await told('orphan.qcow2')).toEqual(['there is no such file']);
    expect(await told('self.qcow2')).toEqual([expect.stringContaining('a circle')]);
    expect(await told('nothing.qcow2')).toEqual(['there is no such file']);
    writeFileSync(bench.path('a/file'), '');
    expect(await told('file/x.qcow2')).toEqual(['a file is in the place of a folder here']);
    // As old programs wrote it.
    const { bytes } = encodeNewImage(1024 * 1024, {}, { backing: { path: 'link/base.qcow2' } });
    writeFileSync(bench.path('a/old.qcow2'), bytes);
    expect(await told('old.qcow2')).toEqual([
      expect.stringContaining('does not say what format its backing file'),
    ]);
  });
});

describe.skipIf(!isRoot || !have('qemu-img') || !have('qemu-io') || !have('mount'))(
  'doctor, where modes say yes',
  () => {
    const looks = async (bench: LabBench, ...args: string[]) =>
      (await bench.json<Told>('doctor', ...args, '--user', 'root')).ailments;

    it('tells of an immutable file, a read-only file system, a data file, and a program that writes', async () => {
      await using bench = await labBench();
      mkdirSync(bench.path('place'));
      await mustRun('mount', ['-t', 'tmpfs', '-o', 'size=8M', 'none', bench.path('place')]);
      try {
        const image = bench.path('place/a b.qcow2');
        const data = bench.path('place/data.raw');
        await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', `data_file=${data}`, image, '1M']);
        expect(await looks(bench, 'place/a b.qcow2')).toEqual([]);
        {
          await using _qemu = await openQemuIo([image]);
          expect(await looks(bench, 'place/a b.qcow2')).toMatchObject([
            { path: image, what: expect.stringContaining('another program has it open for writing') },
          ]);
        }
        await mustRun('mount', ['-o', 'remount,ro', bench.path('place')]);
        const barred = await looks(bench, 'place/a b.qcow2');
        expect(barred.map(({ path }) => path)).toEqual([image, data]);
        expect(barred[0].what).toBe('its file system is mounted read-only');
        await mustRun('sh', ['-c', barred[0].fix]);
        expect(await looks(bench, 'place/a b.qcow2')).toEqual([]);
        chmodSync(data, 0o600);
        const told = await bench.json<Told>('doctor', 'place/a b.qcow2', '--user', 'nobody');
        expect(told.ailments.map(({ path }) => path)).toContain(data);
      } finally {
        await unmount(bench.path('place'));
      }
      const path = bench.path('fixed.qcow2');
      await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', path, '1M']);
      // Not every file system has the flag.
      if ((await run('chattr', ['+i', path])).code !== 0) return;
      const [immutable, ...more] = await looks(bench, 'fixed.qcow2');
      expect([immutable, ...more]).toMatchObject([{ what: expect.stringContaining('immutable') }]);
      await mustRun('sh', ['-c', immutable.fix]);
      expect(await looks(bench, 'fixed.qcow2')).toEqual([]);
    });
  },
);

it('says what SELinux and AppArmor would hold against a file', () => {
  const label = () => 'unconfined_u:object_r:user_home_t:s0';
  expect(moduleFindings('/home/a/m.qcow2', 'selinux', false, label)).toEqual([
    {
      path: '/home/a/m.qcow2',
      what: 'SELinux: its type is user_home_t, which QEMU may not open',
      fix: 'semanage fcontext -a -t virt_content_t /home/a/m.qcow2 && restorecon /home/a/m.qcow2',
    },
  ]);
  expect(moduleFindings('/m.qcow2', 'selinux', false, () => 'system_u:object_r:virt_image_t:s0')).toEqual([]);
  expect(moduleFindings('/home/a/seat.qcow2', 'selinux', true, label)).toEqual([]);
  // Whoever the file is given to: there is no label to give.
  expect(
    moduleFindings('/net/seat.qcow2', 'selinux', true, () => 'system_u:object_r:nfs_t:s0'),
  ).toMatchObject([{ fix: 'setsebool -P virt_use_nfs on' }]);
  expect(moduleFindings('/etc/m.qcow2', 'apparmor', false)).toHaveLength(1);
  expect(moduleFindings('/srv/m.qcow2', 'apparmor', false)).toEqual([]);
  expect(moduleFindings('/etc/m.qcow2', undefined, false)).toEqual([]);
});
