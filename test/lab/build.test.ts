import { createHash } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { copyLinux, haveLinuxGuest, makeLinuxGuest } from '../../src/lab/build/small-linux.ts';
import { haveLibvirtd, startLibvirtd } from '../support/libvirtd.ts';
import { have, mustRun, run, tempDir } from '../support/programs.ts';
import { LabBench, labBench } from './support.ts';

const long = process.env.COWHERD_LONG === '1';
const canBoot = have('qemu-system-x86_64') && have('qemu-img');

/** Boots one seat of a master until its serial port has said `wanted`, and stops it. */
async function bootSeat(
  bench: LabBench,
  master: string,
  wanted: RegExp,
  limitMs: number,
  memory = '256M',
  more: Record<string, unknown> = {},
): Promise<string> {
  const lab = bench.write('boot.yaml', { master, seats: 1, runner: 'qemu', memory, lab: 'boot', ...more });
  await bench.must('up', lab, '--start');
  const seat = (await bench.json<{ seats: { name: string }[] }>('status', lab)).seats[0]!.name;
  const pool = readdirSync(bench.dir.path, { recursive: true, encoding: 'utf8' }).find((name) =>
    name.endsWith(`${seat}.log`),
  )!;
  const ends = Date.now() + limitMs;
  let said = '';
  while (!wanted.test(said) && Date.now() < ends) {
    await new Promise((resolve) => setTimeout(resolve, 200));
    said = readFileSync(bench.path(pool), 'utf8');
  }
  await bench.must('stop', lab);
  expect(said).toMatch(wanted);
  return seat;
}

const canInstall = haveLinuxGuest() && canBoot && have('grub-mkrescue') && have('xorriso');

/** An ISO that installs the small Linux on the empty disk, when it boots from it; `kernelIn` is the folder of its kernel. */
async function makeInstaller(iso: string, kernelIn: string, init: string, machineId = ''): Promise<void> {
  await using scratch = await tempDir('cowherd-iso-');
  const payload = scratch.file('payload.raw');
  await makeLinuxGuest(scratch, payload);
  if (machineId !== '') {
    writeFileSync(scratch.file('machine-id'), `${machineId}\n`);
    const write = `mkdir /etc\nwrite ${scratch.file('machine-id')} /etc/machine-id\n`;
    writeFileSync(scratch.file('requests'), write);
    await mustRun('debugfs', ['-w', '-f', scratch.file('requests'), `${payload}?offset=${1024 * 1024}`]);
  }
  const tree = scratch.file('cd');
  mkdirSync(`${tree}/boot/grub`, { recursive: true });
  mkdirSync(join(tree, kernelIn), { recursive: true });
  await mustRun('sh', ['-c', `gzip -1c '${payload}' > '${tree}/disk.gz'`]);
  await using parts = await tempDir('cowherd-iso-');
  await copyLinux(parts, join(tree, kernelIn), init);
  renameSync(join(tree, kernelIn, 'initrd'), join(tree, kernelIn, 'initrd.gz'));
  writeFileSync(
    `${tree}/boot/grub/grub.cfg`,
    `linux /${kernelIn}/vmlinuz console=ttyS0 no_timer_check quiet panic=-1\ninitrd /${kernelIn}/initrd.gz\nboot\n`,
  );
  await mustRun('grub-mkrescue', ['-o', iso, tree]);
}

