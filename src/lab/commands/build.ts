import { accessSync, chmodSync, constants } from 'node:fs';
import { join, resolve } from 'node:path';
import type { CliContext } from '../../cli/context.ts';
import { parseSize } from '../../cli/sizes.ts';
import { openUnpacked } from '../../cli/unpacked-image.ts';
import { DiskError, isDiskError } from '../../errors.ts';
import type { Image } from '../../image/image.ts';
import { openFileStore, openImageFile, untrustedImages } from '../../node.ts';
import { asSystemError } from '../../platform/errno.ts';
import { makeFolder } from '../../platform/json-file.ts';
import { createScratchFolder } from '../../platform/scratch-folder.ts';
import { compressionIn } from '../../storage/file-unpacked.ts';
import { makeDebian } from '../build/debian.ts';
import { installFromIso } from '../build/iso-install.ts';
import { makeLinuxGuest, requireLinuxGuest } from '../build/small-linux.ts';
import { keepUnsealed } from '../build/unsealed-disk.ts';
import { verifyFile } from '../build/verified-file.ts';
import { assertWholeSource } from '../disks/whole-source.ts';
import { accountFor } from '../doctor/account.ts';
import { unpackAppliance } from '../import/import-appliance.ts';
import { isPackage } from '../import/package.ts';
import { withoutControls } from '../messages.ts';
import { createRunner } from '../runner/runners.ts';
import { viewerFor } from '../screen.ts';
import { type Input, type LabCommand, lazyProgress, say, shown, wantsJson, warn } from './command.ts';
import { assertFileNotSaved } from './saved-memory.ts';
import { defaultFolder, leftBehind, makeVersion, nameFrom } from './seal.ts';

const MiB = 1024 * 1024;
const kinds = ['small', 'debian', 'iso', 'from'] as const;
const installLimitMinutes = 24 * 60;
/** What a timer can wait for. */
const mostMinutes = 30_000;

/** `cowherd build`: makes a master and seals it. Exit code 1 where clones of it would clash. */
export const run: LabCommand = async (input, context) => {
  const chosen = kinds.filter((kind) => input.options[kind] !== undefined);
  if (chosen.length !== 1) {
    throw new DiskError('bad-argument', 'What is the master made from?', {
      detail: { fix: 'say one of --small, --debian SUITE, --iso FILE, --from IMAGE' },
    });
  }
  assertMeant(chosen[0], input);
  const name = nameFrom({ ...input, options: { name: input.operands[0] } }, '');
  const folder = resolve(context.cwd, text(input, 'folder') ?? defaultFolder);
  makeFolder(folder);
  // Beside the versions: there is room for a disk, and it is no other file system.
  using scratch = createScratchFolder(folder, name, leftBehind(context, folder));
  await using image = await builders[chosen[0]](input, context, scratch.path, name);
  return await makeVersion(image, input, context, {
    name,
    origin: originOf(chosen[0], input),
    keep: chosen[0] === 'iso' ? () => keepUnsealed(installedIn(scratch.path), folder, name) : undefined,
  });
};

/** The disk that an installer fills. */
function installedIn(scratch: string): string {
  return join(scratch, 'disk.qcow2');
}

/** What each kind of build can be told. */
const optionsOf: Readonly<Record<(typeof kinds)[number], readonly string[]>> = {
  small: [],
  debian: ['include', 'mirror', 'disk'],
  iso: ['answers', 'libvirt', 'memory', 'display', 'limit', 'disk', 'sha256', 'sha512'],
  from: ['format', 'sha256', 'sha512'],
};

