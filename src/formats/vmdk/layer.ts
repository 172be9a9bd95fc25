import { DiskError } from '../../errors.ts';
import type { ByteSource, ByteStore } from '../../storage/store.ts';
import type { BackingReference, Layer, LayerDetails, Reservation, Run, WritableLayer } from '../driver.ts';
import { noParent, sectorBytes } from './constants.ts';
import { type Descriptor, newContentId } from './descriptor.ts';
import { detailsOf } from './details.ts';
import { corrupt, unsupported } from './errors.ts';
import type { Extent } from './extent.ts';

/** A descriptor, and where in its file it begins. */
export interface PlacedDescriptor {
  readonly descriptor: Descriptor;
  readonly at: number;
  /** What the extents make the image, by QEMU's names. */
  readonly createType: string;
}

/** A VMDK image open for reading: extents, one behind the other. */
export class VmdkLayer implements Layer {
  readonly format = 'vmdk';
  readonly source: ByteSource;
  readonly extents: readonly Extent[];
  readonly createType: string;
  readonly size: number;
  readonly grain: number;
  readonly backing?: BackingReference;
  #cid: number;
  #parentCid: number;

  constructor(source: ByteSource, placed: PlacedDescriptor, extents: readonly Extent[]) {
    const { descriptor } = placed;
    this.source = source;
    this.extents = extents;
    this.createType = placed.createType;
    this.size = extents.at(-1)?.end ?? 0;
    this.grain = grainOf(extents, this.size);
    this.#cid = descriptor.cid;
    this.#parentCid = descriptor.parentCid;
    if (descriptor.parent !== undefined) this.backing = { path: descriptor.parent, format: 'vmdk' };
  }

  /** The content ID: it changes when the content does. */
  get cid(): number {
    return this.#cid;
  }

  protected set cid(cid: number) {
    this.#cid = cid;
  }

  /** The content ID of the parent that it was made on. */
  get parentCid(): number {
    return this.#parentCid;
  }

  protected set parentCid(cid: number) {
    this.#parentCid = cid;
  }

  locate(offset: number, length: number): Run | undefined {
    const extent = this.extentAt(offset);
    return extent.locate(offset, Math.min(length, extent.end - offset));
  }

  fault(offset: number): Promise<void> {
    return this.extentAt(offset).fault(offset);
  }

  /** The extent that a guest byte lies in. */
  extentAt(offset: number): Extent {
    let low = 0;
    let high = this.extents.length - 1;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (offset < this.extents[middle].end) high = middle;
      else low = middle + 1;
    }
    return this.extents[low];
  }

  assertBacking(backing: Layer): void {
    if (backing instanceof VmdkLayer && backing.cid === this.parentCid) return;
    const vmdk = backing instanceof VmdkLayer;
    const found = vmdk ? hexId(backing.cid) : `none (format ${backing.format})`;
    // A commit that was cut short has changed the one and not yet the other.
    const advice = vmdk
      ? `; if only a commit of this image was cut short, write parentCID=${found} into its descriptor`
      : '';
    throw new DiskError(
      'changed',
      `The content ID of the backing image is ${found}; the image was made on one of ${hexId(this.parentCid)}${advice}`,
      { path: this.source.name, field: 'parentCID', detail: { errno: 'EINVAL', own: true } },
    );
  }

  details(): Promise<LayerDetails> {
    return Promise.resolve(detailsOf(this));
  }

  async allocated(): Promise<number | undefined> {
    let total = await this.source.allocated();
    for (const { source } of this.extents) {
      if (!source || source === this.source) continue;
      const bytes = await source.allocated();
      total = total === undefined || bytes === undefined ? undefined : total + bytes;
    }
    return total;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await closeAll([...this.extents.filter(({ source }) => source !== this.source), this.source]);
  }
}

/** A VMDK image open for writing. */
export class WritableVmdkLayer extends VmdkLayer implements WritableLayer {
  readonly writable = true;
  /** Absent where an extent is flat. */
  readonly pack?: (offset: number, bytes: Uint8Array) => Promise<void>;
  readonly #placed: PlacedDescriptor;
  #touched: Promise<void> | undefined;

  constructor(store: ByteStore, placed: PlacedDescriptor, extents: readonly Extent[]) {
    super(store, placed, extents);
    this.#placed = placed;
    if (extents.every(({ writer }) => writer?.pack)) this.pack = (offset, bytes) => this.#pack(offset, bytes);
  }

  get packedOnly(): boolean {
    return this.extents[0]?.compressed ?? false;
  }