describe.skipIf(!haveLinuxGuest() || !canBoot)('build', () => {
  it('makes, seals and boots a small Linux; diff shows what the boot left', {
    timeout: 240_000,
  }, async () => {
    await using bench = await labBench();
    const built = await bench.json<{ master: string; path: string; findings: unknown[]; content: string }>(
      'build',
      'tiny',
      '--small',
    );
    expect(built).toMatchObject({ master: 'tiny@1', findings: [] });
    expect(built.content).toMatch(/^cowherd1:[0-9a-f]{64}$/);
    expect(await mustRun('qemu-img', ['check', '-q', built.path])).toBe('');
    expect(statSync(built.path).mode & 0o222).toBe(0);
    expect(readdirSync(bench.path('masters')).filter((name) => name.startsWith('.build'))).toEqual([]);
    const seat = await bootSeat(bench, 'masters/tiny@1.qcow2', /cowherd-guest host=\? .*boots=1/, 120_000);
    const diff = await bench.json<{
      volumes: { partition?: number; files?: { path: string; change: string }[]; notes: string[] }[];
    }>('diff', 'boot.yaml', seat);
    expect(diff.volumes[0]!.files).toEqual([
      { path: '/boots', change: 'added', kind: 'file', after: 5, what: [] },
    ]);
  });

  it.skipIf(!canInstall)(
    'installs from an ISO onto an empty disk, which then boots',
    { timeout: 480_000 },
    async () => {
      await using bench = await labBench();
      const iso = bench.path('installer.iso');
      await makeInstaller(iso, 'boot', installer('poweroff -f'));
      const sha256 = createHash('sha256').update(readFileSync(iso)).digest('hex');
      const wrong = await bench.run('build', 'os', '--iso', iso, '--sha256', sha256.replace(/./g, '0'));
      expect(wrong.code).toBe(1);
      expect(wrong.err).toContain(sha256);
      const said = await bench.must(
        'build',
        'os',
        '--iso',
        iso,
        '--sha256',
        sha256,
        '--disk',
        '64M',
        '--memory',
        '256M',
        '--display',
        'none',
      );
      expect(said).toContain('| installer: done');
      expect(said).toContain('os@1 is sealed');
      await bootSeat(bench, 'masters/os@1.qcow2', /cowherd-guest host=\? .*boots=1/, 120_000);
    },
  );
});

describe.skipIf(!canInstall || !have('debugfs'))('build --iso of what clones would clash by', () => {
  it('keeps what was installed, and says how it becomes a version', { timeout: 480_000 }, async () => {
    await using bench = await labBench();
    const iso = bench.path('installer.iso');
    // With answers a restart is the end: a boot of what was installed would count.
    await makeInstaller(iso, 'boot', installer('reboot -f'), '0123456789abcdef0123456789abcdef');
    writeFileSync(bench.path('ks.cfg'), 'reboot\n');
    mkdirSync(bench.path('own masters'));
    writeFileSync(bench.path('own masters/os.unsealed.qcow2'), 'of an earlier build');
    const size = ['--disk', '64M', '--memory', '256M', '--display', 'none'];
    const build = ['build', 'os', '--iso', iso, '--answers', 'ks.cfg', ...size, '--folder', 'own masters'];
    const { code, out, err } = await bench.run(...build);
    expect([code, out], err).toEqual([1, expect.stringContaining('/etc/machine-id')]);
    const again = "seal 'own masters/os.unsealed-2.qcow2' --name os --folder 'own masters' --fix";
    expect(out).toContain(`  cowherd ${again} (or --anyway)`);
    expect(readdirSync(bench.path('own masters')).sort()).toEqual([
      'os.unsealed-2.qcow2',
      'os.unsealed.qcow2',
    ]);
    const kept = bench.path('own masters/os.unsealed-2.qcow2');
    expect(statSync(kept).mode & 0o777).toBe(0o600);
    expect(await mustRun('qemu-img', ['check', '-q', kept])).toBe('');
    const words = again.match(/'[^']*'|\S+/g)!.map((word) => word.replaceAll("'", ''));
    expect(await bench.must(...words)).toContain('os@1 is sealed');
    await bootSeat(bench, 'own masters/os@1.qcow2', /cowherd-guest host=\? .*boots=1/, 120_000);
  });
});

