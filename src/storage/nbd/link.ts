import { DiskError, isDiskError } from '../../errors.ts';
import { NbdConnection } from './connection.ts';
import type { ExportInfo } from './handshake.ts';
import { ConnectionLost } from './pending.ts';
import { Command, CommandFlag, MetaContext, TransmissionFlag } from './protocol.ts';
import type { ClientSecurity, ConnectStream, NbdAddress } from './stream.ts';

export interface NbdLinkOptions {
  readonly connect: ConnectStream;
  readonly address: NbdAddress;
  readonly exportName: string;
  readonly security?: ClientSecurity;
  /** What block status is asked about. Default `base:allocation`. */
  readonly context?: string;
  /** Milliseconds for which requests wait for a server that was lost; 0 (default): they fail at once. */
  readonly reconnectDelay?: number;
  /** Milliseconds for which a server that is not there yet is tried again at opening. Default 0. */
  readonly openTimeout?: number;
  /** Connections at most, where the server allows several. Default 4. */
  readonly connections?: number;
  /** Milliseconds that connecting and the handshake may take. Default 30,000. */
  readonly patience?: number;
}

/** Further connections are made when each has so many requests to do. */
const busy = 2;
/** Milliseconds between attempts, doubled each time up to the second. */
const pauses = { first: 50, last: 2000 } as const;

/**
 * What leads to one export: a connection, further ones where the server promises that they all see the same (multi-conn), and
 * the next one when the server was lost.
 *
 * A request that was under way when it was lost is sent again: done twice, it does the same. What the server has answered
 * and not flushed is another matter, since it may be lost with the server. So where requests wait for a lost server
 * (`reconnectDelay`), writes carry FUA; and where it has none of that, the flush after such a loss fails, and so does
 * every later one.
 */
export class NbdLink {
  readonly #options: NbdLinkOptions;
  readonly #ending = new AbortController();
  #main: NbdConnection;
  #others: NbdConnection[] = [];
  #opening = 0;
  #most: number;
  #again: Promise<void> | undefined;
  #gone: DiskError | undefined;
  /** Times the server was lost. */
  #losses = 0;
  /** Writes that were answered, and that the last flush had behind it. */
  #written = 0;
  #flushed = 0;
  #lostWrites = false;
  #closed = false;
  #inFlight = 0;
  #idle: (() => void) | undefined;

  private constructor(options: NbdLinkOptions, main: NbdConnection) {
    this.#options = options;
    this.#main = main;
    this.#most = main.info.flags & TransmissionFlag.canMultiConn ? (options.connections ?? 4) : 1;
    this.#watch(main);
  }

  /** Throws DiskError, in QEMU's words. */
  static async open(options: NbdLinkOptions): Promise<NbdLink> {
    const { signal } = new AbortController();
    return new NbdLink(options, await attempts(options, options.openTimeout ?? 0, signal));
  }

  get info(): ExportInfo {
    return this.#main.info;
  }

  /** Flags for writes that must outlive the server. */
  get writeFlags(): number {
    const durable = this.#options.reconnectDelay && this.info.flags & TransmissionFlag.sendFua;
    return durable ? CommandFlag.fua : 0;
  }

