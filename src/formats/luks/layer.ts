import { alignDown, alignUp } from '../../bytes/numbers.ts';
import { DiskError } from '../../errors.ts';
import type { EncryptedStore } from '../../storage/encrypted.ts';
import { type ByteSource, type ByteStore, hasFixedSize } from '../../storage/store.ts';
import type { Layer, LayerDetails, Reservation, ResizeOptions, Run, WritableLayer } from '../driver.ts';
import { InPlace } from '../in-place.ts';
import { sectorBytes } from '../raw/layer.ts';

const zeroBytes = 1024 * 1024;

/** What is known of an image without its key. */
export interface PayloadPlace {
  /** Where the payload lies in the source, in bytes. */
  readonly offset: number;
  /** Bytes of the payload, where it does not reach to the end of the source. */
  readonly size?: number;
  /** Only whole units of so many bytes at the end count; else a part of a sector is one, as with QEMU. */
  readonly wholeUnits?: number;
  readonly headerFile?: ByteSource;
  readonly keySecret?: string;
  details(): Promise<LayerDetails>;
}

/** A LUKS image open for reading: guest byte n is byte n of the payload. Without one, only its header can be read. */
export class LuksLayer implements Layer {
  readonly format = 'luks';
  readonly source: ByteSource;
  readonly grain: number;
  readonly keySecret: string | undefined;
  readonly headerFile: ByteSource | undefined;
  protected readonly payload: EncryptedStore | undefined;
  readonly #place: PayloadPlace;

  constructor(source: ByteSource, place: PayloadPlace, payload?: EncryptedStore) {
    this.source = source;
    this.payload = payload;
    this.#place = place;
    this.keySecret = place.keySecret;
    this.headerFile = place.headerFile;
    this.grain = payload?.sectorBytes ?? sectorBytes;
  }

  get size(): number {
    const { offset, size, wholeUnits } = this.#place;
    const there = Math.max(0, this.source.size - offset);
    if (wholeUnits === undefined) return alignUp(there, sectorBytes);
    return alignDown(Math.min(there, size ?? there), wholeUnits);
  }

  locate(offset: number, length: number): Run | undefined {
    if (!this.payload) return undefined;
    const end = Math.min(offset + length, this.size);
    return { kind: 'data', offset, length: end - offset, source: this.payload, at: offset };
  }

  async fault(): Promise<void> {
    throw new DiskError('bad-argument', "Parameter 'key-secret' is required for cipher", {
      path: this.source.name,
      field: 'key-secret',
    });
  }

  /** The header says how long the payload is. */
  protected get hasFixedPayload(): boolean {
    return this.#place.size !== undefined;
  }

  details(): Promise<LayerDetails> {
    return this.#place.details();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      await this.payload?.[Symbol.asyncDispose]();
    } finally {
      await this.source[Symbol.asyncDispose]();
      await this.headerFile?.[Symbol.asyncDispose]();
    }
  }
}

/** A LUKS image open for writing. Every sector has its place; nothing in it can be marked as zero. */
export class WritableLuksLayer extends LuksLayer implements WritableLayer {
  readonly writable = true;
  readonly #payload: EncryptedStore;

  constructor(source: ByteSource, place: PayloadPlace, payload: EncryptedStore) {
    super(source, place, payload);
    this.#payload = payload;
  }

  async reserve(offset: number, length: number): Promise<Reservation> {
    return new InPlace(this.#payload, offset, length);
  }

  placeNow(offset: number): { readonly store: ByteStore; readonly at: number } {
    return { store: this.#payload, at: offset };
  }

  async mark(): Promise<boolean> {
    return false;
  }

  /** New bytes read as zeroes, which are written encrypted: QEMU leaves there what a hole of the file decrypts to. */
  async resize(size: number, options: ResizeOptions = {}): Promise<void> {
    const { preallocation = 'off', onProgress } = options;
    if (preallocation === 'metadata') {
      throw new DiskError('bad-argument', 'A LUKS image has no preallocation mode metadata', {
        path: this.source.name,
        field: 'preallocation',
        detail: { value: preallocation },
      });
    }
    if (this.hasFixedPayload || size % this.grain !== 0) {
      throw new DiskError('unsupported', `The payload cannot be given ${size} bytes`, {
        path: this.source.name,
        field: 'size',
        detail: { size },
      });
    }
    if (hasFixedSize(this.source)) {
      if (size <= this.size) return;
      throw new DiskError('out-of-space', `The device has no room for ${size} bytes`, {
        path: this.source.name,
        field: 'size',
        detail: { size, device: this.source.size },
      });
    }
    const before = this.size;
    if (size <= before) return this.#payload.resize(size);
    const grown = size - before;
    // Counted when the zeroes are written: this only leaves it to the caller to stop.
    const stoppable = onProgress && (() => onProgress(0, grown));
    if (preallocation !== 'off') await this.#payload.resize(size, { preallocation, onProgress: stoppable });
    try {
      for (let at = before; at < size; at += zeroBytes) {
        await this.#payload.zero(at, Math.min(zeroBytes, size - at));
        onProgress?.(at - before, grown);
      }
      onProgress?.(grown, grown);
    } catch (error) {
      // The first failure is the one to tell.
      await this.#payload.resize(before).catch(() => undefined);
      throw error;
    }
  }

  async flush(): Promise<void> {
    await this.#payload.flush();
  }
}
