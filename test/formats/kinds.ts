import { join } from 'node:path';
import { expect } from 'vitest';
import { cowImg } from '../../src/cli/cow-img.ts';
import type { Image } from '../../src/image/image.ts';
import { openImageFile, trustedImages } from '../../src/node.ts';
import { pattern } from '../contract/model.ts';
import { testContext } from '../support/cli-context.ts';
import { have } from '../support/programs.ts';

const MiB = 1 << 20;

/** A format in one of the shapes that both qemu-img and cow-img write. */
export interface Kind {
  readonly name: string;
  readonly format: string;
  /** As for `-o`; empty for none. */
  readonly options: string;
  /** Each grain is written once, and whole. */
  readonly stream?: boolean;
  /** Files that the image names beside itself: about as many as its disk has 2 GiB. */
  readonly split?: boolean;
  /** Guest bytes that its largest disk has at most. */
  readonly most?: number;
  /** All of its disk is in the file, so that of a huge one it is as huge. */
  readonly flat?: boolean;
}

const vmdk = (subformat: string, rest: Partial<Kind> = {}): Kind => ({
  name: `vmdk ${subformat}`,
  format: 'vmdk',
  options: `subformat=${subformat}`,
  ...rest,
});

const vhdMost = 2040 * 1024 * MiB;

export const kinds: readonly Kind[] = [
  { name: 'qcow2', format: 'qcow2', options: '' },
  vmdk('monolithicSparse'),
  vmdk('monolithicFlat', { flat: true }),
  vmdk('twoGbMaxExtentSparse', { split: true }),
  vmdk('twoGbMaxExtentFlat', { split: true, flat: true }),
  vmdk('streamOptimized', { stream: true }),
  { name: 'vdi dynamic', format: 'vdi', options: '' },
  { name: 'vdi static', format: 'vdi', options: 'static=on', flat: true },
  { name: 'vpc dynamic', format: 'vpc', options: 'force_size=on', most: vhdMost },
  { name: 'vpc fixed', format: 'vpc', options: 'subformat=fixed,force_size=on', most: vhdMost, flat: true },
  { name: 'vhdx dynamic', format: 'vhdx', options: '' },
  { name: 'vhdx fixed', format: 'vhdx', options: 'subformat=fixed', flat: true },
  { name: 'qcow', format: 'qcow', options: '' },
  { name: 'qed', format: 'qed', options: '' },
  { name: 'parallels', format: 'parallels', options: '' },
];

export const qemuIsThere = have('qemu-img') && have('qemu-io');
export const long = process.env.COWHERD_LONG !== undefined;

export const optionsOf = ({ options }: Kind): string[] => (options === '' ? [] : ['-o', options]);

/** Runs cow-img in this process, with paths from the root; it must succeed. */
export async function cow(...args: string[]): Promise<void> {
  const context = testContext();
  expect(await cowImg(args, context), `cow-img ${args.join(' ')}: ${context.err()}`).toBe(0);
}

export function openKind(path: string, { format }: Kind, writable = false): Promise<Image> {
  return openImageFile(path, { format, writable, policy: trustedImages });
}

/** Disks by what is on them. */
export const shapes: readonly { readonly name: string; readonly make: () => Uint8Array }[] = [
  {
    name: 'sparse',
    make: () =>
      laid(9 * MiB, [
        [70_000, 100_000],
        [5 * MiB - 300, 600],
        [9 * MiB - 512, 512],
      ]),
  },
  { name: 'dense', make: () => pattern(2 * MiB + 77 * 512, 3) },
  { name: 'of an odd number of bytes', make: () => laid(3_000_001, [[2_900_000, 100_001]]) },
  { name: 'empty', make: () => new Uint8Array(MiB) },
];

function laid(size: number, pieces: readonly (readonly [at: number, length: number])[]): Uint8Array {
  const bytes = new Uint8Array(size);
  for (const [at, length] of pieces) bytes.set(pattern(length, at), at);
  return bytes;
}

/** What a disk holds beyond `model` is zeroes: sizes are rounded up. */
export function padded(model: Uint8Array, size: number): Uint8Array {
  const bytes = new Uint8Array(size);
  bytes.set(model.subarray(0, size));
  return bytes;
}

export const fileOf = (dir: string, kind: Kind, who: string): string =>
  join(dir, `${who} ${kind.name}.img`.replaceAll(' ', '-'));