  /** As `NbdConnection.request`, on whichever connection has least to do. Throws DiskError. */
  async request(
    command: number,
    flags: number,
    offset: number,
    length: number,
    into?: Uint8Array,
    from?: Uint8Array,
  ): Promise<void> {
    const changes = command !== Command.read && (flags & CommandFlag.fua) === 0;
    this.#inFlight++;
    try {
      for (;;) {
        const connection = this.#pick() ?? (await this.#connected());
        const losses = this.#losses;
        try {
          await connection.request(command, flags, offset, length, into, from);
          if (changes && losses === this.#losses) this.#written++;
          else if (changes) this.#lostWrites = true;
          return;
        } catch (error) {
          if (!(error instanceof ConnectionLost)) throw error;
        }
      }
    } finally {
      this.#leave();
    }
  }

  async blockStatus(offset: number, length: number): Promise<readonly number[] | undefined> {
    this.#inFlight++;
    try {
      for (;;) {
        const connection = this.#main.usable ? this.#main : await this.#connected();
        if (connection.contextId === undefined) return undefined;
        try {
          return await connection.blockStatus(offset, length);
        } catch (error) {
          if (!(error instanceof ConnectionLost)) throw error;
        }
      }
    } finally {
      this.#leave();
    }
  }

  /** Everything answered before is durable, or this throws. One flush covers all connections, as multi-conn says. */
  async flush(): Promise<void> {
    this.#inFlight++;
    try {
      for (;;) {
        const connection = this.#main.usable ? this.#main : await this.#connected();
        this.#refuseLost();
        const written = this.#written;
        try {
          if (this.info.flags & TransmissionFlag.sendFlush) await connection.request(Command.flush, 0, 0, 0);
          this.#refuseLost();
          this.#flushed = Math.max(this.#flushed, written);
          return;
        } catch (error) {
          if (!(error instanceof ConnectionLost)) throw error;
        }
      }
    } finally {
      this.#leave();
    }
  }

  /** Waits for what is under way, and takes leave. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    if (this.#inFlight > 0) {
      await new Promise<void>((resolve) => {
        this.#idle = resolve;
      });
    }
    this.#ending.abort();
    for (const connection of [this.#main, ...this.#others]) connection.close();
  }

  #leave(): void {
    this.#inFlight--;
    if (this.#inFlight === 0) this.#idle?.();
  }

  #pick(): NbdConnection | undefined {
    let best = this.#main.usable ? this.#main : undefined;
    // Without the first one it is not known what became of the server.
    if (!best || this.#most === 1) return best;
    for (const other of this.#others) if (other.load < best.load) best = other;
    if (best.load >= busy && 1 + this.#others.length + this.#opening < this.#most) void this.#openAnother();
    return best;
  }

  async #openAnother(): Promise<void> {
    this.#opening++;
    const losses = this.#losses;
    try {
      const connection = await attempt(this.#options, this.#ending.signal);
      if (this.#ending.signal.aborted || losses !== this.#losses || !alike(connection.info, this.info)) {
        connection.close();
        return;
      }
      this.#others.push(connection);
      connection.onLost = () => {
        this.#others = this.#others.filter((other) => other !== connection);
      };
    } catch {
      // One does as well; a server with a limit is not asked again.
      this.#most = 1 + this.#others.length;
    } finally {
      this.#opening--;
    }
  }

  #watch(main: NbdConnection): void {
    main.onLost = (error) => {
      this.#losses++;
      if (this.#written > this.#flushed) this.#lostWrites = true;
      const others = this.#others;
      this.#others = [];
      for (const other of others) other.failed(error);
      if (isDiskError(error, 'corrupt')) this.#gone = error;
      else if (!this.#options.reconnectDelay) this.#gone = lost(error);
      else if (!this.#closed || this.#inFlight > 0) this.#again = this.#reconnect(error);
    };
    // It may have been lost between the handshake and here.
    if (!main.usable) main.onLost(undefined);
  }

  async #connected(): Promise<NbdConnection> {
    if (this.#gone) throw this.#gone;
    await this.#again;
    if (this.#gone) throw this.#gone;
    return this.#main;
  }

  async #reconnect(reason: unknown): Promise<void> {
    const { info } = this.#main;
    try {
      const main = await attempts(this.#options, this.#options.reconnectDelay!, this.#ending.signal);
      if (!alike(main.info, info)) {
        main.close();
        this.#gone = new DiskError('changed', 'The NBD server came back with another export', {
          field: 'nbd',
        });
        return;
      }
      this.#main = main;
      this.#watch(main);
    } catch {
      this.#gone = lost(reason);
    }
  }

  #refuseLost(): void {
    if (!this.#lostWrites) return;
    throw new DiskError('io', 'The NBD server was lost with writes that it had not flushed', {
      field: 'nbd',
      detail: { errno: 'EIO' },
    });
  }
}

function lost(cause: unknown): DiskError {
  return new DiskError('io', 'The NBD server has gone', { field: 'nbd', cause, detail: { errno: 'EIO' } });
}

function alike(one: ExportInfo, other: ExportInfo): boolean {
  return (
    one.size === other.size &&
    one.flags === other.flags &&
    one.blocks?.minimum === other.blocks?.minimum &&
    one.blocks?.maximum === other.blocks?.maximum
  );
}

/** Connects, again and again for `forMs`; throws the last failure. */
async function attempts(options: NbdLinkOptions, forMs: number, signal: AbortSignal): Promise<NbdConnection> {
  const until = Date.now() + forMs;
  for (let pause: number = pauses.first; ; pause = Math.min(pause * 2, pauses.last)) {
    try {
      return await attempt(options, signal);
    } catch (error) {
      const left = until - Date.now();
      if (left <= 0 || signal.aborted) throw error;
      await new Promise((resolve) => setTimeout(resolve, Math.min(pause, left)));
    }
  }
}

async function attempt(options: NbdLinkOptions, signal: AbortSignal): Promise<NbdConnection> {
  const { connect, address, exportName: name, context = MetaContext.allocation, security } = options;
  const controller = new AbortController();
  let stop!: (error: DiskError) => void;
  const stopped = new Promise<never>((_, reject) => {
    stop = reject;
  });
  stopped.catch(() => undefined);
  const end = (error: DiskError) => {
    stop(error);
    controller.abort(error);
  };
  const onAbort = () => end(new DiskError('aborted', 'The store was closed'));
  if (signal.aborted) onAbort();
  signal.addEventListener('abort', onAbort, { once: true });
  const timer = setTimeout(
    () =>
      end(
        new DiskError('io', 'The NBD server does not answer', {
          field: 'nbd',
          detail: { errno: 'ETIMEDOUT' },
        }),
      ),
    options.patience ?? 30_000,
  );
  const work = connect(address, controller.signal).then(async (stream) => {
    const close = () => stream.close();
    controller.signal.addEventListener('abort', close, { once: true });
    if (controller.signal.aborted) close();
    const connection = await NbdConnection.open(stream, { name, context, security });
    controller.signal.removeEventListener('abort', close);
    return connection;
  });
  work.catch(() => undefined);
  try {
    return await Promise.race([work, stopped]);
  } finally {
    clearTimeout(timer);
    signal.removeEventListener('abort', onAbort);
  }
}
