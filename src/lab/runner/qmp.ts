import { connect as connectSocket, type Socket } from 'node:net';
import { DiskError } from '../../errors.ts';
import { LineSplitter } from './line-splitter.ts';

/** Something that the virtual machine did: SHUTDOWN, STOP, RESET … (QEMU's docs/interop/qmp-spec). */
export interface QmpEvent {
  readonly event: string;
  readonly data: Readonly<Record<string, unknown>>;
}

export interface QmpConnectOptions {
  /** Milliseconds for connecting and the greeting. Default 5,000. */
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal;
}

export interface QmpCallOptions {
  /** Milliseconds until the call throws `io` (field `timeout`). Default 10,000. */
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal;
}

/** QEMU's longest answers (its whole schema) have some 250 KB. */
const maxLineBytes = 4 * 1024 * 1024;

interface Pending {
  resolve(value: unknown): void;
  reject(error: DiskError): void;
}

/**
 * A connection to QEMU's monitor over a unix socket. Commands may overlap; each answer finds its command by id.
 * Errors: `not-found` when nobody listens, `io` for a broken or silent peer (field `timeout` for the latter) or
 * one that does not speak QMP, `unsupported` for a command that this QEMU lacks, `aborted`.
 */
export class QmpClient implements AsyncDisposable {
  /** QEMU's version as it greeted, e.g. `7.2.22`. */
  version = '';
  /** Settles, without an error, when the connection has ended for whatever reason. */
  readonly closed: Promise<void>;
  readonly #socket: Socket;
  readonly #path: string;
  readonly #lines = new LineSplitter(maxLineBytes, 'throw');
  readonly #pending = new Map<number, Pending>();
  readonly #listeners = new Set<(event: QmpEvent) => void>();
  #greeting: Pending | undefined;
  #failure: DiskError | undefined;
  #lastId = 0;

