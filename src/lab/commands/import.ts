import { basename, dirname, extname, resolve } from 'node:path';
import { humanSize } from '../../cli/sizes.ts';
import { openUnpacked } from '../../cli/unpacked-image.ts';
import type { Image } from '../../image/image.ts';
import { untrustedImages } from '../../image/policy.ts';
import { openImageFile } from '../../node.ts';
import { openFileStore } from '../../storage/file.ts';
import { compressionIn } from '../../storage/file-unpacked.ts';
import { assertFree, copyToQcow2 } from '../import/copy-disk.ts';
import { type ImportPlan, importAppliance, planImport, verifyPackage } from '../import/import-appliance.ts';
import { isPackage, openPackage } from '../import/package.ts';
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

/** `cowherd import FILE`: an appliance, or an image that may be packed, as qcow2. */
export const run: LabCommand = async (input, context) => {
  const path = resolve(context.cwd, input.operands[0]);
  return (await isPackage(path)) ? importPackage(path, input, context) : importImage(path, input, context);
};

async function importPackage(path: string, input: Input, context: Context): Promise<number> {
  await using source = await openPackage(path);
  const plan = planImport(source, resolve(context.cwd, text(input, 'outputFile') ?? '.'), {
    name: text(input, 'name'),
    force: input.options.force === true,
  });
  const warnings: string[] = [];
  const onWarning = (message: string) => {
    warnings.push(message);
    if (!wantsJson(input)) warn(context, withoutControls(message));
  };
  const dryRun = input.options.dryRun === true;
  let verified = false;
  if (!dryRun) {
    const verifying = lazyProgress(context, 'verifying', 'bytes');
    try {
      const onVerify = verifying.update;
      verified = await verifyPackage(source, plan.appliance, { signal: context.signal, onWarning, onVerify });
    } finally {
      verifying.end();
    }
    const copying = plan.paths.map((target) => lazyProgress(context, basename(target), 'bytes'));
    try {
      await importAppliance(source, plan, {
        signal: context.signal,
        domainType: await domainTypeHere(context.signal),
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
  assertFree(target, input.options.force === true);
  const unpacking = lazyProgress(context, `reading ${basename(path)}`, 'bytes');
  const copying = lazyProgress(context, basename(target), 'bytes');
  try {
    await using image = await openSource(path, dirname(target), input, context, unpacking.update);
    unpacking.end();
    const dryRun = input.options.dryRun === true;
    if (!dryRun) {
      const { signal } = context;
      const onProgress = copying.update;
      await using made = await copyToQcow2(target, image.size, image, { signal, onProgress });
      await made.commit();
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
    unpacking.end();
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