describe.skipIf(!canInstall || !haveLibvirtd)('build --iso under libvirt', () => {
  it('installs with the answers of a preseed, and what it made boots', {
    timeout: 900_000,
  }, async () => {
    await using libvirtd = await startLibvirtd();
    const bench = new LabBench(libvirtd.dir);
    const iso = bench.path('debian.iso');
    // As Debian's: without its answers it would ask; when it is done it restarts the machine.
    const ask = 'if ! [ -f /preseed.cfg ]; then echo "no answers" > /dev/ttyS0; poweroff -f; fi';
    const obey = "sed -n 's/^d-i marker string /preseed: /p' /preseed.cfg > /dev/ttyS0";
    await makeInstaller(iso, 'install.amd', `${ask}\n${obey}\n${installer('reboot -f')}`);
    const preseed = bench.path('preseed.cfg');
    writeFileSync(preseed, 'd-i marker string first answer\n');
    const size = ['--disk', '64M', '--memory', '256M', '--display', 'none'];
    const build = ['build', 'os', '--iso', iso, ...size, '--libvirt', libvirtd.uri];
    const said = await bench.must(...build, '--answers', preseed);
    expect(said).toContain('| preseed: first answer');
    expect(said).toContain('| installer: done');
    expect(said).toContain('os@1 is sealed');
    expect((await mustRun('virsh', ['-c', libvirtd.uri, 'list', '--all', '--name'])).trim()).toBe('');
    expect(readdirSync(bench.path('masters')).filter((name) => name.startsWith('.build'))).toEqual([]);
    const elsewhere = await bench.run(
      'build',
      'os',
      '--iso',
      iso,
      '--libvirt',
      'qemu+ssh://root@nowhere/system',
    );
    expect(elsewhere.err).toContain('a libvirt of this machine');
    await mustRun('grub-mkrescue', ['-o', bench.path('empty.iso'), bench.path('masters')]);
    const none = await bench.run(
      'build',
      'os',
      '--iso',
      bench.path('empty.iso'),
      '--answers',
      preseed,
      ...size,
    );
    expect(none.err).toContain('has no installer that takes a preseed');
    await bootSeat(bench, 'masters/os@1.qcow2', /cowherd-guest host=\? .*boots=1/, 300_000);
  });
});

const installer = (end: string) => `
i=0
while [ $i -lt 100 ] && ! { [ -b /dev/sr0 ] && [ -b /dev/vda ]; }; do sleep 0.1; i=$((i + 1)); done
mount -t iso9660 -o ro /dev/sr0 /seed
zcat /seed/disk.gz > /dev/vda && sync && echo 'installer: done' > /dev/ttyS0
sleep 1
${end}
`;

