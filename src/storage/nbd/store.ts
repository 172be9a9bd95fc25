import { alignDown, alignUp, isOffset } from '../../bytes/numbers.ts';
import { RangeLock } from '../../bytes/range-lock.ts';
import { DiskError, isDiskError } from '../../errors.ts';
import type { ByteStore, Extent } from '../store.ts';
import { limitsOf } from './handshake.ts';
import { NbdLink, type NbdLinkOptions } from './link.ts';
import { AllocationFlag, Command, CommandFlag, MetaContext, TransmissionFlag } from './protocol.ts';

/** Longer reads and writes go out in pieces, which several connections can share. */
const pieceBytes = 2 * 1024 * 1024;
/** A request that carries no data may be about so much. */
const farthestZeroes = 1024 * 1024 * 1024;
/** Milliseconds for which what a block status said further on is believed. */
const freshStatus = 1000;
/** As far as one block status asks. */
const farthestStatus = 1024 * 1024 * 1024;

export interface NbdStoreOptions extends Omit<NbdLinkOptions, 'context'> {
  /** What extents tell of in place of what is stored (QEMU's `x-dirty-bitmap`): a meta context that the export must have. */
  readonly statusContext?: string;
  /** For messages, and as the store's name. */
  readonly name: string;
  readonly writable: boolean;
}

/**
 * Opens an export of an NBD server. Throws DiskError: `io` where nobody answers, `not-found`, `denied`, `unsupported`
 * for a server's refusal, `corrupt` for one that does not keep to the protocol; later, requests throw what the server says.
 */
export async function openNbdStore(options: NbdStoreOptions): Promise<NbdStore> {
  const { statusContext: context } = options;
  const link = await NbdLink.open({ ...options, context });
  if (context !== undefined && link.info.contextId === undefined) {
    await link.close();
    throw new DiskError(
      'not-found',
      `The export has no '${context}' (x-dirty-bitmap); nbdinfo --json names what it has`,
      {
        path: options.name,
        field: 'x-dirty-bitmap',
        detail: { errno: 'EINVAL' },
      },
    );
  }
  if (options.writable && (link.info.flags & TransmissionFlag.readOnly) !== 0) {
    await link.close();
    throw new DiskError('denied', 'Could not open image: Permission denied', {
      path: options.name,
      field: 'nbd',
      detail: { errno: 'EACCES' },
    });
  }
  return new NbdStore(link, options);
}

/** What a block status said of the bytes from `at` on: lengths and flags, of which those before `index` are told. */
interface Status {
  readonly at: number;
  readonly index: number;
  readonly parts: readonly number[];
  /** When it was said: as the store's count of changes, and in milliseconds. */
  readonly changes: number;
  readonly time: number;
}

/**
 * An export as a store. Its size never changes. Requests are cut to what the server takes; where it wants whole blocks, the
 * rest of a block is read and written with it, under a lock.
 */
export class NbdStore implements ByteStore {
  name: string;
  readonly fixedSize = true;
  readonly writable: boolean;
  readonly #link: NbdLink;
  readonly #context: string | undefined;
  readonly #unit: number;
  readonly #most: number;
  /** Writes of blocks that are read first keep others away from them. */
  readonly #locks: RangeLock | undefined;
  #zeroes: Uint8Array | undefined;
  #status: Status | undefined;
  #changes = 0;

  constructor(
    link: NbdLink,
    { name, writable, statusContext }: Pick<NbdStoreOptions, 'name' | 'writable' | 'statusContext'>,
  ) {
    this.#link = link;
    this.#context = statusContext;
    this.name = name;
    this.writable = writable;
    const { minimum, maximum } = limitsOf(link.info);
    this.#unit = minimum;
    this.#most = Math.max(minimum, alignDown(Math.min(maximum, pieceBytes), minimum));
    if (minimum > 1) this.#locks = new RangeLock();
  }

  get size(): number {
    return this.#link.info.size;
  }

