import { statSync } from 'node:fs';
import { basename, extname, resolve } from 'node:path';
import type { CliContext } from '../../cli/context.ts';
import { humanSize } from '../../cli/sizes.ts';
import { DiskError } from '../../errors.ts';
import type { Image } from '../../image/image.ts';
import { trustedImages } from '../../image/policy.ts';
import { openImageFile } from '../../node.ts';
import { assertWholeSource } from '../disks/whole-source.ts';
import { exportAppliance } from '../export/export-appliance.ts';
import { assertFree } from '../import/copy-disk.ts';
import { openLab } from '../lab.ts';
import { withoutControls } from '../messages.ts';
import { assertNotSaved } from '../seats/saved-memory.ts';
import { openSeatDisk, seatDiskFile } from '../seats/seat-disk.ts';
import { assertOwnExtraDisks } from '../seats/seat-extras.ts';
import { disksOf } from '../seats/seat-key.ts';
import { assertNothingAbove, assertOwnDisks } from '../standing/release.ts';
import {
  type Input,
  type LabCommand,
  lazyProgress,
  runnerOf,
  say,
  sayJson,
  shown,
  wantsJson,
  warn,
} from './command.ts';
import { assertFileNotSaved } from './saved-memory.ts';

type Bus = 'ide' | 'sata' | 'scsi';

/** What is exported, before the options have their say. */
interface Machine {
  readonly name: string;
  readonly memoryMiB: number;
  readonly cpus: number;
  readonly firmware: 'bios' | 'uefi';
  readonly bus: Bus;
  readonly networkCards: number;
  readonly disks: readonly MachineDisk[];
}

interface MachineDisk {
  readonly path: string;
  /** What is read from it is not to be read by everybody. */
  readonly secret?: boolean;
  open(signal: AbortSignal): Promise<Image>;
}

/** `cowherd export IMAGE|SEAT out.ova`. */
export const run: LabCommand = async (input, context) => {
  const [what, where] = input.operands;
  const path = resolve(context.cwd, where);
  if (extname(path).toLowerCase() !== '.ova') {
    throw new DiskError('bad-argument', `'${where}' does not end in .ova`, { path, field: 'output' });
  }
  assertFree(path, input.options.force === true);
  const lab = text(input, 'lab');
  const machine =
    lab === undefined
      ? await imageMachine(resolve(context.cwd, what), context)
      : await seatMachine(lab, what, context.cwd);
  const secret = machine.disks.some((disk) => disk.secret);
  const wish = {
    name: text(input, 'name') ?? machine.name,
    memoryMiB: count(input, 'memory', machine.memoryMiB),
    cpus: count(input, 'cpus', machine.cpus),
    firmware: (text(input, 'firmware') as Machine['firmware'] | undefined) ?? machine.firmware,
    bus: (text(input, 'bus') as Bus | undefined) ?? machine.bus,
    networkCards: machine.networkCards,
  };
  const images: Image[] = [];
  const dryRun = input.options.dryRun === true;
  try {
    for (const disk of machine.disks) images.push(await disk.open(context.signal));
    if (secret) {
      const whose = `the disks of ${what} are encrypted, ${shown(context, path)} is not`;
      warn(context, `${whose}: it is for its owner alone to read (mode 0600)`);
    }
    if (!dryRun) await write(path, { ...wish, images }, { input, mode: secret ? 0o600 : undefined }, context);
    const disks = images.map(({ size }, index) => ({ path: machine.disks[index].path, capacity: size }));
    if (wantsJson(input)) sayJson(context, { path, ...wish, disks, dryRun, bytes: sizeOf(path, dryRun) });
    else {
      const size = dryRun ? '' : `, ${humanSize(statSync(path).size)}`;
      say(
        context,
        withoutControls(
          `${dryRun ? 'would make' : 'made'} ${shown(context, path)}${size}: ${wish.name}, ${images.length} disk(s) on ${wish.bus}`,
        ),
      );
    }
    return 0;
  } finally {
    for (const image of images) await image[Symbol.asyncDispose]();
  }
};

async function write(
  path: string,
  wish: Parameters<typeof exportAppliance>[1],
  { input, mode }: { readonly input: Input; readonly mode: number | undefined },
  context: Parameters<LabCommand>[1],
): Promise<void> {
  const copying = wish.images.map((_, index) => lazyProgress(context, `disk ${index + 1}`, 'bytes'));
  try {
    await exportAppliance(path, wish, {
      mode,
      signal: context.signal,
      force: input.options.force === true,
      onCopy(disk, done, total) {
        copying[disk].update(done, total);
        if (done === total) copying[disk].end();
      },
    });
  } finally {
    for (const progress of copying) progress.end();
  }
}

function sizeOf(path: string, dryRun: boolean): number | undefined {
  return dryRun ? undefined : statSync(path).size;
}

async function imageMachine(path: string, context: CliContext): Promise<Machine> {
  await assertFileNotSaved(path, context);
  return {
    name: basename(path, extname(path)),
    memoryMiB: 2048,
    cpus: 2,
    firmware: 'bios',
    bus: 'sata',
    networkCards: 1,
    disks: [{ path, open: (signal) => openWhole(path, signal) }],
  };
}

/** Throws as `assertWholeSource`, but takes any file without a format for the bytes of a disk. */
async function openWhole(path: string, signal: AbortSignal): Promise<Image> {
  const image = await openImageFile(path, { policy: trustedImages, signal });
  try {
    await assertWholeSource(image, { name: path, format: image.layer.format, signal });
  } catch (error) {
    await image[Symbol.asyncDispose]();
    throw error;
  }
  return image;
}

/** A seat with all its disks, which are what the lab made, on what it made them on. Throws as `seatDiskFile` and `openSeatDisk` do. */
async function seatMachine(labFile: string, name: string, cwd: string): Promise<Machine> {
  const lab = openLab(labFile, cwd);
  const seat = lab.seats.get(name);
  if (!seat) {
    throw new DiskError('not-found', `The lab has no seat '${name}'`, { path: labFile, field: 'seats' });
  }
  await seatDiskFile(lab, name);
  assertOwnExtraDisks(lab, name, 'move it away, or leave that disk out of the lab file');
  const disks = disksOf(seat);
  assertNothingAbove(
    disks.map(({ path }) => path),
    lab,
  );
  await using runner = await runnerOf(lab);
  // Where the hypervisor does not answer, the disk's locks tell that nobody runs on it.
  if ((await runner.unavailable()) === undefined) {
    await assertNotSaved([seat], runner);
    await assertOwnDisks([seat], runner);
  }
  const { bus } = seat.disk;
  return {
    name: `${seat.lab}-${seat.name}`,
    memoryMiB: seat.memoryMiB,
    cpus: seat.cpus,
    firmware: seat.firmware,
    // Neither VMware nor VirtualBox has virtio disks by an OVF's word.
    bus: bus === 'virtio' ? 'sata' : bus,
    networkCards: seat.network.kind === 'none' ? 0 : 1,
    disks: disks.map(({ path, encryption }) => ({
      path,
      secret: encryption !== undefined,
      open: () => openSeatDisk({ seat: name, path, encryption }),
    })),
  };
}

function count(input: Input, name: string, otherwise: number): number {
  const value = text(input, name);
  if (value === undefined) return otherwise;
  if (/^[1-9]\d{0,6}$/.test(value)) return Number(value);
  throw new DiskError('bad-argument', `--${name} takes a number, not '${value}'`, { field: name });
}

function text(input: Input, name: string): string | undefined {
  const value = input.options[name];
  return typeof value === 'string' ? value : undefined;
}