describe.skipIf(!have('qemu-img') || !have('mkfs.ext4'))('build --from', () => {
  it('takes images of other formats, packed ones, and only with the right checksum', async () => {
    await using bench = await labBench();
    const raw = bench.path('cloud.raw');
    await mustRun('truncate', ['-s', '8M', raw]);
    await mustRun('mkfs.ext4', ['-q', '-F', raw]);
    await mustRun('qemu-img', ['convert', '-O', 'vmdk', raw, bench.path('cloud.vmdk')]);
    await mustRun('gzip', ['-k', raw]);
    await bench.must('export', 'cloud.vmdk', 'cloud.ova');
    for (const [i, file] of ['cloud.vmdk', 'cloud.raw.gz', 'cloud.ova'].entries()) {
      const sha256 = createHash('sha256')
        .update(readFileSync(bench.path(file)))
        .digest('hex');
      const refused = await bench.run(
        'build',
        'cloud',
        '--from',
        file,
        '--sha256',
        `${sha256.slice(0, 63)}${sha256.endsWith('0') ? 1 : 0}`,
      );
      expect(refused.code).toBe(1);
      await bench.must('build', 'cloud', '--from', file, '--sha256', sha256.toUpperCase());
      if (i > 0) continue;
      // As Debian publishes them.
      const sha512 = (await mustRun('sha512sum', [bench.path(file)])).split(' ')[0];
      const other = await bench.run('build', 'cloud', '--from', 'cloud.raw.gz', '--sha512', sha512);
      expect([other.code, other.err]).toEqual([1, expect.stringContaining('its SHA-512 is')]);
      expect((await bench.run('build', 'cloud', '--from', file, '--sha512', sha256)).code).toBe(2);
      expect(await bench.must('build', 'other', '--from', file, '--sha512', sha512)).toContain('other@1');
      await mustRun('qemu-img', [
        'compare',
        '-q',
        '-F',
        'raw',
        bench.path('masters', `cloud@${i + 1}.qcow2`),
        raw,
      ]);
    }
    // Its manifest is not right any more.
    await mustRun(
      'sh',
      ['-c', `tar xf cloud.ova && for f in *.ovf; do echo >> $f; done && tar cf torn.ova *.ovf *.mf *.vmdk`],
      {
        cwd: bench.dir.path,
      },
    );
    const torn = await bench.run('build', 'torn', '--from', 'torn.ova');
    expect([torn.code > 0, torn.err]).toEqual([
      true,
      expect.stringContaining('is not what the manifest says'),
    ]);
    expect(existsSync(bench.path('masters/torn@1.qcow2'))).toBe(false);
    for (const [kind, odd] of [
      ['--from=cloud.vmdk', '--disk=40G'],
      ['--debian=bookworm', '--answers=preseed.cfg'],
      ['--small', '--include=ssh'],
    ]) {
      const { code, err } = await bench.run('build', 'cloud', kind, odd);
      expect([code, err]).toEqual([2, expect.stringContaining('means nothing with')]);
    }
    for (const args of [
      ['--iso=none.iso'],
      ['--from=none.iso'],
      ['--iso=cloud.raw', '--answers=none.iso/preseed.cfg'],
    ]) {
      const { code, err } = await bench.run('build', 'cloud', ...args);
      expect([code, err]).toEqual([1, expect.stringMatching(/Could not open '.*none\.iso.*: No such file/)]);
    }
    expect((await bench.run('build', 'cloud')).err).toContain(
      '--small, --debian SUITE, --iso FILE, --from IMAGE',
    );
  });
});

describe.skipIf(!have('qemu-img') || !have('mkfs.ext4') || !have('debugfs'))('build --fix', () => {
  it('seals a copy without what clones would clash by', async () => {
    await using bench = await labBench();
    mkdirSync(bench.path('tree/etc'), { recursive: true });
    writeFileSync(bench.path('tree/etc/machine-id'), '0123456789abcdef0123456789abcdef\n');
    await mustRun('mkfs.ext4', ['-q', '-d', bench.path('tree'), bench.path('dirty.raw'), '8M']);
    const refused = await bench.run('build', 'os', '--from', 'dirty.raw');
    expect([refused.code, refused.out]).toEqual([1, expect.stringContaining('let --fix take it out')]);
    expect(readdirSync(bench.path('masters'))).toEqual(['m.raw']);
    expect(await bench.must('build', 'os', '--from', 'dirty.raw', '--fix')).toContain('os@1 is sealed');
    const { origin } = JSON.parse(readFileSync(bench.path('masters/os@1.json'), 'utf8'));
    expect(origin).toEqual({ how: 'build --from', from: 'dirty.raw', fix: true, changes: 1 });
    const found = await bench.json<{ findings: unknown[] }>('seal', 'masters/os@1.qcow2', '--check');
    expect(found.findings).toEqual([]);
  });
});

describe.skipIf(!long || !have('mmdebstrap') || !canBoot)('build --debian', () => {
  it('makes a Debian that boots by itself, and is by cloud-init who its seat is', {
    timeout: 5_400_000,
  }, async () => {
    await using bench = await labBench();
    const mirror = process.env.COWHERD_DEBIAN_MIRROR;
    const from = mirror ? ['--mirror', mirror] : [];
    const what = ['build', 'debian', '--debian', 'bookworm', '--include', 'cloud-init,openssh-server'];
    const built = await bench.run(...what, ...from, '--output', 'json');
    expect(built.code, built.err).toBe(0);
    expect(JSON.parse(built.out)).toMatchObject({ master: 'debian@1' });
    expect((await run('qemu-img', ['check', bench.path('masters/debian@1.qcow2')])).code).toBe(0);
    // What the seed asks for: a name, a card with an address, all of a larger disk, keys of its own; and a place to log in.
    const tell =
      'echo "guest: $(hostname) $(ip -4 -o addr show scope global | tr -s " " | cut -d " " -f 2,4) $(df -BM --output=size / | tail -1) keys=$(ls /etc/ssh/ssh_host_*_key | wc -l)" > /dev/ttyS0';
    writeFileSync(bench.path('more.yaml.txt'), `#cloud-config\nruncmd:\n  - '${tell}'\n`);
    const said =
      /guest: student-01 eth0 10\.0\.2\.\d+\/24 +3\d{3}M keys=[1-9][\s\S]*student-01 login:|student-01 login:[\s\S]*guest: student-01 eth0 10\.0\.2\.\d+\/24 +3\d{3}M keys=[1-9]/;
    await bootSeat(bench, 'masters/debian@1.qcow2', said, 3_600_000, '768M', {
      disk: { size: '4G' },
      network: 'user',
      seed: { users: [{ name: 'student' }], 'user-data': 'more.yaml.txt' },
    });
  });
});