  async read(at: number, into: Uint8Array): Promise<void> {
    const { length } = into;
    if (!isOffset(at) || at + length > this.size) {
      throw new DiskError('out-of-range', `Read of ${length} bytes at ${at} ends past ${this.size}`, {
        path: this.name,
        offset: at,
        detail: { length, size: this.size },
      });
    }
    if (length === 0) return;
    const [start, end] = [alignDown(at, this.#unit), alignUp(at + length, this.#unit)];
    if (start === at && end === at + length) return this.#transfer(Command.read, at, into);
    if (end - start <= this.#most) {
      const whole = new Uint8Array(end - start);
      await this.#transfer(Command.read, start, whole);
      into.set(whole.subarray(at - start, at - start + length));
      return;
    }
    // Blocks at the edges by themselves, what lies between them straight to where it belongs.
    const inner = alignUp(at, this.#unit);
    const tail = alignDown(at + length, this.#unit);
    if (at < inner) await this.read(at, into.subarray(0, inner - at));
    await this.#transfer(Command.read, inner, into.subarray(inner - at, tail - at));
    if (tail < at + length) await this.read(tail, into.subarray(tail - at));
  }

  async write(at: number, from: Uint8Array): Promise<void> {
    this.#checkWrite(at, from.length);
    if (from.length === 0) return;
    const end = at + from.length;
    const inner = Math.min(alignUp(at, this.#unit), end);
    const tail = Math.max(alignDown(end, this.#unit), inner);
    await this.#changing(async () => {
      if (at < inner) await this.#writePart(at, from.subarray(0, inner - at));
      if (inner < tail) await this.#writeWhole(inner, from.subarray(inner - at, tail - at));
      if (tail < end) await this.#writePart(tail, from.subarray(tail - at));
    });
  }

  async zero(at: number, length: number, options: { readonly punch?: boolean } = {}): Promise<void> {
    this.#checkWrite(at, length);
    if (length === 0) return;
    const end = at + length;
    const can = (this.#link.info.flags & TransmissionFlag.sendWriteZeroes) !== 0;
    const inner = Math.min(alignUp(at, this.#unit), end);
    const tail = can ? Math.max(alignDown(end, this.#unit), inner) : inner;
    const flags = this.#link.writeFlags | (options.punch === false ? CommandFlag.noHole : 0);
    const step = alignDown(farthestZeroes, this.#unit);
    await this.#changing(async () => {
      await this.#writeZeroes(at, inner);
      for (let from = inner; from < tail; from += step) {
        const count = Math.min(step, tail - from);
        await this.#gated(from, count, false, () =>
          this.#link.request(Command.writeZeroes, flags, from, count),
        );
      }
      await this.#writeZeroes(tail, end);
    });
  }

  /** What is said of the export's blocks while `work` is under way is not believed after it either. */
  async #changing(work: () => Promise<void>): Promise<void> {
    this.#changes++;
    try {
      await work();
    } finally {
      this.#changes++;
    }
  }

  /** Throws for every size but its own. */
  async resize(size: number): Promise<void> {
    if (size === this.size) return;
    throw new DiskError('unsupported', 'Cannot resize NBD nodes', {
      path: this.name,
      field: 'size',
      detail: { size, before: this.size },
    });
  }

  async flush(): Promise<void> {
    await this.#named(this.#link.flush());
  }

  async extent(at: number): Promise<Extent> {
    if (!isOffset(at) || at >= this.size) {
      throw new DiskError('out-of-range', `Extent at ${at} lies past ${this.size}`, {
        path: this.name,
        offset: at,
      });
    }
    // Taken away, so that nobody else goes on from it meanwhile.
    let status = this.#status;
    this.#status = undefined;
    const fresh =
      status?.at === at && status.changes === this.#changes && Date.now() - status.time < freshStatus;
    if (!fresh) status = await this.#ask(at);
    return this.#tell(at, status);
  }

  async allocated(): Promise<undefined> {
    return undefined;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#link.close();
  }

  async #ask(at: number): Promise<Status | undefined> {
    const start = alignDown(at, this.#unit);
    const changes = this.#changes;
    const length = Math.min(this.size - start, alignDown(farthestStatus, this.#unit));
    const parts = await this.#named(this.#link.blockStatus(start, length));
    return parts && { at: start, index: 0, parts, changes, time: Date.now() };
  }

  /** The extent at `at`, which is used up by it: others may change the export, so nothing is told twice. */
  #tell(at: number, status: Status | undefined): Extent {
    if (!status) return this.#untold(at, this.size - at);
    const { parts } = status;
    let { index, at: end } = status;
    let kind: number | undefined;
    for (; index < parts.length && end < this.size; index += 2) {
      const next = this.#kindOf(parts[index + 1]);
      const ends = end + parts[index];
      // The block began before the byte in question.
      if (ends > at) {
        if (kind !== undefined && next !== kind) break;
        kind = next;
      }
      end = ends;
    }
    end = Math.min(end, this.size);
    if (end <= at || kind === undefined) {
      return this.#untold(at, Math.min(alignUp(at + 1, this.#unit), this.size) - at);
    }
    if (index < parts.length) this.#status = { ...status, at: end, index };
    const [data, zero] = [(kind & AllocationFlag.hole) === 0, (kind & AllocationFlag.zero) !== 0];
    if (this.#context === undefined) return { offset: at, length: end - at, data: !zero };
    return { offset: at, length: end - at, data: true, told: { data, zero } };
  }

  /** The flags that make one extent of neighbours. */
  #kindOf(flags: number): number {
    if (this.#context === undefined) return flags & AllocationFlag.zero;
    // As QEMU has it: depths are no flags, and all beneath the image are one.
    if (this.#context === MetaContext.allocationDepth && flags > 2) return 2;
    return flags & (AllocationFlag.hole | AllocationFlag.zero);
  }

  /** A stretch of which the server says nothing. It may hold data, but must not pass for a part that a bitmap does not name. */
  #untold(at: number, length: number): Extent {
    if (this.#context === undefined) return { offset: at, length, data: true };
    throw new DiskError('io', `The server does not say what '${this.#context}' is here`, {
      path: this.name,
      offset: at,
      field: 'x-dirty-bitmap',
    });
  }

  /** Whole blocks, in as many pieces as it takes; all of them have an end when it returns or throws. */
  async #transfer(command: number, at: number, bytes: Uint8Array): Promise<void> {
    const { length } = bytes;
    if (length <= this.#most) return this.#one(command, at, bytes);
    const pieces: Promise<void>[] = [];
    for (let done = 0; done < length; done += this.#most) {
      const piece = bytes.subarray(done, Math.min(done + this.#most, length));
      pieces.push(this.#one(command, at + done, piece));
    }
    // A piece that is still under way would go on with the caller's buffer.
    for (const settled of await Promise.allSettled(pieces)) {
      if (settled.status === 'rejected') throw settled.reason;
    }
  }

  #one(command: number, at: number, bytes: Uint8Array): Promise<void> {
    return this.#named(
      command === Command.read
        ? this.#link.request(command, 0, at, bytes.length, bytes)
        : this.#link.request(command, this.#link.writeFlags, at, bytes.length, undefined, bytes),
    );
  }

  #writeWhole(at: number, from: Uint8Array): Promise<void> {
    return this.#gated(at, from.length, false, () => this.#transfer(Command.write, at, from));
  }

  /** A part of one block, or of two: these are read first. */
  #writePart(at: number, from: Uint8Array): Promise<void> {
    const start = alignDown(at, this.#unit);
    const length = alignUp(at + from.length, this.#unit) - start;
    return this.#gated(start, length, true, async () => {
      const whole = new Uint8Array(length);
      await this.#transfer(Command.read, start, whole);
      whole.set(from, at - start);
      await this.#transfer(Command.write, start, whole);
    });
  }

  async #writeZeroes(from: number, to: number): Promise<void> {
    if (from === to) return;
    this.#zeroes ??= new Uint8Array(Math.min(this.#most, 1024 * 1024));
    for (let at = from; at < to; ) {
      // From a border on, pieces are whole blocks.
      const edge = at % this.#unit === 0 ? at + this.#zeroes.length : alignUp(at, this.#unit);
      const end = Math.min(edge, to);
      await this.write(at, this.#zeroes.subarray(0, end - at));
      at = end;
    }
  }

  async #gated(at: number, length: number, alone: boolean, work: () => Promise<void>): Promise<void> {
    if (!this.#locks) return this.#named(work());
    const held = await (this.#locks.tryLock(at, at + length, alone) ??
      this.#locks.lock(at, at + length, alone));
    try {
      await this.#named(work());
    } finally {
      this.#locks.unlock(held);
    }
  }

  #checkWrite(at: number, length: number): void {
    if (!isOffset(at) || !isOffset(length)) {
      throw new DiskError('out-of-range', `There is no range of ${length} bytes at ${at}`, {
        path: this.name,
        offset: at,
      });
    }
    if (!this.writable) {
      throw new DiskError('read-only', `'${this.name}' was opened only to read`, { path: this.name });
    }
    if (at + length <= this.size) return;
    throw new DiskError('out-of-space', `The export '${this.name}' ends at ${this.size}`, {
      path: this.name,
      offset: at,
      detail: { errno: 'ENOSPC', length, size: this.size },
    });
  }

  /** Failures say whose they are. */
  async #named<T>(work: Promise<T>): Promise<T> {
    try {
      return await work;
    } catch (error) {
      if (!isDiskError(error) || error.path !== undefined) throw error;
      const { code, message, offset, field, detail } = error;
      throw new DiskError(code, message, { path: this.name, offset, field, detail, cause: error });
    }
  }
}
