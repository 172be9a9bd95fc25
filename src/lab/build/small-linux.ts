import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { copyFile, mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { DiskError } from '../../errors.ts';
import { bootDiskTools, haveGrub, makeBootDisk } from './boot-disk.ts';
import { findTool, requireTools, runTool, type ToolOptions } from './tools.ts';

/*
 * A Linux of 16 MiB: a Debian kernel of this machine, busybox, GRUB, an ext4 partition made by `mkfs.ext4 -d`. No mount, no loop
 * device, no privilege. Its init looks for a disc labelled cidata and says on the serial console who it is.
 */

const modules = ['ext4', 'virtio_pci', 'virtio_blk', 'ata_piix', 'sr_mod', 'isofs', 'button', 'evdev'];
const MiB = 1024 * 1024;

/** The newest of this machine's Debian kernels, by version. */
function kernelVersion(): string | undefined {
  if (!existsSync('/boot')) return undefined;
  const found = readdirSync('/boot').flatMap((name) => /^vmlinuz-(.*-amd64)$/.exec(name)?.[1] ?? []);
  return found
    .filter((version) => existsSync(`/lib/modules/${version}/modules.dep`))
    .sort(new Intl.Collator('en', { numeric: true }).compare)
    .at(-1);
}

const tools = { ...bootDiskTools, busybox: 'busybox-static', gzip: 'gzip' };

/** Whether everything that the small Linux is made of is on this machine. */
export function haveLinuxGuest(): boolean {
  return (
    kernelVersion() !== undefined &&
    haveGrub() &&
    Object.keys(tools).every((name) => findTool(name) !== undefined)
  );
}

/** Throws `not-found`, with what to install, where something of it is missing. */
export function requireLinuxGuest(): void {
  requireTools(tools);
  if (kernelVersion() !== undefined && haveGrub()) return;
  throw new DiskError('not-found', 'This needs a Debian kernel and GRUB for a BIOS on this machine', {
    detail: { fix: 'apt install linux-image-cloud-amd64 grub-pc-bin' },
  });
}

export interface LinuxGuestOptions {
  /** More of the init script, run once the guest has said who it is. Default: it stays up. */
  readonly then?: string;
  /** Added to the kernel's command line. */
  readonly kernelArguments?: string;
  readonly tool?: ToolOptions;
}

/** A folder for what is needed on the way. */
export interface Scratch {
  file(name: string): string;
}

/**
 * Makes the disk as a raw image of 32 MiB at `path`. Every boot adds a line to `/boots` of its partition, and prints
 * `cowherd-guest host=NAME instance=ID boots=N user-data=FIRST-LINE` (`host=?` without a seed). A press of the power
 * button ends it.
 */
export async function makeLinuxGuest(
  folder: Scratch,
  path: string,
  options: LinuxGuestOptions = {},
): Promise<void> {
  const tree = folder.file('linux-tree');
  await mkdir(join(tree, 'boot/grub'), { recursive: true });
  await copyLinux(folder, join(tree, 'boot'), initScript(options.then ?? stayUp), options.tool);
  writeFileSync(
    join(tree, 'boot/grub/grub.cfg'),
    `linux /boot/vmlinuz console=ttyS0 no_timer_check quiet panic=-1 ${options.kernelArguments ?? ''}\ninitrd /boot/initrd\nboot\n`,
  );
  await makeBootDisk({
    path,
    tree,
    size: 32 * MiB,
    scratch: folder.file('.'),
    mkfs: ['-O', '^has_journal'],
    tool: options.tool,
  });
}

/** Puts `vmlinuz` and `initrd` into a folder: this machine's kernel, and busybox with what `init` says it does. */
export async function copyLinux(
  folder: Scratch,
  into: string,
  init: string,
  tool: ToolOptions = {},
): Promise<void> {
  const version = kernelVersion()!;
  await copyFile(`/boot/vmlinuz-${version}`, join(into, 'vmlinuz'));
  await makeInitramfs(version, folder.file('linux-init'), join(into, 'initrd'), init, tool);
}

async function makeInitramfs(
  version: string,
  folder: string,
  target: string,
  init: string,
  tool: ToolOptions,
): Promise<void> {
  for (const name of [
    'bin',
    'proc',
    'sys',
    'dev',
    'disk',
    'seed',
    'mod',
    'etc/acpi/PWRF',
    'var/run',
    'var/log',
  ]) {
    await mkdir(join(folder, name), { recursive: true });
  }
  const busybox = ['/bin/busybox', '/usr/bin/busybox'].find((one) => existsSync(one))!;
  await copyFile(busybox, join(folder, 'bin/busybox'));
  const insmods: string[] = [];
  for (const [i, file] of moduleFiles(version).entries()) {
    await copyFile(file, join(folder, `mod/${i}.ko`));
    insmods.push(`insmod /mod/${i}.ko`);
  }
  // What busybox's acpid runs for the power button without any configuration.
  const pressed = join(folder, 'etc/acpi/PWRF/00000080');
  writeFileSync(pressed, '#!/bin/busybox sh\n/bin/busybox umount /disk\nexec /bin/busybox poweroff -f\n', {
    mode: 0o755,
  });
  writeFileSync(join(folder, 'init'), initStart(insmods) + init, { mode: 0o755 });
  await runTool(
    'sh',
    ['-c', `find . | busybox cpio -o -H newc 2>/dev/null | gzip -1 > '${target.replaceAll("'", "'\\''")}'`],
    { ...tool, cwd: folder },
  );
}

const stayUp = 'while :; do sleep 3600; done';

/** How every init begins: the kernel's own file systems, drivers, the power button. */
function initStart(insmods: readonly string[]): string {
  return `#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
${insmods.join('\n')}
acpid -f -l /dev/null &
`;
}

function initScript(then: string): string {
  return `i=0
while [ $i -lt 50 ] && ! [ -b /dev/vda1 ]; do sleep 0.1; i=$((i + 1)); done
mount /dev/vda1 /disk && echo boot >> /disk/boots && sync
host='?' instance='?' first='?'
for disc in /dev/sr* /dev/vd[b-z]; do
  [ -b $disc ] && mount -t iso9660 -o ro $disc /seed 2>/dev/null || continue
  [ -f /seed/meta-data ] && break
  umount /seed
done
if [ -f /seed/meta-data ]; then
  host=$(sed -n 's/^local-hostname: *//p' /seed/meta-data)
  instance=$(sed -n 's/^instance-id: *//p' /seed/meta-data)
  first=$(sed -n 1p /seed/user-data)
fi
hostname "$host"
echo "cowherd-guest host=$(hostname) instance=$instance boots=$(wc -l < /disk/boots) user-data=$first" > /dev/ttyS0
${then}
`;
}

/** The modules and what they need, in the order to load them. */
function moduleFiles(version: string): readonly string[] {
  const base = `/lib/modules/${version}`;
  const needs = new Map<string, readonly string[]>();
  for (const line of readFileSync(join(base, 'modules.dep'), 'utf8').split('\n')) {
    const [file, rest] = line.split(':');
    if (rest !== undefined)
      needs.set(
        file,
        rest.split(' ').filter((one) => one !== ''),
      );
  }
  const order: string[] = [];
  const add = (file: string) => {
    if (order.includes(file)) return;
    for (const one of [...(needs.get(file) ?? [])].reverse()) add(one);
    order.push(file);
  };
  for (const name of modules) {
    const file = [...needs.keys()].find((one) => one.endsWith(`/${name}.ko`));
    if (file !== undefined) add(file);
  }
  return order.map((file) => join(base, file));
}
