import { alignUp } from '../../../bytes/numbers.ts';
import { pageAligned } from '../../../bytes/page-buffer.ts';
import { DiskError } from '../../../errors.ts';
import type { ByteSource, ByteStore } from '../../../storage/store.ts';
import * as c from '../constants.ts';
import {
  clusterSizeOf,
  hasIncompatible,
  l2EntriesOf,
  l2EntryBytesOf,
  type Qcow2Header,
  readHeader,
} from '../header.ts';
import { writeHeaderFields } from '../header-write.ts';

/** The most clusters of a file that can be counted, as in QEMU. */
const maxClusters = 0x7fffffff;

/** A qcow2 file as the checker sees it: its header and its bytes, nothing cached from a layer. */
export class CheckedImage {
  readonly source: ByteSource;
  readonly clusterBits: number;
  readonly clusterSize: number;
  readonly entryBytes: number;
  readonly l2Entries: number;
  readonly extendedL2: boolean;
  readonly hasDataFile: boolean;
  header: Qcow2Header;
  readonly #store: ByteStore | undefined;

  private constructor(source: ByteSource, store: ByteStore | undefined, header: Qcow2Header) {
    this.source = source;
    this.#store = store;
    this.header = header;
    this.clusterBits = header.clusterBits;
    this.clusterSize = clusterSizeOf(header);
    this.entryBytes = l2EntryBytesOf(header);
    this.l2Entries = l2EntriesOf(header);
    this.extendedL2 = hasIncompatible(header, c.Incompatible.extendedL2);
    this.hasDataFile = hasIncompatible(header, c.Incompatible.dataFile);
  }

  /** Reads the header. Give `store`, the same file, where the check may repair. */
  static async of(source: ByteSource, store?: ByteStore): Promise<CheckedImage> {
    const image = new CheckedImage(source, store, await readHeader(source, { lenient: true }));
    if (image.fileClusters > maxClusters) {
      throw new DiskError(
        'unsupported',
        `The file has ${image.fileClusters} clusters, too many to be counted`,
        {
          path: source.name,
          detail: { errno: 'EFBIG', clusters: image.fileClusters, limit: maxClusters },
        },
      );
    }
    return image;
  }

  /** Bytes of the file, in whole sectors as QEMU counts them. */
  get fileLength(): number {
    return alignUp(this.source.size, 512);
  }

  get fileClusters(): number {
    return Math.ceil(this.fileLength / this.clusterSize);
  }

  /** Clusters of the file that lie in it whole. */
  get wholeClusters(): number {
    return Math.floor(this.source.size / this.clusterSize);
  }

  /** Clusters of the guest's disk. */
  get guestClusters(): number {
    return Math.ceil(this.header.size / this.clusterSize);
  }

  /** Where writes of a repair go. */
  get store(): ByteStore {
    if (this.#store) return this.#store;
    throw new DiskError('read-only', `'${this.source.name}' was opened only to read`, {
      path: this.source.name,
    });
  }

  /** Sets incompatible feature bits in the header of a version 3 image. Durable on return. */
  async setMarks(bits: bigint): Promise<void> {
    await this.#writeFeatures({
      ...this.header,
      incompatibleFeatures: this.header.incompatibleFeatures | bits,
    });
  }

  /** Takes the marks of an image that is not in order off a version 3 header, and autoclear bits that nobody here knows. */
  async clearMarks(): Promise<void> {
    const { incompatibleFeatures, autoclearFeatures } = this.header;
    await this.#writeFeatures({
      ...this.header,
      incompatibleFeatures: incompatibleFeatures & ~(c.Incompatible.dirty | c.Incompatible.corrupt),
      autoclearFeatures: autoclearFeatures & c.knownAutoclear,
    });
  }

  async #writeFeatures(wanted: Qcow2Header): Promise<void> {
    const { version, incompatibleFeatures, autoclearFeatures } = this.header;
    const same =
      wanted.incompatibleFeatures === incompatibleFeatures && wanted.autoclearFeatures === autoclearFeatures;
    if (version < 3 || same) return;
    // What the marks vouch for is on disk before they are.
    await writeHeaderFields(this.store, wanted);
    this.header = wanted;
  }

  /** Fills `into`; what lies past the end of the file is zeroes, as it is for QEMU. */
  async read(offset: number, into: Uint8Array): Promise<void> {
    const there = Math.max(0, Math.min(into.length, this.source.size - offset));
    into.fill(0, there);
    if (there > 0) await this.source.read(offset, into.subarray(0, there));
  }

  /** True when nothing of the range lies in the file, so that all of it reads as zeroes. */
  isPastEnd(offset: number): boolean {
    return offset >= this.source.size;
  }

  /** A buffer and its view for tables of `bytes`. */
  tableBuffer(bytes = this.clusterSize): { readonly bytes: Uint8Array; readonly view: DataView } {
    const buffer = pageAligned(bytes);
    return { bytes: buffer, view: new DataView(buffer.buffer, buffer.byteOffset, bytes) };
  }
}

/** A 64-bit entry by its halves, in hexadecimal without a prefix. */
export function hex64(high: number, low: number): string {
  const lower = (low >>> 0).toString(16);
  return high === 0 ? lower : `${(high >>> 0).toString(16)}${lower.padStart(8, '0')}`;
}

/** A 64-bit number by its halves. Exact below 2^53, and for multiples of 2^11 above. */
export function join64(high: number, low: number): number {
  return (high >>> 0) * c.two32 + (low >>> 0);
}
