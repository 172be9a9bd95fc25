import { randomBytes } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { openImageFile, trustedImages } from '../../src/node.ts';
import { haveLvm, LvmDisk, withSnapshot } from '../support/lvm.ts';
import { have, mustRun } from '../support/programs.ts';
import { type LabBench, labBench, qemuCheck } from './support.ts';

const MiB = 1024 * 1024;
const some = Buffer.from('0123456789abcdef0123456789abcdef\n');

/** What an installer makes by default: a partition for LVM, a root in one piece, and a home that was enlarged later. */
async function installed(path: string): Promise<LvmDisk> {
  const disk = await LvmDisk.make(path, { start: MiB, length: 96 * MiB });
  await disk.run('lvcreate', ['-L', '12M', '-n', 'home']);
  await disk.run('lvcreate', ['-L', '24M', '-n', 'root-lv']);
  await disk.run('lvextend', ['-L', '20M', `${disk.group}/home`]);
  const fstab = `/dev/disk/by-id/dm-uuid-LVM-${await disk.uuidOf('home')} /home ext4 defaults 0 2\n`;
  await disk.makeExt4('root-lv', 24 * MiB, {
    'etc/fstab': Buffer.from(fstab),
    'etc/machine-id': some,
    'etc/ssh/ssh_host_rsa_key': some,
    'home/hidden': some,
    'srv/data': randomBytes(6 * MiB),
  });
  await disk.makeExt4('home', 20 * MiB, { 'anna/essay': Buffer.alloc(15 * MiB, 'words '), 'anna/x': some });
  return disk;
}

/** Changes the root's files as a guest would; `after` is what debugfs is told. */
async function edit(disk: LvmDisk, after: readonly string[]): Promise<void> {
  const [[first]] = await disk.extentsOf('root-lv');
  const at = MiB + (1 + first) * MiB;
  const input = `${after.join('\n')}\n`;
  await mustRun('debugfs', ['-w', '-f', '-', `${disk.path}?offset=${at}`], { input });
  await mustRun('e2fsck', ['-fn', `${disk.path}?offset=${at}`]);
}

