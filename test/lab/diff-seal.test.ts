import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { openImageFile, trustedImages } from '../../src/node.ts';
import { have, mustRun } from '../support/programs.ts';
import { type LabBench, labBench } from './support.ts';

const MiB = 1024 * 1024;

/** A disk of 48 MiB: MBR, ext4 in the first partition, FAT in the second, swap in the third. */
async function makeDisk(bench: LabBench, path: string): Promise<void> {
  const tree = bench.path('tree');
  for (const folder of ['etc/ssh', 'var/log', 'var/lib/systemd', 'root', 'home/anna/docs', 'var/lib/dbus']) {
    mkdirSync(join(tree, folder), { recursive: true });
  }
  writeFileSync(join(tree, 'etc/hostname'), 'golden\n');
  writeFileSync(join(tree, 'etc/machine-id'), '');
  writeFileSync(join(tree, 'home/anna/docs/essay'), Buffer.alloc(300_000, 'words '));
  writeFileSync(join(tree, 'home/anna/docs/unchanged'), Buffer.alloc(300_000, 'rest '));
  symlinkSync('/etc/machine-id', join(tree, 'var/lib/dbus/machine-id'));
  await mustRun('truncate', ['-s', String(48 * MiB), path]);
  const table = 'label: dos\nstart=1M, size=24M, type=83\nsize=12M, type=c\nsize=8M, type=82\n';
  await mustRun('sfdisk', ['-q', path], { input: table });
  await mustRun('mkfs.ext4', [
    '-q',
    '-F',
    '-b',
    '4096',
    '-L',
    'root',
    '-d',
    tree,
    '-E',
    `offset=${MiB}`,
    path,
    '24M',
  ]);
  await mustRun('mkfs.fat', [
    '-F',
    '12',
    '-n',
    'ESP',
    '--offset',
    String((25 * MiB) / 512),
    path,
    String(12 * 1024),
  ]);
  const hi = bench.path('hi');
  writeFileSync(hi, 'hi\n');
  await mustRun('mcopy', ['-i', `${path}@@25M`, hi, '::boot.cfg']);
}

const needed = ['mkfs.ext4', 'debugfs', 'mkfs.fat', 'mcopy', 'sfdisk', 'qemu-img'];

