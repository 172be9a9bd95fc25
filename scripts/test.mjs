// `npm test`: installs what is missing, then lint, types, build and every suite. The last line counts:
// `N passed, N failed, N skipped`. Arguments go to vitest (`npm test -- src/formats`).
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { installDebianPackages, installPackages, libraries, root, run } from './bootstrap.mjs';

/** Programs that judge our work, and the Debian packages that bring them. */
const judges = {
  'qemu-img': 'qemu-utils',
  'qemu-io': 'qemu-utils',
  'qemu-nbd': 'qemu-utils',
  cryptsetup: 'cryptsetup-bin',
  nbdcopy: 'libnbd-bin',
  nbdfuse: 'libnbd-bin',
  nbdkit: 'nbdkit',
  fio: 'fio',
  nbdsh: 'python3-libnbd',
  openssl: 'openssl',
  'qemu-system-x86_64': 'qemu-system-x86',
  virsh: 'libvirt-clients',
  libvirtd: 'libvirt-daemon-system',
  '7zz': '7zip',
  vmdkinfo: 'libvmdk-utils',
  '/usr/lib/python3/dist-packages/VMDKstream.py': 'python3-vmdkstream',
  vhdiinfo: 'libvhdi-utils',
  qcowmount: 'libqcow-utils',
  objdump: 'binutils',
  sfdisk: 'fdisk',
  losetup: 'mount',
  'mkfs.ext4': 'e2fsprogs',
  'mkfs.btrfs': 'btrfs-progs',
  'mkfs.xfs': 'xfsprogs',
  strace: 'strace',
  setfacl: 'acl',
  setfattr: 'attr',
  'mkfs.fat': 'dosfstools',
  mcopy: 'mtools',
  'grub-mkrescue': 'grub-common',
  xmllint: 'libxml2-utils',
  isoinfo: 'genisoimage',
  xorriso: 'xorriso',
  busybox: 'busybox-static',
  'grub-mkimage': 'grub-common',
  '/boot/vmlinuz-*': 'linux-image-cloud-amd64',
  '/usr/lib/grub/i386-pc/kernel.img': 'grub-pc-bin',
  '/usr/share/OVMF/OVMF_CODE_4M.fd': 'ovmf',
  swtpm: 'swtpm',
  swtpm_setup: 'swtpm-tools',
  tini: 'tini',
  '/usr/sbin/sshd': 'openssh-server',
  ssh: 'openssh-client',
  xz: 'xz-utils',
  bzip2: 'bzip2',
  zstd: 'zstd',
  gcc: 'gcc',
  chromium: 'chromium',
  ...libraries,
  // It lays out volumes without the kernel's device mapper too.
  lvcreate: 'lvm2',
};

installPackages();
const missing = installDebianPackages(judges);
if (missing.length > 0) {
  console.log(`Not installed (their tests count as skipped): ${missing.join(' ')}`);
  console.log(`To run them too: sudo apt-get install ${missing.join(' ')}`);
}

let passed = 0;
let failed = 0;
let skipped = 0;

/** A check of the whole tree counts as one test. */
function check(title, command, args) {
  const started = Date.now();
  const ok = run(command, args, { quiet: true }) === 0;
  console.log(`${ok ? '✓' : '✗'} ${title} (${((Date.now() - started) / 1000).toFixed(1)} s)`);
  if (ok) passed += 1;
  else failed += 1;
}

const only = process.argv.slice(2);
const bin = (name) => join(root, 'node_modules/.bin', name);
if (only.length === 0) {
  check('lint and format', bin('biome'), ['check', '--error-on-warnings', '.']);
  check('types', bin('tsc'), ['--noEmit', '-p', '.']);
}
check('build', process.execPath, ['scripts/build.mjs']);

const scratch = mkdtempSync(join(tmpdir(), 'cowherd-test-'));
const report = join(scratch, 'report.json');
run(bin('vitest'), ['run', '--reporter=default', '--reporter=json', `--outputFile.json=${report}`, ...only]);
try {
  const result = JSON.parse(readFileSync(report, 'utf8'));
  passed += result.numPassedTests;
  failed += result.numFailedTests;
  skipped += result.numPendingTests + result.numTodoTests;
  const names = [];
  for (const suite of result.testResults) {
    // A file that could not be loaded has failed without a test to its name.
    if (suite.status === 'failed' && suite.assertionResults.every((one) => one.status !== 'failed'))
      failed += 1;
    for (const one of suite.assertionResults) {
      if (one.status === 'pending' || one.status === 'skipped' || one.status === 'todo')
        names.push(one.fullName);
    }
  }
  if (names.length > 0) console.log(`Skipped:\n${names.map((name) => `  ${name}`).join('\n')}`);
  if (result.numTotalTests === 0) failed += 1;
} catch (error) {
  console.error(`The test runner left no report: ${error.message}`);
  failed += 1;
} finally {
  rmSync(scratch, { recursive: true, force: true });
}

console.log(`${passed} passed, ${failed} failed, ${skipped} skipped`);
process.exit(failed > 0 ? 1 : 0);
