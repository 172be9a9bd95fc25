import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { guidText, randomGuid } from '../../bytes/guid.ts';
import { DiskError } from '../../errors.ts';
import { bootDiskTools, haveGrub, makeBootDisk } from './boot-disk.ts';
import { requireTools, runTool, type ToolOptions } from './tools.ts';

export interface DebianOptions {
  /** `bookworm`, `trixie` … */
  readonly suite: string;
  /** Debian packages beside those that a bootable system takes. */
  readonly include: readonly string[];
  /** Guest bytes, whole MiB. */
  readonly size: number;
  readonly mirror?: string;
  readonly tool?: ToolOptions;
}

/** What a system needs to boot by itself, to be logged in to, and to be told who it is. */
const basePackages = [
  'linux-image-cloud-amd64',
  'systemd-sysv',
  'udev',
  'dbus',
  'login',
  'passwd',
  'iproute2',
  'systemd-resolved',
];

/** What cloud-init only recommends, and needs to let a seat's disk be larger than the master, and users be administrators. */
const withCloudInit = ['cloud-guest-utils', 'sudo'];

/** Until a seed says otherwise, cards ask for their addresses. */
const network = '[Match]\nType=ether\n\n[Network]\nDHCP=yes\n';

/**
 * Makes a Debian disk as a raw image at `path`: mmdebstrap, one ext4 partition filled by `mkfs.ext4 -d`, GRUB. As an ordinary user
 * it works in user namespaces. Nobody can log in until a package or a seed (cloud-init) makes a user. Throws `not-found` for
 * missing programs, `bad-argument`, `io`.
 */
export async function makeDebian(scratch: string, path: string, options: DebianOptions): Promise<void> {
  const { suite, include, size, mirror, tool } = options;
  // An ordinary user's namespaces get their numbers by it.
  const namespaces: Readonly<Record<string, string>> = isRoot ? {} : { newuidmap: 'uidmap' };
  requireTools({ ...bootDiskTools, mmdebstrap: 'mmdebstrap', ...namespaces });
  if (!haveGrub()) {
    throw new DiskError('not-found', 'This needs GRUB for a BIOS', {
      detail: { fix: 'apt install grub-pc-bin' },
    });
  }
  for (const word of [suite, ...include]) {
    if (!/^[a-z0-9][a-z0-9+.-]*$/.test(word)) {
      throw new DiskError('bad-argument', `"${word}" is no name of a suite or package`);
    }
  }
  const packages = include.includes('cloud-init') ? [...include, ...withCloudInit] : include;
  const tree = join(scratch, 'debian');
  const uuid = guidText(randomGuid());
  const extra = join(scratch, 'extra');
  mkdirSync(join(extra, 'boot/grub'), { recursive: true });
  mkdirSync(join(extra, 'etc/systemd/network'), { recursive: true });
  writeFileSync(join(extra, 'etc/systemd/network/80-dhcp.network'), network);
  const kernel = `root=UUID=${uuid} ro console=tty0 console=ttyS0 no_timer_check`;
  writeFileSync(join(extra, 'boot/grub/grub.cfg'), `linux /vmlinuz ${kernel}\ninitrd /initrd.img\nboot\n`);
  writeFileSync(join(extra, 'etc/fstab'), `UUID=${uuid} / ext4 defaults,errors=remount-ro 0 1\n`);
  await runTool(
    'mmdebstrap',
    [
      ...['--variant=minbase', `--include=${[...basePackages, ...packages].join(',')}`],
      ...['--format=directory', `--mode=${isRoot ? 'root' : 'unshare'}`],
      `--customize-hook=sync-in ${extra} /`,
      '--customize-hook=chroot "$1" systemctl enable systemd-networkd',
      // What would be the same on every clone.
      '--customize-hook=truncate -s 0 "$1/etc/machine-id"',
      '--customize-hook=rm -f "$1"/etc/ssh/ssh_host_* "$1"/var/lib/dbus/machine-id "$1"/var/lib/systemd/random-seed',
      '--customize-hook=find "$1/var/log" -type f -delete',
      '--customize-hook=echo localhost > "$1/etc/hostname"',
      ...[suite, tree],
      ...(mirror === undefined ? [] : [mirror]),
    ],
    tool,
  );
  await makeBootDisk({
    path,
    tree,
    size,
    scratch,
    mkfs: ['-U', uuid, '-L', 'root'],
    // The files' owners are those of the namespace.
    helper: isRoot ? [] : ['mmdebstrap', '--unshare-helper'],
    tool,
  });
}

const isRoot = process.getuid?.() === 0;
