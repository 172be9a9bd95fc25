import { IntervalSet } from '../../bytes/intervals.ts';
import { DiskError } from '../../errors.ts';
import { emptyRequest, encodeRequest } from './headers.ts';
import { viewOf } from './options.ts';
import { Command, HeaderBytes, NbdError } from './protocol.ts';

/** The server cannot be reached any more: what was asked may have been done, or not. */
export class ConnectionLost extends Error {}

const nothing = new Uint8Array(0);

/** A request that was sent, as long as its reply is not whole. Used again for later ones, so that none is made anew. */
export class Pending {
  readonly index: number;
  readonly request = emptyRequest();
  readonly header = new Uint8Array(HeaderBytes.request);
  readonly #view = viewOf(this.header);
  busy = false;
  /** Of a read: where its bytes go. */
  into: Uint8Array = nothing;
  /** Of a read: bytes that have come, in order from its start; what came elsewhere is in `#elsewhere`. */
  #next = 0;
  #elsewhere: IntervalSet | undefined;
  /** Of a block status: length and flags of each extent, in turn. */
  status: number[] | undefined;
  error: DiskError | undefined;
  #resolve: (() => void) | undefined;
  #reject: ((error: unknown) => void) | undefined;

  constructor(index: number) {
    this.index = index;
    this.request.cookieLow = index;
  }

  /** Lays out the header; the promise is that of the reply. */
  begin(command: number, flags: number, offset: number, length: number, into: Uint8Array): Promise<void> {
    const { request } = this;
    this.busy = true;
    request.command = command;
    request.flags = flags;
    request.offset = offset;
    request.length = length;
    // A late reply to an earlier request of this place is told by it.
    request.cookieHigh = (request.cookieHigh + 1) % 0x1_0000_0000;
    this.into = into;
    this.#next = 0;
    this.#elsewhere = undefined;
    this.status = command === Command.blockStatus ? [] : undefined;
    this.error = undefined;
    encodeRequest(this.#view, 0, false, request);
    return new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
  }

  /**
   * Notes that [offset, offset + length) of the disk comes now. False: it is no part of the read, or has come already.
   */
  claim(offset: number, length: number): boolean {
    const start = offset - this.request.offset;
    const end = start + length;
    if (length === 0 || start < 0 || end > this.into.length || start < this.#next) return false;
    if (start === this.#next && !this.#elsewhere) {
      this.#next = end;
      return true;
    }
    this.#elsewhere ??= new IntervalSet();
    if (this.#elsewhere.overlaps(start, end)) return false;
    // Chunks of a byte in turn would make a long list of it.
    this.#elsewhere.add(start, end);
    return this.#elsewhere.count <= 65536;
  }

  /** Every byte of the read has come. */
  get whole(): boolean {
    const { length } = this.into;
    if (this.#next === length) return true;
    return this.#elsewhere?.covers(this.#next, length) ?? false;
  }

  finish(): void {
    const { error } = this;
    const [resolve, reject] = [this.#resolve, this.#reject];
    this.#clear();
    if (error) reject?.(error);
    else resolve?.();
  }

  abandon(error: unknown): void {
    const reject = this.#reject;
    this.#clear();
    reject?.(error);
  }

  #clear(): void {
    this.busy = false;
    this.into = nothing;
    this.#resolve = undefined;
    this.#reject = undefined;
  }
}

const errors: Readonly<Record<number, readonly [DiskError['code'], string]>> = {
  [NbdError.permission]: ['denied', 'EPERM'],
  [NbdError.io]: ['io', 'EIO'],
  [NbdError.memory]: ['io', 'ENOMEM'],
  [NbdError.invalid]: ['bad-argument', 'EINVAL'],
  [NbdError.noSpace]: ['out-of-space', 'ENOSPC'],
  [NbdError.overflow]: ['bad-argument', 'EOVERFLOW'],
  [NbdError.unsupported]: ['unsupported', 'ENOTSUP'],
  [NbdError.shutdown]: ['io', 'ESHUTDOWN'],
};

const doings: Readonly<Record<number, string>> = {
  [Command.read]: 'read',
  [Command.write]: 'write',
  [Command.flush]: 'flush',
  [Command.writeZeroes]: 'write zeroes',
  [Command.blockStatus]: 'tell the status of blocks',
};

/** What a server's error number means; numbers that the protocol has none of count as EINVAL, as it says. */
export function serverError(number: number, { request }: Pending, said = ''): DiskError {
  const [code, errno] = errors[number] ?? errors[NbdError.invalid];
  const doing = doings[request.command] ?? 'do that';
  const more = said === '' ? '' : `: ${said}`;
  return new DiskError(code, `The NBD server could not ${doing} (${errno})${more}`, {
    offset: request.offset,
    field: 'nbd',
    detail: { errno, length: request.length },
  });
}
