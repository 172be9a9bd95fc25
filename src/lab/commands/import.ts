import { createReadStream, statSync } from 'node:fs';
import { basename, dirname, extname, resolve } from 'node:path';
import { looksLikeTar, tarBlock } from '../../appliance/tar.ts';
import { humanSize } from '../../cli/sizes.ts';
import { openUnpacked } from '../../cli/unpacked-image.ts';
import { DiskError } from '../../errors.ts';
import { formats } from '../../formats/index.ts';
import type { Image } from '../../image/image.ts';
import { openImage } from '../../image/open.ts';
import { untrustedImages } from '../../image/policy.ts';
import { guessFormat } from '../../image/probe.ts';
import { openImageFile } from '../../node.ts';
import { openFileStore } from '../../storage/file.ts';
import { compressionIn, spoolStream } from '../../storage/file-unpacked.ts';
import { assertWholeSource } from '../disks/whole-source.ts';
import { assertFree, copyToQcow2, place } from '../import/copy-disk.ts';
import {
  type ImportOptions,
  type ImportPlan,
  importAppliance,
  planImport,
  verifyPackage,
} from '../import/import-appliance.ts';
import { ApplianceStream } from '../import/import-stream.ts';
import { InputStream, inputName } from '../import/input-stream.ts';
import { type AppliancePackage, isPackage, openPackage } from '../import/package.ts';
import { withoutControls } from '../messages.ts';
import { chooseAccelerator } from '../runner/accelerator.ts';
import { findQemu } from '../runner/qemu-command.ts';
import {
  type Input,
  type LabCommand,
  lazyProgress,
  say,
  sayJson,
  shown,
  wantsJson,
  warn,
} from './command.ts';

type Context = Parameters<LabCommand>[1];

/** First bytes of an image from a pipe that tell its format. */
const probedBytes = 64 * 1024;

/** `cowherd import FILE`, or `-` for the standard input: an appliance, or an image that may be packed, as qcow2. */
export const run: LabCommand = async (input, context) => {
  const [operand] = input.operands;
  if (operand === '-') return importInput(input, context);
  const path = resolve(context.cwd, operand);
  assertNoPipe(path, operand);
  if (await isPackage(path)) return importPackage(path, input, context);
  return (await importPackedArchive(path, input, context)) ?? importImage(path, input, context);
};

function assertNoPipe(path: string, operand: string): void {
  if (!statSync(path, { throwIfNoEntry: false })?.isFIFO()) return;
  throw new DiskError('bad-argument', `'${operand}' is a pipe`, {
    path,
    detail: { fix: `have it read once, from front to end: cowherd import - < ${operand}` },
  });
}

/** An appliance's archive that is packed as a whole, as Vagrant's boxes are. Undefined: it is something else. */
async function importPackedArchive(
  path: string,
  input: Input,
  context: Context,
): Promise<number | undefined> {
  if (!(await isPacked(path))) return undefined;
  await using stream = await InputStream.open(basename(path), createReadStream(path), context.signal);
  if (!looksLikeTar(await stream.reader.peek(tarBlock))) return undefined;
  return await importStream(stream, input, context);
}

async function isPacked(path: string): Promise<boolean> {
  await using file = await openFileStore(path);
  return (await compressionIn(file)) !== undefined;
}

async function importPackage(path: string, input: Input, context: Context): Promise<number> {
  await using source = await openPackage(path);
  return await makePackage(source, input, context, async (plan, options) => {
    const verifying = lazyProgress(context, 'verifying', 'bytes');
    let verified: boolean;
    try {
      verified = await verifyPackage(source, plan.appliance, { ...options, onVerify: verifying.update });
    } finally {
      verifying.end();
    }
    const how = { ...options, domainType: await domainTypeHere(context.signal) };
    const extentsListed = await importAppliance(source, plan, how);
    return verified && extentsListed;
  });
}

