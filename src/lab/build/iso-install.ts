import { chmodSync, chownSync, readFileSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { pageAligned } from '../../bytes/page-buffer.ts';
import { isZero } from '../../bytes/zero.ts';
import { DiskError } from '../../errors.ts';
import { createImageFile, openImageFile } from '../../node.ts';
import { mapImage } from '../../operations/map.ts';
import { domainXml } from '../domain/domain-xml.ts';
import { labUuid, uuidV5 } from '../domain/identity.ts';
import { type BootEvent, bootMany } from '../runner/boot-many.ts';
import type { Runner, SeatEnd } from '../runner/runner.ts';
import type { Graphics, Seat, SeatKernel } from '../seats/seat.ts';
import { encodeIso9660 } from '../seed/iso9660.ts';
import { buildLab, forgetFormerMachine, recordMachine } from './installer-machine.ts';
import { isPreseed, preseededInstaller } from './preseed.ts';
import { type Quiet, watchForQuiet } from './quiet-watch.ts';

const MiB = 1024 * 1024;

export interface InstallOptions {
  /** Absolute path of the installer. */
  readonly iso: string;
  /** Absolute path of the disk to make, qcow2. */
  readonly disk: string;
  /** Its guest bytes. */
  readonly size: number;
  /** For files that are needed on the way. */
  readonly scratch: string;
  readonly name: string;
  readonly memoryMiB: number;
  readonly cpus: number;
  readonly graphics: Graphics;
  readonly network: Seat['network'];
  /** Absolute path of the answers to the installer's questions (see `answersImage`, `preseededInstaller`). */
  readonly answers?: string;
  readonly runner: Runner;
  /** libvirt's URI, where the runner is libvirt. */
  readonly libvirt?: string;
  /** Number of the user that QEMU runs as, where that is not this one and files can be given to it. */
  readonly owner?: number;
  /** Milliseconds that it may take; then it is stopped, and has failed. */
  readonly timeLimitMs: number;
  readonly signal?: AbortSignal;
  readonly onStarted?: (seat: Seat) => void;
  readonly onLine?: (text: string) => void;
  /** Told where an installer that has its answers shows no sign of life for ten minutes. */
  readonly onQuiet?: (quiet: Quiet) => void;
}

const quietMs = 10 * 60_000;

/**
 * Makes an empty disk and a machine, boots the installer on it, and waits until the machine is switched off. The disk comes first at boot, so
 * that a restart after the installation boots what was installed; with answers a restart is the end. Throws what starting throws, `io` where it did not end well.
 */
export async function installFromIso(options: InstallOptions): Promise<void> {
  const { runner, name, scratch, disk, size, signal } = options;
  const unavailable = await runner.unavailable();
  if (unavailable !== undefined) throw new DiskError('not-found', unavailable);
  const { answers, iso, libvirt } = options;
  if (libvirt !== undefined) await forgetFormerMachine(runner, libvirt, name);
  let seed: string | undefined;
  let kernel: SeatKernel | undefined;
  if (answers !== undefined && isPreseed(answers)) {
    kernel = await preseededInstaller(iso, readFileSync(answers), scratch, { signal });
  } else if (answers !== undefined) {
    seed = join(scratch, 'answers.iso');
    writeFileSync(seed, answersImage(answers, readFileSync(answers)), { mode: 0o600 });
  }
  await createImageFile(disk, { format: 'qcow2', size });
  // Answers have passwords in them, and so has what is installed by them.
  // A plain user gets back what libvirt lends out only where its file system keeps note of whose it was: not the disk, then.
  const lent = libvirt !== undefined && options.owner === undefined;
  const secret = [seed, kernel?.initrd, lent ? undefined : disk].filter((path) => path !== undefined);
  for (const path of secret) chmodSync(path, 0o600);
  if (options.owner !== undefined) {
    for (const path of [...secret, scratch]) chownSync(path, options.owner, process.getegid!());
  }
  const seat: Seat = {
    lab: buildLab,
    name,
    uuid: uuidV5(disk, labUuid(buildLab)),
    mac: '52:54:00:00:00:01',
    memoryMiB: options.memoryMiB,
    cpus: options.cpus,
    disk: { path: disk, format: 'qcow2', bus: 'virtio' },
    network: options.network,
    cdrom: iso,
    seed,
    kernel,
    // Installers that have their answers restart at their end, and then alone: what they have made is not to boot before its clones do.
    once: answers !== undefined,
    definition: join(scratch, `${name}.xml`),
    serialLog: join(scratch, `${name}.log`),
    graphics: options.graphics,
    firmware: 'bios',
  };
  writeFileSync(seat.definition, domainXml(seat, { type: (await runner.domainType()) ?? 'qemu' }));
  if (libvirt !== undefined) recordMachine(scratch, libvirt, seat);
  await runner.define(seat);
  try {
    using _watch =
      answers === undefined
        ? undefined
        : watchForQuiet({
            disk,
            serialLog: seat.serialLog,
            quietMs,
            onQuiet: (quiet) => options.onQuiet?.(quiet),
          });
    let last: BootEvent | undefined;
    const events = bootMany(runner, [seat], { until: 'off', timeLimitMs: options.timeLimitMs, signal });
    for await (const event of events) {
      if (event.kind === 'started') options.onStarted?.(seat);
      if (event.kind === 'line') options.onLine?.(event.text);
      last = event;
    }
    if (last?.kind === 'failed') throw last.error.field === 'timeout' ? pastLimit(options) : last.error;
    const end = last?.kind === 'done' ? last.end : 'crashed';
    if (end !== 'powered-off') throw tornOff(end);
  } finally {
    await runner.undefine(seat);
  }
  await assertWritten(disk, signal);
}

function pastLimit({ timeLimitMs }: InstallOptions): DiskError {
  return new DiskError(
    'aborted',
    `The installation had not ended after ${timeLimitMs / 60_000} minutes, and its machine was stopped`,
    {
      field: 'timeout',
      detail: {
        fix: 'did the installer ask something? It has to switch its machine off, or have what it installed do so. --limit gives it more time',
      },
    },
  );
}

/** What is on the disk then is a part of an installation. */
function tornOff(end: SeatEnd | 'up'): DiskError {
  if (end !== 'cut-off') return new DiskError('io', 'The machine crashed during the installation');
  return new DiskError(
    'io',
    'The installation was torn off: its machine was ended from outside (destroyed, its memory saved, or its hypervisor told to end)',
    {
      detail: { fix: 'build again, and let the installer, or what it has installed, switch the machine off' },
    },
  );
}

/** Throws `io` for a disk that nothing but zeroes was written to. */
async function assertWritten(path: string, signal: AbortSignal | undefined): Promise<void> {
  await using image = await openImageFile(path, { format: 'qcow2', signal });
  const piece = pageAligned(MiB);
  for await (const entries of mapImage(image, { signal })) {
    for (const { start, length } of entries.filter(({ zero }) => !zero)) {
      for (let at = start; at < start + length; at += piece.length) {
        const part = piece.subarray(0, Math.min(piece.length, start + length - at));
        await image.read(at, part);
        if (!isZero(part)) return;
      }
    }
  }
  throw new DiskError(
    'io',
    'The machine was switched off, and nothing had been installed: its disk is empty',
    {
      detail: { fix: 'is it an installer that boots, and did it find the disk?' },
    },
  );
}

/**
 * A disc with the answers to an installer's questions, by what the file is called: `user-data` for cloud-init and Ubuntu's autoinstall (label
 * cidata), `ks.cfg` or `*.ks` for Anaconda (label OEMDRV, where it looks by itself). Throws `unsupported` for others.
 */
export function answersImage(path: string, bytes: Uint8Array): Uint8Array {
  const date = new Date(Date.UTC(2020, 0, 1));
  const name = basename(path);
  if (name === 'user-data') {
    const metaData = new TextEncoder().encode('instance-id: cowherd-build\n');
    const files = [
      { name: 'meta-data', bytes: metaData },
      { name: 'user-data', bytes },
    ];
    return encodeIso9660(files, { volumeId: 'cidata', date });
  }
  if (name === 'ks.cfg' || name.endsWith('.ks')) {
    return encodeIso9660([{ name: 'ks.cfg', bytes }], { volumeId: 'OEMDRV', date });
  }
  throw new DiskError('unsupported', `No installer would look for '${name}' by itself`, {
    path,
    detail: {
      fix: 'call it preseed.cfg (Debian), user-data (cloud-init, autoinstall) or ks.cfg (kickstart)',
    },
  });
}
