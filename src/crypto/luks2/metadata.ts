import { DiskError } from '../../errors.ts';
import { hashNamed, understandCipher } from '../luks/cipher-names.ts';
import { stripes as allStripes, sectorBytes } from '../luks/header.ts';
import { mostKeyBytes } from '../luks/key-slots.ts';
import type { SlotShape } from '../luks/slot-material.ts';
import type { Argon2Cost, HashName } from '../primitives.ts';
import type { CipherSpec } from '../sector-cipher.ts';
import type { HeaderCopy } from './header.ts';
import { Fields } from './json-fields.ts';

export type Kdf =
  | {
      readonly type: 'pbkdf2';
      readonly hash: HashName;
      readonly iterations: number;
      readonly salt: Uint8Array;
    }
  | { readonly type: 'argon2i' | 'argon2id'; readonly cost: Argon2Cost; readonly salt: Uint8Array };

/** A key slot that can be tried. */
export interface Luks2Slot extends SlotShape {
  readonly number: number;
  /** Bytes from the header's start, and of the key that the material is encrypted with. */
  readonly areaOffset: number;
  readonly areaKeyBytes: number;
  readonly kdf: Kdf;
}

export interface Luks2Digest {
  readonly hash: HashName;
  readonly iterations: number;
  readonly salt: Uint8Array;
  readonly digest: Uint8Array;
}

/** What a LUKS2 header says, as far as it is understood here. */
export interface Luks2Header {
  readonly uuid: string;
  readonly segment: {
    /** Bytes from the start of the file that holds the payload. */
    readonly offset: number;
    /** Bytes; undefined: to the end of the file. */
    readonly size?: number;
    readonly cipherName: string;
    readonly spec: CipherSpec;
    /** Added to a sector's number for its initialisation vector. */
    readonly firstSector: number;
  };
  readonly keyBytes: number;
  readonly slots: readonly Luks2Slot[];
  /** Why slots that unlock the payload cannot be tried. */
  readonly refused: readonly DiskError[];
  readonly digest: Luks2Digest;
}

/** As cryptsetup has them (LUKS2_KEYSLOTS_MAX and the like). */
const mostSlots = 32;
const mostOthers = 32;
const mostIterations = 0xffff_ffff;

/**
 * Understands a header's JSON (LUKS2 specification, section 3): one segment, AES in XTS, without integrity, not being
 * reencrypted. Tokens say where a passphrase may come from, and are left alone. Throws `unsupported` by name for anything
 * else, `corrupt` for what cannot be.
 */
export function understandHeader(copy: HeaderCopy, path: string): Luks2Header {
  const json = new Fields(copy.json, '', path);
  const unsupported = (field: string, message: string): DiskError =>
    new DiskError('unsupported', message, { path, field });
  const corrupt = (field: string, message: string): DiskError =>
    new DiskError('corrupt', message, { path, field });

  const config = json.object('config');
  if (config.wide('json_size') !== copy.length - 4096) {
    throw corrupt('config.json_size', 'The LUKS2 header gives two sizes of its JSON area');
  }
  const areas = { from: 2 * copy.length, to: 2 * copy.length + config.wide('keyslots_size') };
  refuseRequirements(config, unsupported);

  const segments = json.object('segments').entries(mostOthers);
  if (segments.length !== 1) {
    const message = `LUKS2 with ${segments.length} data segments is not supported`;
    throw unsupported('segments', message);
  }
  const [segmentName, segmentFields] = segments[0];
  const digest = digestOf(json, segmentName, path);
  const usable: Luks2Slot[] = [];
  const refused: DiskError[] = [];
  const taken: (readonly [number, number])[] = [];
  for (const [name, fields] of json.object('keyslots').entries(mostSlots)) {
    const type = fields.text('type');
    if (type === 'reencrypt')
      throw unsupported('keyslots', 'LUKS2 that is being reencrypted is not supported');
    const area = fields.object('area');
    const [offset, size] = [area.wide('offset'), area.wide('size')];
    if (
      offset < areas.from ||
      offset + size > areas.to ||
      taken.some(([from, to]) => offset < to && from < offset + size)
    ) {
      throw corrupt(`keyslots.${name}.area`, `The area of LUKS2 key slot ${name} lies over something else`);
    }
    taken.push([offset, offset + size]);
    // Priority 0 is for those who ask for that slot by its number.
    const asked = !fields.has('priority') || fields.number('priority', 0, 2) !== 0;
    if (!digest.keyslots.includes(name) || !asked) continue;
    try {
      usable.push(slotOf(name, fields, size, path));
    } catch (error) {
      if (!(error instanceof DiskError) || error.code !== 'unsupported') throw error;
      refused.push(error);
    }
  }
  const keySizes = new Set(usable.map(({ keyBytes }) => keyBytes));
  if (keySizes.size > 1) throw corrupt('keyslots', 'The LUKS2 key slots hold keys of several sizes');
  const keyBytes = usable[0]?.keyBytes ?? mostKeyBytes;
  const segment = segmentOf(segmentFields, keyBytes, path);
  if (segment.offset !== 0 && segment.offset < areas.to) {
    throw corrupt('segments.offset', 'The LUKS2 payload lies over the header');
  }
  return { uuid: copy.uuid, segment, keyBytes, slots: usable, refused, digest };
}