async function importInput(input: Input, context: Context): Promise<number> {
  await using stream = await InputStream.open(inputName, context.stdin, context.signal);
  const isArchive = looksLikeTar(await stream.reader.peek(tarBlock));
  return await (isArchive ? importStream(stream, input, context) : importInputImage(stream, input, context));
}

async function importStream(stream: InputStream, input: Input, context: Context): Promise<number> {
  await using source = await ApplianceStream.open(stream.reader, stream.name);
  return await makePackage(source, input, context, async (plan, options) =>
    source.import(plan, { ...options, domainType: await domainTypeHere(context.signal) }),
  );
}

/** Plans, has `make` make the machine and answer whether its manifest is right, and tells of it. */
async function makePackage(
  source: Pick<AppliancePackage, 'path' | 'descriptor'>,
  input: Input,
  context: Context,
  make: (plan: ImportPlan, options: Omit<ImportOptions, 'domainType'>) => Promise<boolean>,
): Promise<number> {
  const plan = planImport(source, resolve(context.cwd, text(input, 'outputFile') ?? '.'), {
    name: text(input, 'name'),
    force: input.options.force === true,
  });
  const warnings: string[] = [];
  const onWarning = (message: string) => {
    warnings.push(message);
    if (!wantsJson(input)) warn(context, withoutControls(message));
  };
  const { unknown } = plan.appliance;
  if (unknown.length > 0) onWarning(`hardware that is left out: ${unknown.join(', ')}`);
  const dryRun = input.options.dryRun === true;
  let verified = false;
  if (!dryRun) {
    const copying = plan.paths.map((target) => lazyProgress(context, basename(target), 'bytes'));
    try {
      verified = await make(plan, {
        signal: context.signal,
        onWarning,
        onCopy(disk, done, total) {
          copying[disk].update(done, total);
          if (done === total) copying[disk].end();
        },
      });
    } finally {
      for (const progress of copying) progress.end();
    }
  }
  if (wantsJson(input)) sayJson(context, { ...described(plan), verified, dryRun, warnings });
  else for (const line of lines(plan, dryRun, verified, context)) say(context, withoutControls(line));
  return 0;
}

/** Hardware virtualization where it works; where there is no QEMU, that is for the other host to know. */
async function domainTypeHere(signal: AbortSignal): Promise<'kvm' | 'qemu'> {
  const qemu = findQemu();
  if (qemu === undefined) return 'kvm';
  const { accelerator } = await chooseAccelerator({ qemu, signal });
  return accelerator === 'kvm' ? 'kvm' : 'qemu';
}

function described({ appliance, name, definition, paths }: ImportPlan) {
  const { memoryMiB, cpus, firmware, networkCards } = appliance;
  return {
    name,
    memoryMiB,
    cpus,
    firmware,
    networkCards: networkCards.length,
    disks: appliance.disks.map(({ bus, capacity, file }, index) => ({
      path: paths[index],
      bus,
      capacity,
      from: file?.href,
    })),
    definition,
  };
}

function lines(plan: ImportPlan, dryRun: boolean, verified: boolean, context: Context): string[] {
  const { appliance, name, paths, definition } = plan;
  const { memoryMiB, cpus, firmware, networkCards } = appliance;
  return [
    `${name}: ${memoryMiB} MiB of memory, ${cpus} CPU(s), ${firmware}, ${networkCards.length} network card(s)` +
      `${dryRun ? '' : verified ? '; the manifest is right' : ''}`,
    ...appliance.disks.map(({ bus, capacity, file }, index) => {
      const size = capacity === undefined ? '' : `, ${humanSize(capacity)}`;
      const from = file ? ` from ${file.href}` : ', empty';
      return `${dryRun ? 'would make' : 'made'} ${shown(context, paths[index])} (${bus}${size})${from}`;
    }),
    `${dryRun ? 'would make' : 'made'} ${shown(context, definition)}` +
      (dryRun ? '' : `: virsh define ${shown(context, definition)}`),
  ];
}

