import { isDiskError } from '../../errors.ts';
import type { LayerDetails, SnapshotInfo } from '../../formats/driver.ts';
import { trustedImages, untrustedImages } from '../../image/policy.ts';
import { assertReferenceAllowed } from '../../node.ts';
import { describeChain, type ImageInfo, type OpenForInfo } from '../../operations/info.ts';
import type { CliContext, Command } from '../context.ts';
import { UsageFailure } from '../failure.ts';
import { humanTree } from '../human-tree.ts';
import { ImageArguments } from '../image-arguments.ts';
import { type JsonValue, prettyJson } from '../json.ts';
import { couldNotOpen } from '../messages.ts';
import { openLayerForVerb } from '../open-image.ts';
import { outputFormat } from '../output-format.ts';
import { humanSize } from '../sizes.ts';
import { humanSnapshots } from '../snapshot-table.ts';
import { flag, readOptions, valued } from '../verb-options.ts';

/** `info`: what an image says of itself, and with `--backing-chain` every image that it stands on. */
export const run: Command = async (args, context) => {
  let format: string | undefined;
  let output: string | undefined;
  let wholeChain = false;
  let share = false;
  const images = new ImageArguments(context);
  const operands = readOptions(
    args,
    'f:U',
    [
      valued('format', 'f'),
      valued('output'),
      flag('backing-chain'),
      ...ImageArguments.options,
      flag('force-share', 'U'),
    ],
    (key, value) => {
      if (key === 'f') format = value;
      else if (key === 'output') output = value;
      else if (key === 'backing-chain') wholeChain = true;
      else if (key === 'U') share = true;
      else images.take(key, value);
    },
  );
  if (operands.length !== 1) throw new UsageFailure('Expecting one image file name');
  const json = outputFormat(output) === 'json';
  const found = await collect(context, operands[0], { format, share, wholeChain, images });
  print(context, found, { json, wholeChain });
  return 0;
};

interface Wish {
  readonly format?: string;
  readonly share: boolean;
  readonly wholeChain: boolean;
  readonly images: ImageArguments;
}

async function collect(context: CliContext, name: string, wish: Wish): Promise<ImageInfo[]> {
  const found: ImageInfo[] = [];
  const { images } = wish;
  const open: OpenForInfo = (path, format, depth) =>
    openLayerForVerb(context, path, {
      format,
      images,
      imageOptions: images.imageOptions && depth === 0,
      metadataOnly: true,
      locks: wish.share ? 'share' : 'take',
    });
  const chain = describeChain(name, wish.format, open, (reference, from) => {
    const policy = images.untrusted ? untrustedImages : trustedImages;
    return assertReferenceAllowed(reference, from, policy);
  });
  try {
    for await (const info of chain) {
      found.push(info);
      if (!wish.wholeChain) break;
    }
  } catch (error) {
    // What QEMU reads at opening and we only when asked (the snapshot table) is worded as a failure to open.
    if (isDiskError(error) && error.code === 'corrupt' && !error.detail.loop) {
      throw couldNotOpen(error.path ?? name, error);
    }
    throw error;
  }
  return found;
}

function print(
  context: CliContext,
  found: readonly ImageInfo[],
  how: { json: boolean; wholeChain: boolean },
): void {
  if (how.json) {
    const values = found.map(jsonInfo);
    context.stdout.write(`${prettyJson(how.wholeChain ? values : values[0])}\n`);
  } else context.stdout.write(found.map(humanInfo).join('\n'));
}

function jsonInfo(info: ImageInfo): JsonValue {
  const { details, backing } = info;
  return {
    filename: info.name,
    format: info.format,
    'virtual-size': info.virtualSize,
    'actual-size': info.allocated,
    encrypted: details.encrypted || undefined,
    'cluster-size': details.clusterSize,
    'dirty-flag': details.dirty,
    'format-specific': details.formatSpecific && {
      type: details.formatSpecific.type,
      data: details.formatSpecific.data as JsonValue,
    },
    'backing-filename': backing?.name,
    'full-backing-filename': backing?.fullName,
    'backing-filename-format': backing?.format,
    snapshots: details.snapshots?.length ? details.snapshots.map(jsonSnapshot) : undefined,
  };
}

function jsonSnapshot(snapshot: SnapshotInfo): JsonValue {
  return {
    id: snapshot.id,
    name: snapshot.name,
    'vm-state-size': snapshot.vmStateSize,
    'date-sec': snapshot.dateSeconds,
    'date-nsec': snapshot.dateNanoseconds,
    'vm-clock-sec': snapshot.vmClockNanoseconds / 1_000_000_000n,
    'vm-clock-nsec': snapshot.vmClockNanoseconds % 1_000_000_000n,
    icount: snapshot.icount,
  };
}

function humanInfo(info: ImageInfo): string {
  const { details, backing } = info;
  const lines = [
    `image: ${info.name}`,
    `file format: ${info.format}`,
    `virtual size: ${humanSize(info.virtualSize)} (${info.virtualSize} bytes)`,
    `disk size: ${info.allocated === undefined ? 'unavailable' : humanSize(info.allocated)}`,
  ];
  if (details.encrypted) lines.push('encrypted: yes');
  if (details.clusterSize !== undefined) lines.push(`cluster_size: ${details.clusterSize}`);
  if (details.dirty) lines.push('cleanly shut down: no');
  if (backing) {
    let place = '';
    if (backing.fullName === undefined) place = ' (cannot determine actual path)';
    else if (backing.fullName !== backing.name) place = ` (actual path: ${backing.fullName})`;
    lines.push(`backing file: ${backing.name}${place}`);
    if (backing.format !== undefined) lines.push(`backing file format: ${backing.format}`);
  }
  if (details.snapshots?.length) lines.push('Snapshot list:', ...humanSnapshots(details.snapshots));
  lines.push(...humanSpecifics(details));
  return `${lines.join('\n')}\n`;
}

function humanSpecifics(details: LayerDetails): string[] {
  if (!details.formatSpecific) return [];
  return ['Format specific information:', ...humanTree(details.formatSpecific.data as JsonValue, 1)];
}