/** Throws `bad-argument` for an option that this kind of build would do nothing about. */
function assertMeant(kind: (typeof kinds)[number], { options }: Input): void {
  const known = [...new Set(Object.values(optionsOf).flat())];
  const odd = known.find((one) => options[one] !== undefined && !optionsOf[kind].includes(one));
  if (odd === undefined) return;
  const takes = kinds.filter((one) => optionsOf[one].includes(odd)).map((one) => `--${one}`);
  throw new DiskError('bad-argument', `--${odd} means nothing with --${kind}`, {
    field: odd,
    detail: {
      fix: `it goes with ${takes.join(' and ')}${odd === 'disk' ? "; seats are made larger by the lab file's disk: {size: 40G}" : ''}`,
    },
  });
}

/**
 * The machine's files are here, and libvirt's QEMU is another user: the superuser gives them to that one, whose number this answers. Others
 * let everybody pass the folder, and libvirt changes the owner of the files. Throws `unsupported` for a libvirt of another machine.
 */
function openToHypervisor(uri: string, scratch: string): number | undefined {
  if (!/^qemu(\+unix)?:\/\/\//.test(uri)) {
    throw new DiskError(
      'unsupported',
      `An installer can only run under a libvirt of this machine, not ${uri}`,
      {
        field: 'libvirt',
        detail: { fix: 'run it there, and copy the master' },
      },
    );
  }
  if (process.geteuid?.() === 0) {
    try {
      return accountFor(uri).uid;
    } catch (error) {
      if (!isDiskError(error, 'not-found')) throw error;
    }
  }
  chmodSync(scratch, 0o711);
  return undefined;
}

type Builder = (input: Input, context: CliContext, scratch: string, name: string) => Promise<Image>;

const builders: Readonly<Record<(typeof kinds)[number], Builder>> = {
  async small(_input, context, scratch) {
    requireLinuxGuest();
    const path = join(scratch, 'disk.raw');
    await makeLinuxGuest({ file: (name) => join(scratch, name) }, path, { tool: { signal: context.signal } });
    return openImageFile(path, { format: 'raw' });
  },
  async debian(input, context, scratch) {
    const path = join(scratch, 'disk.raw');
    await makeDebian(scratch, path, {
      suite: text(input, 'debian')!,
      include: (text(input, 'include') ?? '').split(',').filter((one) => one !== ''),
      size: sizeOf(input, 'disk', '2G'),
      mirror: text(input, 'mirror'),
      tool: { signal: context.signal },
    });
    return openImageFile(path, { format: 'raw' });
  },
  async iso(input, context, scratch, name) {
    const disk = installedIn(scratch);
    const iso = await verified(input, context, text(input, 'iso')!);
    const answers = text(input, 'answers');
    const uri = text(input, 'libvirt');
    const owner = uri === undefined ? undefined : openToHypervisor(uri, scratch);
    await using runner =
      uri === undefined ? createRunner('qemu') : createRunner('libvirt', { libvirt: { uri } });
    const quiet = wantsJson(input);
    await installFromIso({
      iso,
      disk,
      size: sizeOf(input, 'disk', '10G'),
      scratch,
      name,
      memoryMiB: sizeOf(input, 'memory', '2G') / MiB,
      cpus: 2,
      graphics: input.options.display === 'none' ? 'none' : 'vnc',
      network: { kind: 'user' },
      answers: answers === undefined ? undefined : readable(resolve(context.cwd, answers)),
      runner,
      libvirt: uri,
      owner,
      timeLimitMs: minutesOf(input, 'limit', installLimitMinutes) * 60_000,
      signal: context.signal,
      onStarted: (seat) => {
        if (quiet) return;
        say(
          context,
          `The installer runs. Shut the machine down from inside when it is done; Ctrl-C gives up.`,
        );
        const viewer = viewerFor(seat, uri);
        if (viewer !== undefined) say(context, `  display: ${viewer}`);
        say(context, `  serial port: ${shown(context, seat.serialLog)}, and here:`);
      },
      onLine: (line) => {
        if (!quiet) say(context, `  | ${line}`);
      },
      onQuiet: ({ minutes, said }) => {
        warn(
          context,
          `nothing was written for ${minutes} minutes, to the installer's disk or its serial port: it may be asking what ${shown(context, answers!)} does not answer`,
        );
        for (const line of said.split('\n')) warn(context, `  | ${line}`);
      },
    });
    return openImageFile(disk, { format: 'qcow2' });
  },
  async from(input, context, scratch) {
    const path = await verified(input, context, text(input, 'from')!);
    await assertFileNotSaved(path, context);
    if (await isPackage(path)) {
      const disk = join(scratch, 'disk.qcow2');
      const onWarning = (message: string) => warn(context, withoutControls(message));
      const verifying = lazyProgress(context, 'verifying', 'bytes');
      const copying = lazyProgress(context, 'unpacking', 'bytes');
      try {
        const progress = { onVerify: verifying.update, onProgress: copying.update };
        await unpackAppliance(path, disk, { signal: context.signal, onWarning, ...progress });
      } finally {
        verifying.end();
        copying.end();
      }
      return openImageFile(disk, { format: 'qcow2', policy: untrustedImages });
    }
    const how = { format: text(input, 'format'), signal: context.signal };
    const image = await openFrom(path, scratch, how);
    try {
      await assertWholeSource(image, { ...how, name: path });
    } catch (error) {
      await image[Symbol.asyncDispose]();
      throw error;
    }
    return image;
  },
};