describe.skipIf(!haveLvm || !['mkfs.ext4', 'debugfs', 'e2fsck', 'qemu-img', 'dumpe2fs'].every(have))(
  'a guest on logical volumes',
  () => {
    it('is looked into, mended and sealed, by the mounts of its fstab', async () => {
      await using bench = await labBench();
      const disk = await installed(bench.path('lvm.raw'));
      const history = bench.path('history');
      writeFileSync(history, some);
      type Answer = { findings: { rule: string; path: string }[]; notes: string[] };
      const found = await bench.json<Answer>('seal', disk.path, '--check');
      expect(found.findings.map(({ path }) => path)).toEqual([
        '/etc/machine-id',
        '/etc/ssh/ssh_host_rsa_key',
      ]);
      expect(found.notes).toEqual([]);
      await bench.must('seal', disk.path, '--name', 'fixed', '--fix');
      const sealed = bench.path('masters/fixed@1.qcow2');
      await qemuCheck(sealed);
      await mustRun('qemu-img', ['convert', '-O', 'raw', sealed, bench.path('sealed.raw')]);
      const [[first]] = await disk.extentsOf('root-lv');
      const at = `${bench.path('sealed.raw')}?offset=${MiB + (1 + first) * MiB}`;
      await mustRun('e2fsck', ['-fn', at]);
      expect(await mustRun('debugfs', ['-R', 'ls -p /etc/ssh', at])).not.toContain('ssh_host_rsa_key');
      expect(await mustRun('debugfs', ['-R', 'stat /etc/machine-id', at])).toContain('Size: 0');

      // What a snapshot of the volume shows would change with it.
      const snapped = await disk.copyTo(bench.path('snapped.raw'));
      await snapped.edit((text) => withSnapshot(text).replace('cow_store = "swap"', 'cow_store = "home"'));
      const held = await bench.run('seal', snapped.path, '--name', 'held', '--fix');
      expect([held.code, held.err]).toEqual([1, expect.stringContaining('a volume of type snapshot')]);

      // What lies in two pieces debugfs cannot be led to.
      const [[head]] = await disk.extentsOf('home');
      expect(head).toBe(0);
      const inHome = await installed(bench.path('history.raw'));
      await inHome.makeExt4('home', 20 * MiB, { 'anna/.bash_history': some });
      const refused = await bench.run('seal', inHome.path, '--name', 'other', '--fix');
      expect(refused.code).toBe(1);
      expect(refused.err).toContain('the logical volume vg-a/home: it lies in 2 pieces');
    });

    it('is compared by its files', async () => {
      await using bench = await labBench();
      const disk = await installed(bench.path('masters/m.raw'));
      const changed = await disk.copyTo(bench.path('changed.raw'));
      const late = bench.path('late');
      writeFileSync(late, 'late');
      await edit(changed, [`write ${late} /srv/late`, 'rm /etc/machine-id']);
      const seat = await overlayOf(bench, disk.path, changed.path);
      type Answer = { volumes: { logical?: string; files?: { path: string }[]; ranges?: object[] }[] };
      for (const args of [[seat], [changed.path, disk.path]]) {
        const { volumes } = await bench.json<Answer>('diff', ...args);
        expect(volumes.map(({ logical, files }) => [logical, files?.map(({ path }) => path)])).toEqual([
          ['vg-a/home', []],
          ['vg-a/root-lv', ['/etc/machine-id', '/srv/late']],
        ]);
      }
      expect(await bench.must('diff', seat)).toMatch(/logical volume vg-a\/root-lv: ext4 24 MiB/);
      // The two volumes change places: not a byte of a file system is written, and all of it is another one's.
      const swapped = await disk.copyTo(bench.path('swapped.raw'));
      await swapped.edit((text) =>
        text.replaceAll(/"pv0", (\d+)/g, (_, extent: string) => `"pv0", ${extent === '12' ? 13 : extent}`),
      );
      const moved = await overlayOf(bench, disk.path, swapped.path);
      const { volumes } = await bench.json<Answer>('diff', moved);
      const root = volumes.find(({ logical }) => logical === 'vg-a/root-lv');
      expect(root?.files).toBeUndefined();
      expect(root?.ranges?.length).toBeGreaterThan(0);
      // Only its name is another one.
      const renamed = await disk.copyTo(bench.path('renamed.raw'));
      await renamed.run('lvrename', [disk.group, 'home', 'houses']);
      const text = await bench.must('diff', await overlayOf(bench, disk.path, renamed.path));
      expect(text).toMatch(/vg-a\/houses[^\n]*no file changed\n.*it was called vg-a\/home before/);
      const removed = await disk.copyTo(bench.path('removed.raw'));
      await removed.run('lvremove', ['-f', `${disk.group}/home`]);
      expect(await bench.must('diff', await overlayOf(bench, disk.path, removed.path))).toContain(
        'the logical volume vg-a/home is not there any more',
      );
    });

    it('gives back what was deleted, and nothing that is used', async () => {
      await using bench = await labBench();
      const disk = await installed(bench.path('masters/m.raw'));
      bench.write('lab.yaml', { seats: 1 });
      await bench.must('up');
      const seat = bench.path('class/student-01.qcow2');
      const changed = await disk.copyTo(bench.path('changed.raw'));
      const late = bench.path('late');
      writeFileSync(late, randomBytes(5 * MiB));
      await edit(changed, [`write ${late} /srv/late`]);
      await writeTo(seat, changed.path);
      await edit(changed, ['rm /srv/late', 'rm /srv/data']);
      await writeTo(seat, changed.path);
      const text = await bench.must('compact', 'lab.yaml');
      expect(text).toContain('given back');
      await qemuCheck(seat);
      await mustRun('qemu-img', ['convert', '-O', 'raw', seat, bench.path('after.raw')]);
      const [before, after] = [readFileSync(changed.path), readFileSync(bench.path('after.raw'))];
      expect(Buffer.compare(before, after)).not.toBe(0);
      const [[first]] = await disk.extentsOf('root-lv');
      const at = 2 * MiB + first * MiB;
      const shown = await mustRun('dumpe2fs', [`${changed.path}?offset=${at}`]);
      for (const [, list] of shown.matchAll(/^ +Free blocks: (.*)$/gm)) {
        for (const one of list.split(', ').filter((part) => part !== '')) {
          const [start, end = start] = one.split('-').map(Number);
          for (const bytes of [before, after]) bytes.fill(0, at + start * 4096, at + (end + 1) * 4096);
        }
      }
      expect(Buffer.compare(before, after)).toBe(0);

      // A snapshot's blocks may be free on the volume that it was made of.
      await writeTo(seat, changed.path);
      const snapshot = await changed.copyTo(bench.path('snapshot.raw'));
      await snapshot.edit((one) => withSnapshot(one).replace('cow_store = "swap"', 'cow_store = "home"'));
      await writeTo(seat, snapshot.path);
      type Dry = { images: { freed: number; volumes: { logical?: string; note?: string }[] }[] };
      const dry = await bench.json<Dry>('compact', 'lab.yaml', '--dry-run');
      expect(dry.images[0].freed).toBe(0);
      const note = expect.stringContaining('of type snapshot');
      expect(dry.images[0].volumes).toEqual([
        { logical: 'vg-a/home', note },
        { logical: 'vg-a/root-lv', note },
      ]);
    });
  },
);

/** An overlay over a raw file that holds what differs in another one, and no more. */
async function overlayOf(bench: LabBench, master: string, changed: string): Promise<string> {
  const path = bench.path(`${changed.split('/').at(-1)}.qcow2`);
  await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', master, '-F', 'raw', path]);
  await writeTo(path, changed);
  await mustRun('qemu-img', ['compare', '-q', '-F', 'raw', path, changed]);
  return path;
}

async function writeTo(image: string, changed: string): Promise<void> {
  const disk = readFileSync(changed);
  await using target = await openImageFile(image, { writable: true, policy: trustedImages });
  const old = Buffer.alloc(disk.length);
  await target.read(0, old);
  for (let at = 0; at < disk.length; at += 65_536) {
    const piece = disk.subarray(at, at + 65_536);
    if (!piece.equals(old.subarray(at, at + 65_536))) await target.write(at, piece);
  }
}