  async reserve(offset: number, length: number): Promise<Reservation> {
    const extent = this.extentAt(offset);
    return this.#writerOf(extent, offset).reserve(offset, Math.min(length, extent.end - offset));
  }

  async mark(
    kind: 'zero' | 'hole',
    offset: number,
    length: number,
    options?: { readonly discard?: boolean },
  ): Promise<boolean> {
    for (let at = offset; at < offset + length; ) {
      const extent = this.extentAt(at);
      const part = Math.min(offset + length, extent.end) - at;
      // Where this says no, zeroes are written over all of the range.
      if (!(await this.#writerOf(extent, at).mark(kind, at, part, options?.discard ?? false))) return false;
      at += part;
    }
    return true;
  }

  async #pack(offset: number, bytes: Uint8Array): Promise<void> {
    for (let done = 0; done < bytes.length; ) {
      const extent = this.extentAt(offset + done);
      const length = Math.min(bytes.length - done, extent.end - offset - done);
      await extent.writer!.pack!(offset + done, bytes.subarray(done, done + length));
      done += length;
    }
  }

  /** Gives the image a new content ID, durably, before the first change of its content. */
  touch(): Promise<void> {
    this.#touched ??= this.#changeCid().catch((error) => {
      this.#touched = undefined;
      throw error;
    });
    return this.#touched;
  }

  async #changeCid(): Promise<void> {
    const { cidAt, cidDigits } = this.#placed.descriptor;
    const cid = newContentId(cidDigits, this.cid);
    await this.#writeId(cidAt, cidDigits, cid);
    this.cid = cid;
  }

  /** Throws `unsupported` where the descriptor has too few digits to write over. */
  async adoptBacking(backing: Layer): Promise<void> {
    if (!(backing instanceof VmdkLayer) || backing.cid === this.parentCid) return;
    const { parentCidAt, parentCidDigits } = this.#placed.descriptor;
    await this.#writeId(parentCidAt, parentCidDigits, backing.cid);
    this.parentCid = backing.cid;
  }

  async #writeId(at: number, digits: number, id: number): Promise<void> {
    const text = new TextEncoder().encode(id.toString(16).padStart(digits, '0'));
    if (text.length > digits) {
      const message = `The descriptor has no room for the content ID ${hexId(id)}`;
      throw unsupported(this.source.name, 'parentCID', message);
    }
    const store = this.source as ByteStore;
    await store.write(this.#placed.at + at, text);
    await store.flush();
  }

  #writerOf(extent: Extent, offset: number) {
    if (extent.writer) return extent.writer;
    throw new DiskError('read-only', 'The descriptor says that this part of the disk may only be read', {
      path: this.source.name,
      offset,
      field: 'extent',
      detail: { errno: 'EACCES' },
    });
  }

  async flush(): Promise<void> {
    for (const { writer } of this.extents) await writer?.flush();
  }

  override async [Symbol.asyncDispose](): Promise<void> {
    try {
      for (const { writer } of this.extents) await writer?.finish();
    } finally {
      await super[Symbol.asyncDispose]();
    }
  }
}

/** Closes all of them; throws the first failure. */
export async function closeAll(opened: readonly AsyncDisposable[]): Promise<void> {
  const failures: unknown[] = [];
  for (const each of opened) {
    try {
      await each[Symbol.asyncDispose]();
    } catch (error) {
      failures.push(error);
    }
  }
  if (failures.length > 0) throw failures[0];
}

/**
 * Bytes of which the disk's grains are whole parts. Extents that do not begin on a grain leave only the disk as a
 * whole: two writers in one grain would each give it space.
 */
function grainOf(extents: readonly Extent[], size: number): number {
  const grains = extents.flatMap(({ grain }) => grain ?? []);
  if (grains.length === 0) return 1;
  const largest = Math.max(...grains);
  const fits =
    grains.every((grain) => largest % grain === 0) &&
    extents.every(({ start, grain }) => grain === undefined || start % largest === 0);
  return fits ? largest : Math.max(size, sectorBytes);
}

/** An overlay whose descriptor does not say what it stands on would show zeroes for all of that. */
export function assertParent(descriptor: Descriptor, path: string): void {
  if (descriptor.parentCid === noParent || descriptor.parent !== undefined) return;
  throw corrupt(path, 'parentFileNameHint', 'The image stands on a parent that its descriptor does not name');
}

function hexId(cid: number): string {
  return cid.toString(16).padStart(8, '0');
}
