import { DiskError } from '../../errors.ts';

/** "LUKS", 0xba, 0xbe. */
const luksMagic: readonly number[] = [0x4c, 0x55, 0x4b, 0x53, 0xba, 0xbe];
export const headerBytes = 592;
export const sectorBytes = 512;
export const slotCount = 8;
export const stripes = 4000;
export const saltBytes = 32;
export const digestBytes = 20;
/** Where the first slot's key material lies, and what each one's size is rounded up to. */
export const alignBytes = 4096;

const slotsAt = 208;
const slotBytes = 48;
const active = 0x00ac71f3;
const inactive = 0x0000dead;

export interface KeySlot {
  readonly active: boolean;
  readonly iterations: number;
  readonly salt: Uint8Array;
  /** Sectors from the header's start. */
  readonly keyOffset: number;
  readonly stripes: number;
}

/** A LUKS1 header (LUKS On-Disk Format Specification 1.2.3, section 2). */
export interface LuksHeader {
  readonly cipherName: string;
  readonly cipherMode: string;
  readonly hashSpec: string;
  /** Sectors from the header's start; 0: the payload lies elsewhere. */
  readonly payloadOffset: number;
  readonly keyBytes: number;
  readonly digest: Uint8Array;
  readonly digestSalt: Uint8Array;
  readonly digestIterations: number;
  readonly uuid: string;
  readonly slots: readonly KeySlot[];
}

export interface HeaderReading {
  /** The payload lies in another file, so that it cannot lie over this header. */
  readonly detached?: boolean;
}

/** True for bytes that begin as any LUKS header does; `version` is then the one that it claims. */
export function isLuks(head: Uint8Array): boolean {
  return head.length >= 8 && luksMagic.every((byte, at) => head[at] === byte);
}

export function luksVersion(head: Uint8Array): number {
  return head[6] * 256 + head[7];
}

/** Bytes of a slot's key material. */
export function materialBytes(keyBytes: number, slotStripes = stripes): number {
  return keyBytes * slotStripes;
}

/** Sectors that the key material of one slot takes. */
export function materialSectors(keyBytes: number): number {
  const align = alignBytes / sectorBytes;
  return Math.ceil(Math.ceil(materialBytes(keyBytes) / sectorBytes) / align) * align;
}

/**
 * Reads a header from its first 592 bytes. Checks come in QEMU's order and words: strings that end, stripes that are as
 * many as everyone writes, areas that do not overlap each other, the header or the payload. Throws `corrupt`, and
 * `unsupported` for another version.
 */
export function parseHeader(bytes: Uint8Array, path?: string, how: HeaderReading = {}): LuksHeader {
  const fail = (code: 'corrupt' | 'unsupported', field: string, message: string, detail = {}): never => {
    throw new DiskError(code, message, { path, offset: 0, field, detail });
  };
  if (bytes.length < headerBytes || !isLuks(bytes)) {
    return fail('corrupt', 'magic', 'Volume is not in LUKS format', { errno: 'EINVAL' });
  }
  const version = luksVersion(bytes);
  if (version !== 1) fail('unsupported', 'version', `LUKS version ${version} is not supported`, { version });
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const text = (at: number, name: string): string => {
    const field = bytes.subarray(at, at + 32);
    const end = field.indexOf(0);
    if (end < 0) fail('corrupt', name, `LUKS header ${name} is not NUL terminated`);
    return new TextDecoder().decode(field.subarray(0, end));
  };
  const uuidField = bytes.subarray(168, 208);
  const uuidEnd = uuidField.indexOf(0);
  const slots: KeySlot[] = [];
  const states: number[] = [];
  for (let index = 0; index < slotCount; index++) {
    const at = slotsAt + index * slotBytes;
    const state = view.getUint32(at);
    states.push(state);
    slots.push({
      active: state === active,
      iterations: view.getUint32(at + 4),
      salt: bytes.slice(at + 8, at + 8 + saltBytes),
      keyOffset: view.getUint32(at + 40),
      stripes: view.getUint32(at + 44),
    });
  }
  const header: LuksHeader = {
    cipherName: text(8, 'cipher name'),
    cipherMode: text(40, 'cipher mode'),
    hashSpec: text(72, 'hash spec'),
    payloadOffset: view.getUint32(104),
    keyBytes: view.getUint32(108),
    digest: bytes.slice(112, 132),
    digestSalt: bytes.slice(132, 164),
    digestIterations: view.getUint32(164),
    uuid: new TextDecoder().decode(uuidEnd < 0 ? uuidField : uuidField.subarray(0, uuidEnd)),
    slots,
  };
  checkAreas(header, states, how, fail);
  return header;
}

