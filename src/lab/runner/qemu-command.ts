import { accessSync, constants, statSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { DiskError } from '../../errors.ts';
import type { DiskBus, Seat, SeatDisk } from '../seats/seat.ts';
import { disksOf } from '../seats/seat-key.ts';
import type { Accelerator } from './accelerator.ts';
import type { SeatFiles } from './runtime-dir.ts';

const names = ['qemu-system-x86_64', 'qemu-kvm', 'qemu-system-i386'];
/** Where Red Hat and its kin keep theirs, off the PATH. */
const otherFolders = ['/usr/libexec', '/usr/local/bin', '/opt/homebrew/bin'];

/** The QEMU that boots PCs: `COWHERD_QEMU`, or the first on PATH; undefined when there is none. */
export function findQemu(
  env: Readonly<Record<string, string | undefined>> = process.env,
): string | undefined {
  if (env.COWHERD_QEMU) return isProgram(env.COWHERD_QEMU) ? env.COWHERD_QEMU : undefined;
  const folders = [...(env.PATH ?? '').split(delimiter).filter((folder) => folder !== ''), ...otherFolders];
  for (const name of names) {
    for (const folder of folders) if (isProgram(join(folder, name))) return join(folder, name);
  }
  return undefined;
}

/** How to get QEMU, in one sentence. */
export const qemuMissing =
  "No qemu-system-x86_64 was found, so nothing can boot here. Install it ('apt install qemu-system-x86', 'dnf install qemu-kvm', 'brew install qemu'), or set COWHERD_QEMU to its path";

function isProgram(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return statSync(path).isFile();
  } catch {
    return false;
  }
}

/** What QEMU is told of while it starts. */
export interface StartFiles extends SeatFiles {
  /** The passphrase of its disks. */
  readonly secret?: string;
  /** Number of a socket that it inherits, and is a monitor over. */
  readonly events?: number;
}

/** QEMU's arguments for a seat. Nothing of the user's QEMU configuration plays a part. */
export function qemuArguments(seat: Seat, files: StartFiles, accelerator: Accelerator): string[] {
  return [
    ...['-name', `guest=${option(seat.name)}`, '-uuid', seat.uuid],
    ...['-no-user-config', '-nodefaults', '-machine', 'pc', '-accel', accelerator],
    // Under emulation 'max' is what the emulator can do; under KVM the host's own processor is the fastest.
    ...['-cpu', accelerator === 'kvm' ? 'host' : 'max'],
    ...['-m', `${seat.memoryMiB}M`, '-smp', String(seat.cpus), '-boot', 'menu=off,strict=on'],
    ...kernelArguments(seat),
    ...(seat.once ? ['-no-reboot'] : []),
    ...['-pidfile', files.pid],
    ...['-chardev', `socket,id=qmp,path=${option(files.qmp)},server=on,wait=off`],
    ...['-mon', 'chardev=qmp,mode=control'],
    // The end is told to who started it, from the first moment on: the monitor above serves one client, whoever comes.
    ...(files.events === undefined
      ? []
      : ['-chardev', `socket,id=events,fd=${files.events}`, '-mon', 'chardev=events,mode=control']),
    ...['-chardev', `file,id=serial0,path=${option(seat.serialLog)},append=on`, '-serial', 'chardev:serial0'],
    ...secretArguments(seat, files),
    ...diskArguments(seat),
    ...(seat.disks ?? []).flatMap((disk, i) => extraDiskArguments(disk, i)),
    ...(seat.cdrom === undefined ? [] : cdromArguments(seat.cdrom, 'cdrom')),
    ...(seat.seed === undefined ? [] : cdromArguments(seat.seed, 'seed')),
    ...networkArguments(seat),
    ...(seat.graphics === 'vnc'
      ? ['-vga', 'std', '-vnc', `unix:${option(files.vnc)}`]
      : ['-vga', 'none', '-display', 'none']),
  ];
}

function kernelArguments({ kernel }: Seat): string[] {
  if (!kernel) return [];
  const { path, initrd, commandLine } = kernel;
  return ['-kernel', path, '-initrd', initrd, '-append', commandLine];
}

const diskDevices: Readonly<Record<DiskBus, readonly string[]>> = {
  virtio: ['-device', 'virtio-blk-pci,drive=disk,bootindex=1'],
  ide: ['-device', 'ide-hd,drive=disk,bus=ide.0,bootindex=1'],
  sata: ['-device', 'ahci,id=ahci', '-device', 'ide-hd,drive=disk,bus=ahci.0,bootindex=1'],
};

/**
 * The disk as JSON, so that no character of its path means anything. Image locking is QEMU's default: on where
 * the system has the locks for it. The backing chain is opened by what the image says, with its formats.
 */
function diskArguments(seat: Seat): string[] {
  return ['-blockdev', diskNode(seat.disk, 'disk'), ...diskDevices[seat.disk.bus]];
}

/** QEMU reads the passphrase from a file, which is gone when it has started: others see its arguments. */
function secretArguments(seat: Seat, files: StartFiles): string[] {
  if (!disksOf(seat).some((disk) => disk.encryption)) return [];
  return ['-object', JSON.stringify({ 'qom-type': 'secret', id: secretId, file: files.secret })];
}

const secretId = 'passphrase';

function diskNode({ path, format, block, encryption }: SeatDisk, name: string): string {
  return JSON.stringify({
    'node-name': name,
    driver: format,
    discard: 'unmap',
    ...(encryption ? { encrypt: { format: 'luks', 'key-secret': secretId } } : {}),
    file: { driver: block ? 'host_device' : 'file', filename: path, discard: 'unmap' },
  });
}

function extraDiskArguments(disk: SeatDisk, index: number): string[] {
  const name = `disk${index + 1}`;
  const device =
    disk.bus === 'virtio'
      ? ['-device', `virtio-blk-pci,drive=${name}`]
      : ['-device', `ahci,id=ahci-${name}`, '-device', `ide-hd,drive=${name},bus=ahci-${name}.0`];
  return ['-blockdev', diskNode(disk, name), ...device];
}

function cdromArguments(path: string, name: 'cdrom' | 'seed'): string[] {
  const blockdev = {
    'node-name': name,
    driver: 'raw',
    'read-only': true,
    file: { driver: 'file', filename: path },
  };
  const place = name === 'cdrom' ? 'unit=0,bootindex=2' : 'unit=1';
  return ['-blockdev', JSON.stringify(blockdev), '-device', `ide-cd,drive=${name},bus=ide.1,${place}`];
}

function networkArguments(seat: Seat): string[] {
  switch (seat.network.kind) {
    case 'none':
      return ['-nic', 'none'];
    case 'user':
      return ['-netdev', 'user,id=net', '-device', `virtio-net-pci,netdev=net,mac=${seat.mac},romfile=`];
    case 'bridge':
      return [
        ...['-netdev', `bridge,id=net,br=${option(seat.network.name)}`],
        ...['-device', `virtio-net-pci,netdev=net,mac=${seat.mac},romfile=`],
      ];
    case 'network':
      throw new DiskError(
        'unsupported',
        `Seat '${seat.name}' is on the libvirt network '${seat.network.name}', which the qemu runner cannot join: use 'network: user', 'none' or a bridge`,
        { field: 'network' },
      );
  }
}

/** A text inside QEMU's comma-separated options. */
function option(text: string): string {
  return text.replaceAll(',', ',,');
}