async function openFrom(
  path: string,
  scratch: string,
  how: { readonly format?: string; readonly signal: AbortSignal },
): Promise<Image> {
  const store = await openFileStore(path);
  const compression = await compressionIn(store);
  if (compression !== undefined) return openUnpacked(store, compression, { ...how, spoolDirectory: scratch });
  await store[Symbol.asyncDispose]();
  return openImageFile(path, { ...how, policy: untrustedImages });
}

/** Throws what the system says of a file that cannot be read. */
function readable(path: string): string {
  try {
    accessSync(path, constants.R_OK);
    return path;
  } catch (cause) {
    throw asSystemError(cause, 'open', path);
  }
}

/** The absolute path of a file whose checksum, where one was given, is right. */
async function verified(input: Input, context: CliContext, file: string): Promise<string> {
  if (/^(https?|ftp):\/\//i.test(file)) {
    throw new DiskError('bad-argument', `'${file}' is an address, not a file`, {
      path: file,
      detail: { fix: `load it first: curl -fLO ${file}` },
    });
  }
  const path = readable(resolve(context.cwd, file));
  for (const kind of ['sha256', 'sha512'] as const) {
    const digest = text(input, kind);
    if (digest !== undefined) await verifyFile(path, kind, digest, context.signal);
  }
  return path;
}

function originOf(how: string, input: Input): { how: string; [key: string]: unknown } {
  const { debian, include, iso, from, sha256, sha512, fix } = input.options;
  return { how: `build --${how}`, debian, include, iso, from, sha256, sha512, fix };
}

function text(input: Input, option: string): string | undefined {
  const value = input.options[option];
  return typeof value === 'string' ? value : undefined;
}

/** Whole minutes. Throws `bad-argument`. */
function minutesOf(input: Input, option: string, fallback: number): number {
  const given = text(input, option) ?? String(fallback);
  if (/^[1-9]\d{0,4}$/.test(given) && Number(given) <= mostMinutes) return Number(given);
  throw new DiskError('bad-argument', `"${given}" are no minutes from 1 to ${mostMinutes}`, {
    field: option,
  });
}

/** A size in whole MiB. Throws `bad-argument`. */
function sizeOf(input: Input, option: string, fallback: string): number {
  const given = text(input, option) ?? fallback;
  const parsed = parseSize(given);
  const bytes = parsed.kind === 'size' ? Number(parsed.bytes) : 0;
  if (bytes > 0 && bytes % MiB === 0 && Number.isSafeInteger(bytes)) return bytes;
  throw new DiskError('bad-argument', `"${given}" is no size in whole MiB, as 10G is`, { field: option });
}