function checkAreas(
  { keyBytes, payloadOffset, digestIterations, slots }: LuksHeader,
  states: readonly number[],
  { detached = false }: HeaderReading,
  fail: (code: 'corrupt', field: string, message: string) => never,
): void {
  if (!detached && payloadOffset < Math.ceil(headerBytes / sectorBytes)) {
    fail('corrupt', 'payload-offset', 'LUKS payload is overlapping with the header');
  }
  if (digestIterations === 0) fail('corrupt', 'mk-digest-iter', 'LUKS key iteration count is zero');
  const areas = slots.map((slot) => ({
    from: slot.keyOffset,
    to: slot.keyOffset + Math.ceil(materialBytes(keyBytes, slot.stripes) / sectorBytes),
  }));
  for (const [index, slot] of slots.entries()) {
    const place = `key-slot-${index}`;
    if (slot.stripes !== stripes) {
      const message = `Keyslot ${index} is corrupted (stripes ${slot.stripes | 0} != ${stripes})`;
      fail('corrupt', `${place}.stripes`, message);
    }
    const { from, to } = areas[index];
    if (from < Math.ceil(headerBytes / sectorBytes)) {
      fail('corrupt', place, `Keyslot ${index} is overlapping with the LUKS header`);
    }
    if (states[index] !== active && states[index] !== inactive) {
      fail('corrupt', `${place}.active`, `Keyslot ${index} state (active/disable) is corrupted`);
    }
    if (slot.active && slot.iterations === 0) {
      fail('corrupt', `${place}.iterations`, `Keyslot ${index} iteration count is zero`);
    }
    if (!detached && to > payloadOffset) {
      fail('corrupt', place, `Keyslot ${index} is overlapping with the encrypted payload`);
    }
    for (let other = index + 1; other < slots.length; other++) {
      if (from < areas[other].to && areas[other].from < to) {
        fail('corrupt', place, `Keyslots ${index} and ${other} are overlapping in the header`);
      }
    }
  }
}

/** The header's 592 bytes. */
export function encodeHeader(header: LuksHeader): Uint8Array {
  const bytes = new Uint8Array(headerBytes);
  const view = new DataView(bytes.buffer);
  const text = (at: number, value: string) => bytes.set(new TextEncoder().encode(value), at);
  bytes.set(luksMagic);
  view.setUint16(6, 1);
  text(8, header.cipherName);
  text(40, header.cipherMode);
  text(72, header.hashSpec);
  view.setUint32(104, header.payloadOffset);
  view.setUint32(108, header.keyBytes);
  bytes.set(header.digest, 112);
  bytes.set(header.digestSalt, 132);
  view.setUint32(164, header.digestIterations);
  text(168, header.uuid);
  for (const [index, slot] of header.slots.entries()) {
    const at = slotsAt + index * slotBytes;
    view.setUint32(at, slot.active ? active : inactive);
    view.setUint32(at + 4, slot.iterations);
    bytes.set(slot.salt, at + 8);
    view.setUint32(at + 40, slot.keyOffset);
    view.setUint32(at + 44, slot.stripes);
  }
  return bytes;
}
