import { DiskError } from '../../errors.ts';
import { equalBytes } from '../bytes.ts';
import { hashNamed } from '../luks/cipher-names.ts';
import { isLuks, luksVersion } from '../luks/header.ts';
import type { HeaderArea } from '../luks/key-slots.ts';
import { primitives } from '../primitives.ts';

/** The second copy's magic: "SKUL", 0xba, 0xbe. */
const secondMagic: readonly number[] = [0x53, 0x4b, 0x55, 0x4c, 0xba, 0xbe];
const binaryBytes = 4096;
const checksumAt = 448;
const checksumBytes = 64;
/** Sizes of a copy, its JSON area included, and so the places of the second one (LUKS2 specification, section 2.2). */
const copySizes = Array.from({ length: 9 }, (_, power) => 16_384 * 2 ** power);

/** One copy of the header: as long as its checksum says, it is what was written. */
export interface HeaderCopy {
  readonly uuid: string;
  readonly sequence: bigint;
  /** Bytes of this copy; the other one is as long, and follows or precedes it. */
  readonly length: number;
  /** What its JSON area says. */
  readonly json: unknown;
}

/** Whether there is a LUKS2 header, by the magic of either copy. */
export async function hasLuks2(area: HeaderArea): Promise<boolean> {
  const head = await bytesAt(area, 0, 8);
  if (head && isLuks(head)) return luksVersion(head) === 2;
  for (const place of copySizes) {
    const second = await bytesAt(area, place, 8);
    if (second && isSecond(second)) return true;
  }
  return false;
}

/**
 * Reads both copies of the header and gives the newer of those that are whole (LUKS2 specification, section 2.3). Throws
 * `corrupt` where none is, `unsupported` for a checksum that is not built.
 */
export async function readCopies(area: HeaderArea): Promise<HeaderCopy> {
  const first = await readCopy(area, 0);
  const claimed = await bytesAt(area, 8, 8);
  const likely = claimed ? Number(new DataView(claimed.buffer).getBigUint64(0)) : 0;
  let second: HeaderCopy | undefined;
  for (const place of copySizes.includes(likely) ? [likely] : copySizes)
    second ??= await readCopy(area, place);
  const newer = second && (!first || second.sequence > first.sequence) ? second : first;
  if (newer) return newer;
  throw new DiskError('corrupt', 'Neither copy of the LUKS2 header is whole', {
    path: area.name,
    offset: 0,
    field: 'header',
  });
}

/** The copy at `place`; undefined where there is none, or one that its checksum does not fit. */
async function readCopy(area: HeaderArea, place: number): Promise<HeaderCopy | undefined> {
  const binary = await bytesAt(area, place, binaryBytes);
  if (!binary || !(place === 0 ? isLuks(binary) : isSecond(binary)) || luksVersion(binary) !== 2)
    return undefined;
  const view = new DataView(binary.buffer);
  const length = Number(view.getBigUint64(8));
  if (!copySizes.includes(length) || view.getBigUint64(256) !== BigInt(place)) return undefined;
  if (place !== 0 && place !== length) return undefined;
  const bytes = await bytesAt(area, place, length);
  if (!bytes) return undefined;
  const sum = bytes.slice(checksumAt, checksumAt + checksumBytes);
  bytes.fill(0, checksumAt, checksumAt + checksumBytes);
  const hash = hashNamed(textAt(binary, 72, 32), 'checksum algorithm', area.name);
  const expected = await primitives().hash(hash, bytes);
  if (!equalBytes(expected, sum.subarray(0, expected.length))) return undefined;
  const json = parseJson(bytes.subarray(binaryBytes));
  if (json === undefined) return undefined;
  return { uuid: textAt(binary, 168, 40), sequence: view.getBigUint64(16), length, json };
}

/** Undefined: the text that ends at the first zero byte is no JSON. */
function parseJson(area: Uint8Array): unknown {
  const end = area.indexOf(0);
  if (end < 0) return undefined;
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(area.subarray(0, end)));
  } catch {
    return undefined;
  }
}

async function bytesAt(area: HeaderArea, at: number, length: number): Promise<Uint8Array | undefined> {
  if (at + length > area.size) return undefined;
  const bytes = new Uint8Array(length);
  await area.read(at, bytes);
  return bytes;
}

function isSecond(head: Uint8Array): boolean {
  return secondMagic.every((byte, at) => head[at] === byte);
}

function textAt(bytes: Uint8Array, at: number, length: number): string {
  const field = bytes.subarray(at, at + length);
  const end = field.indexOf(0);
  return new TextDecoder().decode(end < 0 ? field : field.subarray(0, end));
}