  private constructor(socket: Socket, path: string) {
    this.#socket = socket;
    this.#path = path;
    socket.on('data', (chunk: Uint8Array) => this.#receive(chunk));
    // The reason comes with 'close' as well; a socket without a listener would end the process.
    socket.on('error', (cause) => this.#fail(connectionError(path, cause)));
    this.closed = new Promise((resolve) => {
      socket.on('close', () => {
        this.#fail(new DiskError('io', `QEMU closed its monitor '${path}'`, { path, field: 'closed' }));
        resolve();
      });
    });
  }

  /** Connects, reads the greeting, and leaves capabilities negotiation. */
  static async connect(path: string, options: QmpConnectOptions = {}): Promise<QmpClient> {
    return await QmpClient.over(connectSocket({ path }), path, options);
  }

  /** The same over a connection that there is already; `path` names it in messages. */
  static async over(socket: Socket, path: string, options: QmpConnectOptions = {}): Promise<QmpClient> {
    const timeoutMs = options.timeoutMs ?? 5_000;
    const client = new QmpClient(socket, path);
    try {
      const greeted = new Promise<unknown>((resolve, reject) => {
        client.#greeting = { resolve, reject };
      });
      const greeting = await client.#limited(greeted, 'its greeting', timeoutMs, options.signal);
      client.version = versionOf(greeting, path);
      await client.execute('qmp_capabilities', undefined, { timeoutMs, signal: options.signal });
      return client;
    } catch (error) {
      client.#socket.destroy();
      throw error;
    }
  }

  /** Runs a command and gives its `return` value. A refusal by QEMU throws with its words. */
  async execute(
    command: string,
    args?: Readonly<Record<string, unknown>>,
    options: QmpCallOptions = {},
  ): Promise<unknown> {
    if (this.#failure) throw this.#failure;
    const id = ++this.#lastId;
    const answer = new Promise<unknown>((resolve, reject) => {
      this.#pending.set(id, { resolve, reject });
    });
    this.#socket.write(`${JSON.stringify({ execute: command, arguments: args, id })}\n`);
    try {
      return await this.#limited(
        answer,
        `an answer to ${command}`,
        options.timeoutMs ?? 10_000,
        options.signal,
      );
    } finally {
      this.#pending.delete(id);
    }
  }

  /** Calls back at every event from now on; returns how to stop. */
  onEvent(listener: (event: QmpEvent) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#socket.destroy();
    await this.closed;
  }

  async #limited<T>(
    promise: Promise<T>,
    what: string,
    timeoutMs: number,
    signal: AbortSignal | undefined,
  ): Promise<T> {
    let onAbort: (() => void) | undefined;
    let timer: NodeJS.Timeout | undefined;
    const limit = new Promise<never>((_, reject) => {
      const abort = () => reject(new DiskError('aborted', `Stopped while waiting for ${what} from QEMU`));
      if (signal?.aborted) return abort();
      onAbort = abort;
      signal?.addEventListener('abort', abort, { once: true });
      timer = setTimeout(() => {
        reject(
          new DiskError('io', `QEMU's monitor '${this.#path}' did not send ${what} within ${timeoutMs} ms`, {
            path: this.#path,
            field: 'timeout',
            detail: { timeoutMs },
          }),
        );
      }, timeoutMs);
    });
    try {
      return await Promise.race([promise, limit]);
    } finally {
      // The loser may still be rejected later (the connection ends): nobody is left to hear it.
      promise.catch(() => undefined);
      clearTimeout(timer);
      if (onAbort) signal?.removeEventListener('abort', onAbort);
    }
  }

  #receive(chunk: Uint8Array): void {
    if (this.#failure) return;
    try {
      for (const line of this.#lines.push(chunk)) if (line.trim() !== '') this.#message(line);
    } catch (cause) {
      this.#fail(
        new DiskError('io', `What listens at '${this.#path}' does not speak QMP`, {
          path: this.#path,
          cause,
        }),
      );
    }
  }

  #message(line: string): void {
    const message: unknown = JSON.parse(line);
    if (!isRecord(message)) throw new TypeError('not an object');
    if ('QMP' in message) {
      this.#greeting?.resolve(message.QMP);
      this.#greeting = undefined;
    } else if (typeof message.event === 'string') {
      const event = { event: message.event, data: isRecord(message.data) ? message.data : {} };
      for (const listener of [...this.#listeners]) listener(event);
    } else if ('return' in message || 'error' in message) {
      // An id that is not waited for belongs to a call that gave up.
      const pending = typeof message.id === 'number' ? this.#pending.get(message.id) : undefined;
      if ('return' in message) pending?.resolve(message.return);
      else pending?.reject(this.#refusal(message.error));
    } else {
      throw new TypeError('neither an answer nor an event');
    }
  }

  #refusal(error: unknown): DiskError {
    const { class: kind, desc } = isRecord(error) ? error : {};
    return new DiskError(
      kind === 'CommandNotFound' ? 'unsupported' : 'io',
      typeof desc === 'string' ? desc : 'QEMU refused a command without saying why',
      { path: this.#path, field: 'qmp', detail: { class: typeof kind === 'string' ? kind : undefined } },
    );
  }

  #fail(error: DiskError): void {
    if (this.#failure) return;
    this.#failure = error;
    this.#greeting?.reject(error);
    this.#greeting = undefined;
    for (const pending of this.#pending.values()) pending.reject(error);
    this.#socket.destroy();
  }
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function versionOf(greeting: unknown, path: string): string {
  const version = isRecord(greeting) && isRecord(greeting.version) ? greeting.version.qemu : undefined;
  if (!isRecord(version)) {
    throw new DiskError('io', `What listens at '${path}' greets like no QEMU`, { path });
  }
  return [version.major, version.minor, version.micro].map(Number).join('.');
}

function connectionError(path: string, cause: NodeJS.ErrnoException): DiskError {
  const nobody = cause.code === 'ENOENT' || cause.code === 'ECONNREFUSED';
  return new DiskError(
    nobody ? 'not-found' : cause.code === 'EACCES' ? 'denied' : 'io',
    nobody ? `No QEMU listens at '${path}'` : `Cannot talk to QEMU at '${path}'`,
    { path, cause },
  );
}