async function importImage(path: string, input: Input, context: Context): Promise<number> {
  const target = resolve(context.cwd, text(input, 'outputFile') ?? `${stemOf(path)}.qcow2`);
  const unpacking = lazyProgress(context, `reading ${basename(path)}`, 'bytes');
  try {
    return await makeImage(target, input, context, path, async () => {
      const image = await openSource(path, dirname(target), input, context, unpacking.update);
      unpacking.end();
      return image;
    });
  } finally {
    unpacking.end();
  }
}

/** An image from a pipe. What is not told by its first bytes is none: it may be a page that tells of an error. */
async function importInputImage({ reader }: InputStream, input: Input, context: Context): Promise<number> {
  const { signal } = context;
  const place = text(input, 'outputFile');
  if (place === undefined) {
    throw new DiskError('bad-argument', `An image from ${inputName} has no name: say where it goes with -o`, {
      field: 'output-file',
    });
  }
  const target = resolve(context.cwd, place);
  const head = await reader.peek(probedBytes);
  const wanted = text(input, 'format');
  const format = wanted ?? guessFormat({ head, size: head.length, name: inputName }, formats) ?? 'raw';
  if (format === 'raw' && wanted === undefined) {
    throw new DiskError(
      'unsupported',
      `What comes from ${inputName} is neither an appliance nor an image of a known format`,
      {
        path: inputName,
        field: 'format',
        detail: { fix: 'say --format raw where it is the bytes of a disk' },
      },
    );
  }
  return makeImage(target, input, context, inputName, async () => {
    warn(context, `${inputName} is saved to a file without a name first`);
    const file = await spoolStream(reader.rest(), dirname(target), inputName);
    return openImage(file, { format, signal });
  });
}

async function makeImage(
  target: string,
  input: Input,
  context: Context,
  name: string,
  open: () => Promise<Image>,
): Promise<number> {
  const force = input.options.force === true;
  assertFree(target, force);
  const copying = lazyProgress(context, basename(target), 'bytes');
  try {
    await using image = await open();
    await assertWholeSource(image, { name, format: text(input, 'format'), signal: context.signal });
    const dryRun = input.options.dryRun === true;
    if (!dryRun) {
      const { signal } = context;
      const onProgress = copying.update;
      await using made = await copyToQcow2(target, image.size, image, { signal, onProgress });
      await place(made, target, { force });
      copying.end();
    }
    if (wantsJson(input)) sayJson(context, { path: target, capacity: image.size, dryRun });
    else {
      say(
        context,
        `${dryRun ? 'would make' : 'made'} ${withoutControls(shown(context, target))}, ${humanSize(image.size)}`,
      );
    }
    return 0;
  } finally {
    copying.end();
  }
}

async function openSource(
  path: string,
  spoolDirectory: string,
  input: Input,
  context: Context,
  onProgress: (done: number, total: number) => void,
): Promise<Image> {
  const { signal } = context;
  const format = text(input, 'format');
  const file = await openFileStore(path);
  const compression = await compressionIn(file);
  if (compression) {
    const onSpool = (found: string, bytes: number) =>
      warn(context, `what is packed is ${found}: it is unpacked first, which takes ${humanSize(bytes)}`);
    return openUnpacked(file, compression, { format, signal, spoolDirectory, onProgress, onSpool });
  }
  await file[Symbol.asyncDispose]();
  return openImageFile(path, { format, signal, policy: untrustedImages });
}

/** `disk.raw.xz` and `disk.vmdk` are both `disk`. */
function stemOf(path: string): string {
  const name = basename(path).replace(/\.(gz|xz|zst|bz2)$/i, '');
  const extension = extname(name);
  return extension === '' || extension === '.qcow2'
    ? name.replace(/\.qcow2$/, '')
    : name.slice(0, -extension.length);
}

function text(input: Input, name: string): string | undefined {
  const value = input.options[name];
  return typeof value === 'string' ? value : undefined;
}