describe.skipIf(!needed.every(have))('diff, and seal', () => {
  const edit = (path: string, requests: readonly string[]) =>
    mustRun('debugfs', ['-w', '-f', '-', `${path}?offset=${MiB}`], {
      input: `${requests.join('\n')}\n`,
    });

  it('shows by file what an overlay changed', async () => {
    await using bench = await labBench();
    const master = bench.path('master.raw');
    await makeDisk(bench, master);
    const changed = bench.path('changed.raw');
    await mustRun('cp', [master, changed]);
    const [late, essay] = [bench.path('late'), bench.path('essay')];
    writeFileSync(late, 'late');
    writeFileSync(essay, Buffer.alloc(300_000, 'Words '));
    await edit(changed, [
      'rm /etc/hostname',
      `write ${late} /etc/new`,
      'rm /home/anna/docs/essay',
      `write ${essay} /home/anna/docs/essay`,
      'set_inode_field /home/anna/docs/unchanged mode 0100600',
      'mkdir /srv',
      `write ${late} /srv/x`,
    ]);
    await mustRun('mcopy', ['-i', `${changed}@@25M`, late, '::NEW.TXT']);
    const disk = readFileSync(changed);
    disk.write('boot code', 100);
    disk.write('old memory', 40 * MiB);
    writeFileSync(changed, disk);
    // An overlay that holds what differs, and no more.
    const seat = bench.path('seat.qcow2');
    await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', master, '-F', 'raw', seat]);
    {
      const before = readFileSync(master);
      await using image = await openImageFile(seat, { writable: true });
      for (let at = 0; at < disk.length; at += 4096) {
        const piece = disk.subarray(at, at + 4096);
        if (!piece.equals(before.subarray(at, at + 4096))) await image.write(at, piece);
      }
    }
    await mustRun('qemu-img', ['compare', '-q', '-F', 'raw', seat, changed]);

    type Answer = {
      volumes: {
        partition?: number;
        fileSystem?: string;
        files?: object[];
        ranges?: { offset: number; length: number }[];
      }[];
    };
    const byChain = await bench.json<Answer>('diff', seat);
    const byContent = await bench.json<Answer>('diff', changed, master);
    expect(byContent.volumes).toEqual(byChain.volumes);
    const [root, esp, swap, outside] = byChain.volumes;
    expect(root).toMatchObject({ partition: 1, fileSystem: 'ext4', label: 'root' });
    const file = 'file';
    expect(root!.files).toEqual([
      { path: '/etc/hostname', change: 'removed', kind: file, before: 7, what: [] },
      { path: '/etc/new', change: 'added', kind: file, after: 4, what: [] },
      expect.objectContaining({
        path: '/home/anna/docs/essay',
        change: 'changed',
        what: expect.arrayContaining(['content']),
      }),
      {
        path: '/home/anna/docs/unchanged',
        change: 'changed',
        kind: file,
        before: 300_000,
        after: 300_000,
        what: ['mode'],
      },
      expect.objectContaining({ path: '/srv', change: 'added', kind: 'directory' }),
      { path: '/srv/x', change: 'added', kind: file, after: 4, what: [] },
    ]);
    expect(esp).toMatchObject({
      partition: 2,
      fileSystem: 'vfat',
      files: [{ path: '/NEW.TXT', change: 'added', kind: file, after: 4, what: [] }],
    });
    expect(swap).toMatchObject({ partition: 3, ranges: [{ offset: 40 * MiB, length: 4096 }] });
    expect(outside!.ranges).toEqual([{ offset: 0, length: 4096 }]);
    const text = await bench.must('diff', seat);
    expect(text).toContain('  - /etc/hostname  7 B');
    expect(text).toMatch(/4 files added, 1 removed, 2 changed/);
    expect(await bench.must('diff', master, master)).toContain(
      '0 files added, 0 removed, 0 changed; 0 B changed elsewhere',
    );
  });

  it('shows by file what was changed on a partition that has grown with its disk', async () => {
    await using bench = await labBench();
    const tree = bench.path('tree');
    mkdirSync(join(tree, 'etc'), { recursive: true });
    writeFileSync(join(tree, 'etc/hostname'), 'golden\n');
    for (const label of ['dos', 'gpt', undefined]) {
      const master = bench.path('grown-from.raw');
      await mustRun('truncate', ['-s', '0', master]);
      await mustRun('truncate', ['-s', '32M', master]);
      if (label) await mustRun('sfdisk', ['-q', master], { input: `label: ${label}\nstart=1M, size=24M\n` });
      const offset = label ? MiB : 0;
      await mustRun('mkfs.ext4', ['-q', '-F', '-d', tree, '-E', `offset=${offset}`, master, '24M']);
      const grown = bench.path('grown.raw');
      await mustRun('cp', [master, grown]);
      await mustRun('truncate', ['-s', '64M', grown]);
      if (label) await mustRun('sfdisk', ['-q', '-N', '1', grown], { input: 'start=1M, size=48M\n' });
      await mustRun('debugfs', ['-w', '-R', 'rm /etc/hostname', `${grown}?offset=${offset}`]);
      const { volumes } = await bench.json<{ volumes: { files?: object[]; notes: string[] }[] }>(
        ...['diff', grown, master],
      );
      expect(volumes[0].files).toEqual([
        { path: '/etc/hostname', change: 'removed', kind: 'file', before: 7, what: [] },
      ]);
      expect(volumes[0].notes).toEqual([`it had ${label ? '24' : '32'} MiB before`]);
    }
  });

  it('names what clones would share, and seals what is clean', async () => {
    await using bench = await labBench();
    const clean = bench.path('clean.raw');
    await makeDisk(bench, clean);
    const dirty = bench.path('dirty.raw');
    await mustRun('cp', [clean, dirty]);
    const some = bench.path('some');
    writeFileSync(some, '0123456789abcdef0123456789abcdef\n');
    await edit(dirty, [
      'rm /etc/machine-id',
      ...[
        '/etc/machine-id',
        '/etc/ssh/ssh_host_rsa_key',
        '/etc/ssh/ssh_host_rsa_key.pub',
        '/var/log/syslog',
      ].map((path) => `write ${some} ${path}`),
      ...['/root/.bash_history', '/home/anna/.zsh_history', '/var/lib/systemd/random-seed'].map(
        (path) => `write ${some} ${path}`,
      ),
      'mkdir /var/lib/dhcp',
      `write ${some} /var/lib/dhcp/dhclient.eth0.leases`,
      'mkdir /var/lib/cloud',
      'mkdir /var/lib/cloud/instances',
      'symlink /var/lib/cloud/instance instances/x',
    ]);
    const refused = await bench.json<{
      findings: { rule: string; weight: string; path: string }[];
      master: unknown;
    }>('seal', dirty);
    expect(refused.master).toBeNull();
    expect(refused.findings.map(({ rule, weight }) => `${rule} ${weight}`)).toEqual([
      'machine-id clash',
      'ssh-host-keys clash',
      'cloud-init clash',
      'random-seed clash',
      'leases clash',
      'logs stale',
      'history stale',
      'history stale',
    ]);
    const told = await bench.run('seal', dirty);
    expect(told.code).toBe(1);
    expect(told.out).toContain('truncate -s 0 /etc/machine-id');
    expect(await bench.run('seal', clean, '--check')).toMatchObject({
      code: 0,
      out: '0 conflicts, 0 leftovers\n',
    });

    await bench.must('seal', clean, '--name', 'small');
    await bench.must('seal', dirty, '--name', 'small', '--anyway');
    for (const [label, from] of [
      ['small@1', clean],
      ['small@2', dirty],
    ] as const) {
      const path = bench.path('masters', `${label}.qcow2`);
      await mustRun('qemu-img', ['compare', '-q', '-F', 'raw', path, from]);
      expect(await mustRun('qemu-img', ['check', '-q', path])).toBe('');
      expect(statSync(path).mode & 0o222).toBe(0);
      const record = JSON.parse(readFileSync(bench.path('masters', `${label}.json`), 'utf8'));
      expect(record).toMatchObject({ master: label, size: 48 * MiB, origin: { how: 'seal' } });
    }
  });

  it('looks into what fstab mounts, however it says which partition', async () => {
    await using bench = await labBench();
    const disk = bench.path('two.raw');
    const [root, more] = [bench.path('root'), bench.path('more')];
    mkdirSync(join(root, 'etc'), { recursive: true });
    mkdirSync(join(root, 'var'));
    mkdirSync(join(more, 'log'), { recursive: true });
    mkdirSync(join(more, 'lib/cloud/instances/i-1'), { recursive: true });
    writeFileSync(join(more, 'log/syslog'), 'a line\n');
    await mustRun('truncate', ['-s', '32M', disk]);
    for (const label of ['dos', 'gpt']) {
      await mustRun('sfdisk', ['-q', disk], { input: `label: ${label}\nstart=1M, size=12M\nsize=12M\n` });
      const { partitiontable } = JSON.parse(await mustRun('sfdisk', ['-J', disk]));
      const partuuid =
        label === 'gpt'
          ? partitiontable.partitions[1].uuid.toLowerCase()
          : `${partitiontable.id.slice(2)}-02`;
      const ext4 = ['-q', '-F', '-L', 'more', '-U', 'a7f3c2d0-0000-4000-8000-000000000001', '-d', more];
      await mustRun('mkfs.ext4', [...ext4, '-E', `offset=${13 * MiB}`, disk, '12M']);
      for (const device of [
        `PARTUUID=${partuuid}`,
        ...['/dev/vda2', '/dev/sda2', '/dev/nvme0n1p2', 'LABEL=more'],
        'UUID=A7F3C2D0-0000-4000-8000-000000000001',
        `/dev/disk/by-partuuid/${partuuid}`,
        '/dev/disk/by-label/more',
        '/dev/disk/by-uuid/a7f3c2d0-0000-4000-8000-000000000001',
      ]) {
        writeFileSync(
          join(root, 'etc/fstab'),
          `# comment\n/dev/sdb2 /srv ext4\n${device}\t/var/ ext4 defaults 0 2\n`,
        );
        await mustRun('mkfs.ext4', ['-q', '-F', '-d', root, '-E', `offset=${MiB}`, disk, '12M']);
        const { findings } = await bench.json<{ findings: { rule: string }[] }>('seal', disk, '--check');
        expect([device, ...findings.map((one) => one.rule)]).toEqual([device, 'cloud-init', 'logs']);
      }
    }
  });

  it.skipIf(!have('e2fsck'))(
    'takes what it can out of a copy; e2fsck finds that sound, and the image is as it was',
    async () => {
      await using bench = await labBench();
      const dirty = bench.path('dirty.raw');
      await makeDisk(bench, dirty);
      const some = bench.path('some');
      writeFileSync(some, '0123456789abcdef0123456789abcdef\n');
      const big = bench.path('big');
      writeFileSync(big, Buffer.alloc(3 * MiB, 'line\n'));
      const write = (from: string, ...paths: string[]) => paths.map((path) => `write ${from} "${path}"`);
      await edit(dirty, [
        'rm /etc/machine-id',
        ...write(some, '/etc/machine-id', '/etc/ssh/ssh_host_rsa_key', '/etc/ssh/ssh_host_rsa_key.pub'),
        'set_inode_field /etc/machine-id mode 0100444',
        ...['mkdir /var/lib/cloud', 'mkdir /var/lib/cloud/instances', 'mkdir /var/lib/cloud/instances/i-1'],
        ...write(
          some,
          '/var/lib/cloud/instances/i-1/user data',
          '/var/lib/systemd/random-seed',
          '/root/.bash_history',
        ),
        'symlink /var/lib/cloud/instance instances/i-1',
        'mkdir /var/log/apt',
        ...write(big, '/var/log/syslog', '/var/log/apt/history.log'),
        'mkdir /root/.ssh',
        ...write(some, '/root/.ssh/id_ed25519'),
      ]);
      const before = readFileSync(dirty);
      const seal = ['seal', dirty, '--name', 'fixed', '--fix'];
      const planned = await bench.json<{ changes: { do: string; path: string }[] }>(...seal, '--dry-run');
      expect(planned.changes.map((one) => `${one.do} ${one.path}`)).toEqual([
        'empty /etc/machine-id',
        'remove /etc/ssh/ssh_host_rsa_key',
        'remove /etc/ssh/ssh_host_rsa_key.pub',
        'remove /var/lib/cloud/instance',
        'remove /var/lib/cloud/instances/i-1/user data',
        'remove directory /var/lib/cloud/instances/i-1',
        'remove directory /var/lib/cloud/instances',
        'remove /var/lib/systemd/random-seed',
        'remove /var/log/apt/history.log',
        'remove /var/log/syslog',
        'remove /root/.bash_history',
      ]);
      expect(existsSync(bench.path('masters/fixed@1.qcow2'))).toBe(false);
      // A person's key is a person's to remove.
      const refused = await bench.run(...seal);
      expect([refused.code, refused.out]).toEqual([1, expect.stringContaining('/root/.ssh/id_ed25519')]);
      await edit(dirty, ['rm /root/.ssh/id_ed25519']);
      const again = readFileSync(dirty);
      expect(await bench.must(...seal)).toContain('fixed@1 is sealed');
      expect(readFileSync(dirty).equals(again)).toBe(true);
      expect(again.equals(before)).toBe(false);
      expect(readdirSync(bench.path('masters')).filter((name) => name.startsWith('.build'))).toEqual([]);

      const out = bench.path('out.raw');
      await mustRun('qemu-img', ['convert', '-O', 'raw', bench.path('masters/fixed@1.qcow2'), out]);
      await mustRun('e2fsck', ['-fn', `${out}?offset=${MiB}`]);
      const debug = (request: string) => mustRun('debugfs', ['-R', request, `${out}?offset=${MiB}`]);
      expect(await debug('stat /etc/machine-id')).toMatch(/Mode: +0444[\s\S]*Size: 0\b/);
      expect(await debug('ls -p /var/log')).toMatch(/\/apt\/.*\n/);
      expect(await debug('ls -p /var/log')).not.toContain('syslog');
      expect(await debug('ls -p /etc/ssh')).not.toContain('ssh_host');
      expect(await debug('cat /home/anna/docs/essay')).toBe('words '.repeat(50_000));
      expect(await bench.must('seal', out, '--check')).toBe('0 conflicts, 0 leftovers\n');
      // Nothing but that file system has changed.
      const [was, is] = [readFileSync(dirty), readFileSync(out)];
      expect(is.subarray(0, MiB).equals(was.subarray(0, MiB))).toBe(true);
      expect(is.subarray(25 * MiB).equals(was.subarray(25 * MiB))).toBe(true);
    },
  );

  it('looks into a seat before it is promoted', async () => {
    await using bench = await labBench();
    const master = bench.path('masters/m.raw');
    await makeDisk(bench, master);
    bench.write('lab.yaml', { seats: 2 });
    await bench.must('up');
    expect(await bench.must('promote', 'student-01')).toContain('student-01 is m@1 now');
    // The guest gets an ID at its first boot: the seat's disk is what was made of the master meanwhile.
    const used = bench.path('used.raw');
    await mustRun('cp', [master, used]);
    const id = bench.path('id');
    writeFileSync(id, '0123456789abcdef0123456789abcdef\n');
    await edit(used, ['rm /etc/machine-id', `write ${id} /etc/machine-id`]);
    {
      const [before, after] = [readFileSync(master), readFileSync(used)];
      await using image = await openImageFile(bench.path('class/student-02.qcow2'), {
        writable: true,
        policy: trustedImages,
      });
      for (let at = 0; at < after.length; at += 4096) {
        const piece = after.subarray(at, at + 4096);
        if (!piece.equals(before.subarray(at, at + 4096))) await image.write(at, piece);
      }
    }
    const refused = await bench.run('promote', 'student-02');
    expect([refused.code, refused.out]).toEqual([
      1,
      expect.stringContaining('truncate -s 0 /etc/machine-id'),
    ]);
    expect(refused.out).toContain('Not promoted');
    expect(existsSync(bench.path('masters/m@2.qcow2'))).toBe(false);
    expect(await bench.must('promote', 'student-02', '--anyway')).toContain('student-02 is m@2 now');
    await mustRun('qemu-img', ['compare', '-q', '-F', 'raw', bench.path('masters/m@2.qcow2'), used]);
    // A guest whose power was turned off leaves nothing that clones share, and still something to know.
    const crashed = bench.path('crashed.raw');
    await mustRun('cp', [master, crashed]);
    await edit(crashed, ['feature needs_recovery']);
    {
      await using image = await openImageFile(bench.path('class/student-01.qcow2'), {
        writable: true,
        policy: trustedImages,
      });
      await image.write(MiB, readFileSync(crashed).subarray(MiB, MiB + 4096));
    }
    const told = await bench.must('promote', 'student-01');
    expect(told).toContain('partition 1 was not unmounted');
    expect(told).toContain('student-01 is m@3 now');
  });
});
