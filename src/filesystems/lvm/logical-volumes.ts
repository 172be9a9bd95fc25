import { DiskError } from '../../errors.ts';
import type { ByteRange } from '../file-system.ts';
import { merged } from '../pieces.ts';
import type { ByteSource } from '../source.ts';
import type { Section, Value } from './config-text.ts';
import { type PhysicalVolume, readPhysicalVolume } from './physical-volume.ts';

/** A logical volume that a guest sees as a disk of its own. */
export interface LogicalVolume {
  /** `GROUP/NAME`. */
  readonly name: string;
  /** The group's and the volume's, 64 characters without dashes: what follows `dm-uuid-LVM-` in /dev/disk/by-id. */
  readonly uuid: string;
  readonly length: number;
  /** Where its bytes lie within the physical volume, in order. */
  readonly pieces: readonly ByteRange[];
  /** Why it cannot be read, in words; `pieces` are none then. */
  readonly unreadable?: string;
  /** Why what its file system calls free may be needed all the same, in words. */
  readonly heldBy?: string;
}

const sectorBytes = 512;
/** LVM itself advises against more than a few hundred. */
const mostVolumes = 1000;
const mostPieces = 10_000;

/**
 * The logical volumes of an LVM physical volume, which may be one of several of its group; undefined: it is none. They are read where all of
 * a volume lies here in linear pieces. Throws `corrupt`, `unsupported`.
 */
export async function readLogicalVolumes(volume: ByteSource): Promise<readonly LogicalVolume[] | undefined> {
  const physical = await readPhysicalVolume(volume);
  if (!physical) return undefined;
  for (const [name, value] of physical.metadata ?? []) {
    if (value instanceof Map && value.has('physical_volumes'))
      return new Group(name, value, physical, volume.size).volumes();
  }
  return [];
}

class Group {
  readonly #name: string;
  readonly #section: Section;
  readonly #extentBytes: number;
  /** What the metadata calls the physical volume at hand. */
  readonly #here: string;
  /** Its first extent begins there. */
  readonly #start: number;
  readonly #end: number;
  readonly #physical: PhysicalVolume;
  readonly #logical: ReadonlyMap<string, Section>;
  /** Names of volumes that hold what others were before they changed. */
  readonly #copies = new Set<string>();
  #pieces = 0;