function refuseRequirements(
  config: Fields,
  unsupported: (field: string, message: string) => DiskError,
): void {
  if (!config.has('requirements')) return;
  const requirements = config.object('requirements');
  if (!requirements.has('mandatory')) return;
  const [first] = requirements.texts('mandatory');
  if (first === undefined) return;
  throw unsupported(
    'config.requirements',
    `LUKS2 with the requirement '${first.slice(0, 64)}' is not supported`,
  );
}

function segmentOf(fields: Fields, keyBytes: number, path: string): Luks2Header['segment'] {
  const refuse = (what: string) =>
    new DiskError('unsupported', `LUKS2 ${what} is not supported`, { path, field: fields.place });
  const type = fields.text('type');
  if (type !== 'crypt') throw refuse(`segment of type '${type.slice(0, 64)}'`);
  if (fields.has('integrity')) throw refuse('with integrity protection');
  const encryption = fields.text('encryption');
  if (!/^aes-xts-plain(?:64)?$/.test(encryption)) throw refuse(`cipher '${encryption.slice(0, 64)}'`);
  const { spec } = cipherNamed(encryption, keyBytes, path);
  const sector = fields.number('sector_size', sectorBytes, 4096);
  const offset = fields.wide('offset');
  const size = fields.text('size') === 'dynamic' ? undefined : fields.wide('size');
  if (![512, 1024, 2048, 4096].includes(sector) || offset % sectorBytes !== 0 || (size ?? 0) % sector !== 0) {
    throw new DiskError('corrupt', 'The LUKS2 segment has sizes that cannot be', {
      path,
      field: fields.place,
    });
  }
  return {
    offset,
    size,
    cipherName: encryption,
    spec: { ...spec, sectorBytes: sector },
    firstSector: fields.wide('iv_tweak'),
  };
}

function digestOf(
  json: Fields,
  segment: string,
  path: string,
): Luks2Digest & { readonly keyslots: readonly string[] } {
  const digests = json.object('digests').entries(mostOthers);
  const [, found] = digests.find(([, fields]) => fields.texts('segments').includes(segment)) ?? [];
  if (!found)
    throw new DiskError('corrupt', 'No LUKS2 digest is that of the payload', { path, field: 'digests' });
  const type = found.text('type');
  if (type !== 'pbkdf2') {
    const message = `LUKS2 digest of type '${type.slice(0, 64)}' is not supported`;
    throw new DiskError('unsupported', message, { path, field: found.place });
  }
  return {
    keyslots: found.texts('keyslots'),
    hash: hashNamed(found.text('hash'), `${found.place}.hash`, path),
    iterations: found.number('iterations', 1, mostIterations),
    salt: found.bytes('salt', 8, 512),
    digest: found.bytes('digest', 20, 64),
  };
}

/** Throws `unsupported` for a slot of another kind, `corrupt` for one that cannot be. */
function slotOf(name: string, fields: Fields, areaSize: number, path: string): Luks2Slot {
  const refuse = (what: string) =>
    new DiskError('unsupported', `LUKS2 key slot with ${what} is not supported`, {
      path,
      field: fields.place,
    });
  const wrong = () =>
    new DiskError('corrupt', `LUKS2 key slot ${name} has sizes that cannot be`, {
      path,
      field: fields.place,
    });
  const type = fields.text('type');
  if (type !== 'luks2') throw refuse(`the type '${type.slice(0, 64)}'`);
  const area = fields.object('area');
  const splitter = fields.object('af');
  if (area.text('type') !== 'raw') throw refuse(`an area of type '${area.text('type').slice(0, 64)}'`);
  if (splitter.text('type') !== 'luks1') throw refuse(`the splitter '${splitter.text('type').slice(0, 64)}'`);
  const keyBytes = fields.number('key_size', 16, mostKeyBytes);
  const stripes = splitter.number('stripes', allStripes, allStripes);
  const areaKeyBytes = area.number('key_size', 16, mostKeyBytes);
  if (areaSize < keyBytes * stripes || !/^\d{1,3}$/.test(name)) throw wrong();
  return {
    number: Number(name),
    keyBytes,
    stripes,
    hash: hashNamed(splitter.text('hash'), `${splitter.place}.hash`, path),
    areaOffset: area.wide('offset'),
    areaKeyBytes,
    spec: cipherNamed(area.text('encryption'), areaKeyBytes, path).spec,
    kdf: kdfOf(fields.object('kdf'), path, refuse),
  };
}

function kdfOf(fields: Fields, path: string, refuse: (what: string) => DiskError): Kdf {
  const type = fields.text('type');
  const salt = () => fields.bytes('salt', 8, 512);
  if (type === 'pbkdf2') {
    const hash = hashNamed(fields.text('hash'), `${fields.place}.hash`, path);
    return { type, hash, iterations: fields.number('iterations', 1, mostIterations), salt: salt() };
  }
  if (type !== 'argon2i' && type !== 'argon2id') throw refuse(`the key derivation '${type.slice(0, 64)}'`);
  const lanes = fields.number('cpus', 1, 255);
  const cost = {
    passes: fields.number('time', 1, mostIterations),
    kibibytes: fields.number('memory', 8 * lanes, mostIterations),
    lanes,
  };
  return { type, cost, salt: salt() };
}

/** `aes-xts-plain64` in LUKS1's two parts. */
function cipherNamed(encryption: string, keyBytes: number, path: string) {
  const [cipherName, ...mode] = encryption.split('-');
  return understandCipher({ cipherName, cipherMode: mode.join('-'), hashSpec: 'sha256' }, keyBytes, path);
}