  constructor(name: string, section: Section, at: PhysicalVolume, size: number) {
    this.#name = name;
    this.#section = section;
    this.#physical = at;
    const extentSectors = numberIn(section, 'extent_size');
    this.#extentBytes = extentSectors * sectorBytes;
    if (extentSectors < 1) throw broken('extent_size', extentSectors);
    const physical = sectionsIn(section, 'physical_volumes');
    const own = [...physical].find(([, one]) => undashed(one.get('id')) === at.uuid);
    if (!own) throw new DiskError('corrupt', "LVM's metadata is that of another disk", { field: 'id' });
    this.#here = own[0];
    this.#start = numberIn(own[1], 'pe_start') * sectorBytes;
    this.#end = this.#start + numberIn(own[1], 'pe_count') * this.#extentBytes;
    if (this.#end > size) throw broken('pe_count', own[1].get('pe_count'));
    for (const { offset, length } of at.areas) {
      if (offset < this.#end && this.#start < offset + length)
        throw broken('pe_start', own[1].get('pe_start'));
    }
    this.#logical = section.has('logical_volumes') ? sectionsIn(section, 'logical_volumes') : new Map();
    if (this.#logical.size > mostVolumes) {
      throw new DiskError('unsupported', `An LVM group of ${this.#logical.size} volumes`, {
        field: 'logical_volumes',
      });
    }
    for (const one of this.#logical.values()) {
      for (const segment of segmentsOf(one)) {
        const store = segment.get('cow_store');
        if (typeof store === 'string') this.#copies.add(store);
      }
    }
  }

  volumes(): readonly LogicalVolume[] {
    const heldBy = this.#heldBy();
    const group = undashed(this.#section.get('id')) ?? '';
    return [...this.#logical]
      .filter(([, one]) => flagsIn(one, 'status').includes('VISIBLE'))
      .map(([name, one]) => {
        const place = this.#placeOf(name, one);
        const uuid = `${group}${undashed(one.get('id')) ?? ''}`;
        if (uuid.length !== 64) throw broken('id', uuid);
        return { name: `${this.#name}/${name}`, uuid, ...place, heldBy };
      });
  }

  /** Blocks that are free on a volume may be all that a snapshot of it has; and of other disks' parts nothing is known here. */
  #heldBy(): string | undefined {
    if (this.#physical.damage !== undefined) return this.#physical.damage;
    const status = flagsIn(this.#section, 'status');
    if (sectionsIn(this.#section, 'physical_volumes').size !== 1)
      return 'its volume group has other physical volumes too';
    if (status.includes('EXPORTED') || status.includes('PARTIAL')) return 'its volume group is not whole';
    for (const [name, one] of this.#logical) {
      const other = segmentsOf(one).find((segment) => !isLinear(segment));
      if (other) return `its volume group has '${name}', a volume of type ${typeOf(other)}`;
      if (flagsIn(one, 'status').some((flag) => flag === 'LOCKED' || flag === 'PVMOVE'))
        return `'${name}' of its volume group is being moved`;
    }
    return undefined;
  }

  #placeOf(name: string, one: Section): Pick<LogicalVolume, 'length' | 'pieces' | 'unreadable'> {
    const segments = segmentsOf(one);
    const length = segments.reduce((sum, segment) => sum + this.#extents(segment, 'extent_count'), 0);
    const unreadable = (why: string) => ({ length, pieces: [], unreadable: why });
    if (this.#copies.has(name)) return unreadable('it is what a snapshot keeps, in a form of its own');
    const pieces: ByteRange[] = [];
    let end = 0;
    for (const segment of segments) {
      if (!isLinear(segment)) return unreadable(`an LVM volume of type ${typeOf(segment)}`);
      if (this.#extents(segment, 'start_extent') !== end) throw broken('start_extent', name);
      const [on, extent] = segment.get('stripes') as readonly Value[];
      if (on !== this.#here) return unreadable('a part of it lies on another physical volume');
      const bytes = this.#extents(segment, 'extent_count');
      const offset = this.#start + Number(extent) * this.#extentBytes;
      if (!(offset >= this.#start && offset + bytes <= this.#end && bytes > 0)) throw broken('stripes', name);
      pieces.push({ offset, length: bytes });
      end += bytes;
    }
    this.#pieces += pieces.length;
    if (this.#pieces > mostPieces)
      throw new DiskError('unsupported', 'An LVM group of too many pieces', { field: 'segment_count' });
    return { length, pieces: merged(pieces) };
  }

  /** A number of extents, in bytes. */
  #extents(segment: Section, field: string): number {
    const bytes = numberIn(segment, field) * this.#extentBytes;
    if (!Number.isSafeInteger(bytes)) throw broken(field, segment.get(field));
    return bytes;
  }
}

function segmentsOf(volume: Section): readonly Section[] {
  const count = numberIn(volume, 'segment_count');
  const segments = [...volume].filter(([name, value]) => /^segment\d+$/.test(name) && value instanceof Map);
  if (segments.length !== count || count === 0) throw broken('segment_count', count);
  return segments
    .map(([name, value]) => ({ number: Number(name.slice('segment'.length)), value: value as Section }))
    .sort((a, b) => a.number - b.number)
    .map(({ value }) => value);
}

/** One stripe is LVM's word for what lies in one piece. */
function isLinear(segment: Section): boolean {
  const stripes = segment.get('stripes');
  return (
    typeOf(segment) === 'striped' &&
    segment.get('stripe_count') === 1 &&
    Array.isArray(stripes) &&
    stripes.length === 2 &&
    Number.isSafeInteger(stripes[1])
  );
}

function typeOf(segment: Section): string {
  const type = segment.get('type');
  return typeof type === 'string' ? type : 'unknown';
}

function flagsIn(section: Section, field: string): readonly Value[] {
  const value = section.get(field);
  return Array.isArray(value) ? value : [];
}

function sectionsIn(section: Section, field: string): ReadonlyMap<string, Section> {
  const value = section.get(field);
  if (!(value instanceof Map)) throw broken(field, value);
  for (const one of value.values()) if (!(one instanceof Map)) throw broken(field, one);
  return value;
}

function numberIn(section: Section, field: string): number {
  const value = section.get(field);
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 0) throw broken(field, value);
  return value;
}

function undashed(id: Value | undefined): string | undefined {
  return typeof id === 'string' ? id.replaceAll('-', '') : undefined;
}

function broken(field: string, value: unknown): DiskError {
  return new DiskError(
    'corrupt',
    `LVM's metadata has an impossible ${field}: ${String(value).slice(0, 40)}`,
    {
      field,
    },
  );
}
