import { DiskError, type DiskErrorCode } from '../errors.ts';

/** What a server said about the whole of a file, to notice when it is another one. */
export interface HttpIdentity {
  /** Bytes. */
  readonly size: number;
  readonly etag?: string;
  readonly lastModified?: string;
}

export interface HttpOptions {
  /** Default: the global `fetch`. */
  readonly fetch?: typeof fetch;
  /** Sent with each request (`authorization` …). */
  readonly headers?: Readonly<Record<string, string>>;
  /** How often in a row, without a byte between, a request is tried again after a 5xx, 408 or 429, or a lost connection. Default 4. */
  readonly retries?: number;
  /** Milliseconds before the first retry; doubled for each one after. Default 250. */
  readonly retryDelay?: number;
  /** Milliseconds without a byte after which a connection counts as lost. Default 30,000. */
  readonly patience?: number;
  /** Bytes kept of what was read and read ahead. Default 16 MiB. */
  readonly cacheBytes?: number;
  readonly signal?: AbortSignal;
}

/** A failure that may pass: worth another try. */
class Transient extends Error {}

/** Requests of byte ranges of one URL, with retries. Runs wherever `fetch` does. */
export class RangeClient {
  readonly url: string;
  readonly #options: HttpOptions;
  readonly #closing = new AbortController();

  constructor(url: string, options: HttpOptions) {
    this.url = url;
    this.#options = options;
  }

  /** Asks for one byte, and learns from the answer how many there are and whether ranges work at all. */
  async identify(): Promise<HttpIdentity> {
    return this.#retrying(async (_, signal) => {
      const response = await this.#request({ range: 'bytes=0-0' }, signal);
      await discardBody(response);
      if (response.status === 416) {
        // "Unsatisfiable, of 0": an empty file.
        if (/^bytes \*\/0$/.test(response.headers.get('content-range') ?? '')) return identityOf(response, 0);
        throw this.#failure('unsupported', 'refuses to send its first byte');
      }
      this.#refuseStatus(response);
      if (response.status === 200) {
        // Without a byte to send, a server may well answer "all of it".
        if (response.headers.get('content-length') === '0') return identityOf(response, 0);
        throw this.#failure(
          'unsupported',
          'sends the whole file only: its server does not serve byte ranges',
        );
      }
      const total = contentRange(response)?.total;
      if (total === undefined || !Number.isSafeInteger(total)) {
        const hidden = isForeign(this.url)
          ? ' to pages of another origin (its server must name content-range in Access-Control-Expose-Headers)'
          : '';
        throw this.#failure('unsupported', `does not tell its size${hidden}`);
      }
      return identityOf(response, total);
    });
  }

  /**
   * Fills `into` from byte `at`. Resumes where a lost connection stopped, and asks on where the server sent a part (RFC 9110, 15.3.7,
   * lets it). Throws `changed` for another file.
   */
  async read(identity: HttpIdentity, at: number, into: Uint8Array): Promise<void> {
    let done = 0;
    await this.#retrying(async (progress, signal) => {
      while (done < into.length) {
        const part = into.subarray(done);
        await this.#readPart(identity, at + done, part, signal, (bytes) => {
          done += bytes;
          progress();
        });
      }
    });
  }

  /** One request, for all of `into`; `received` is told of bytes that were put there. */
  async #readPart(
    identity: HttpIdentity,
    first: number,
    into: Uint8Array,
    signal: AbortSignal,
    received: (bytes: number) => void,
  ): Promise<void> {
    const last = first + into.length - 1;
    // A server whose file has changed then answers 200 instead of mixing the two. (Weak tags do not serve; and a server of another origin
    // must allow the header, which few do: there the tags that are compared must do.)
    const ifRange = identity.etag?.startsWith('"') && !isForeign(this.url) ? identity.etag : undefined;
    const response = await this.#request(
      { range: `bytes=${first}-${last}`, ...(ifRange === undefined ? {} : { 'if-range': ifRange }) },
      signal,
    );
    try {
      this.#refuseStatus(response);
      this.#refuseChange(response, identity);
      const range = contentRange(response);
      if (response.status !== 206 || range?.first !== first || range.last < first || range.last > last) {
        throw this.#failure('io', `answered with other bytes than ${first} to ${last}`, first);
      }
      const expected = range.last - first + 1;
      let done = 0;
      for await (const chunk of chunksOf(response)) {
        if (done + chunk.length > expected) throw this.#failure('io', 'sent more than it announced', first);
        into.set(chunk, done);
        done += chunk.length;
        if (chunk.length > 0) received(chunk.length);
      }
      if (done < expected) throw new Transient(`the connection ended after ${done} of ${expected} bytes`);
    } finally {
      await discardBody(response);
    }
  }

  /** Ends requests in flight with `aborted`; the caller's own signal does with its reason. */
  close(): void {
    this.#closing.abort();
  }

  async #request(headers: Record<string, string>, signal: AbortSignal): Promise<Response> {
    const send = this.#options.fetch ?? fetch;
    let response: Response;
    try {
      response = await send(this.url, {
        headers: { ...this.#options.headers, 'accept-encoding': 'identity', ...headers },
        signal,
      });
    } catch (error) {
      const refused = isForeign(this.url)
        ? " (or does not allow pages of another origin to ask for it: CORS, with the header 'range')"
        : '';
      throw new Transient(`the server cannot be reached${refused}`, { cause: error });
    }
    const encoding = response.headers.get('content-encoding');
    if (encoding !== null && encoding !== 'identity') {
      await discardBody(response);
      throw this.#failure('unsupported', `is sent with content encoding ${encoding}`);
    }
    return response;
  }

  /** Runs `attempt` until it succeeds, fails for good, or has failed too often without any progress between. */
  async #retrying<T>(attempt: (progress: () => void, signal: AbortSignal) => Promise<T>): Promise<T> {
    const { retries = 4, retryDelay = 250, patience = 30_000, signal } = this.#options;
    for (let failures = 0; ; ) {
      const idle = new AbortController();
      const stop = () => idle.abort();
      const closing = this.#closing.signal;
      for (const source of [signal, closing]) source?.addEventListener('abort', stop);
      if (signal?.aborted || closing.aborted) stop();
      let timer = setTimeout(stop, patience);
      const progress = () => {
        failures = 0;
        clearTimeout(timer);
        timer = setTimeout(stop, patience);
      };
      try {
        return await attempt(progress, idle.signal);
      } catch (error) {
        signal?.throwIfAborted();
        if (closing.aborted) throw this.#failure('aborted', 'was no longer wanted', undefined, error);
        if (!(error instanceof Transient)) throw error;
        if (failures++ >= retries)
          throw this.#failure('io', `cannot be read: ${error.message}`, undefined, error);
      } finally {
        clearTimeout(timer);
        for (const source of [signal, closing]) source?.removeEventListener('abort', stop);
      }
      await pause(Math.min(retryDelay * 2 ** (failures - 1), 10_000), [signal, closing]);
    }
  }

  #refuseStatus(response: Response): void {
    const { status } = response;
    if (status === 200 || status === 206) return;
    if (status >= 500 || status === 408 || status === 429)
      throw new Transient(`the server answers ${status}`);
    const detail = { status };
    if (status === 404 || status === 410)
      throw this.#failure('not-found', 'does not exist', undefined, undefined, detail);
    if (status === 401 || status === 403)
      throw this.#failure('denied', 'is not for us', undefined, undefined, detail);
    if (status === 416) throw this.#failure('changed', 'became shorter', undefined, undefined, detail);
    throw this.#failure('io', `cannot be read: the server answers ${status}`, undefined, undefined, detail);
  }

  #refuseChange(response: Response, identity: HttpIdentity): void {
    const now = identityOf(response, contentRange(response)?.total ?? identity.size);
    const differs = (was: string | undefined, is: string | undefined) =>
      was !== undefined && is !== undefined && was !== is;
    // A server that tells the tag tells it with each part (RFC 9110, 15.3.7).
    const lostTag = identity.etag !== undefined && now.etag === undefined;
    // 200: the server took up `if-range` and has another file, or it stopped to serve ranges.
    const another =
      now.size !== identity.size ||
      lostTag ||
      differs(identity.etag, now.etag) ||
      differs(identity.lastModified, now.lastModified) ||
      response.status === 200;
    if (another) throw this.#failure('changed', 'changed on the server while it was open');
  }

  #failure(
    code: DiskErrorCode,
    what: string,
    offset?: number,
    cause?: unknown,
    detail?: Record<string, number>,
  ): DiskError {
    return new DiskError(code, `'${this.url}' ${what}`, { path: this.url, offset, cause, detail });
  }
}

/** Whether a page asks a server of another origin: the browser hides then what that one does not show. */
function isForeign(url: string): boolean {
  try {
    const here = (globalThis as { readonly location?: { readonly origin?: string } }).location?.origin;
    return here !== undefined && here !== new URL(url).origin;
  } catch {
    return false;
  }
}

function identityOf(response: Response, size: number): HttpIdentity {
  return {
    size,
    etag: response.headers.get('etag') ?? undefined,
    lastModified: response.headers.get('last-modified') ?? undefined,
  };
}

/** `Content-Range: bytes FIRST-LAST/TOTAL` (RFC 9110, 14.4); total undefined for `*`. */
function contentRange(
  response: Response,
): { readonly first: number; readonly last: number; readonly total?: number } | undefined {
  const match = /^bytes (\d+)-(\d+)\/(\d+|\*)$/.exec(response.headers.get('content-range') ?? '');
  if (!match) return undefined;
  return {
    first: Number(match[1]),
    last: Number(match[2]),
    total: match[3] === '*' ? undefined : Number(match[3]),
  };
}

/** The body piece by piece; a connection that breaks is transient. */
async function* chunksOf(response: Response): AsyncGenerator<Uint8Array> {
  const reader = response.body?.getReader();
  if (!reader) return;
  try {
    for (;;) {
      let piece: ReadableStreamReadResult<Uint8Array>;
      try {
        piece = await reader.read();
      } catch (error) {
        throw new Transient('the connection broke', { cause: error });
      }
      if (piece.done) return;
      yield piece.value;
    }
  } finally {
    reader.releaseLock();
  }
}

/** Lets go of the connection without reading what is left. */
async function discardBody(response: Response): Promise<void> {
  try {
    await response.body?.cancel();
  } catch {
    // Broken or done already: nothing to let go of.
  }
}

function pause(milliseconds: number, signals: readonly (AbortSignal | undefined)[]): Promise<void> {
  return new Promise((resolve) => {
    const end = () => {
      clearTimeout(timer);
      for (const signal of signals) signal?.removeEventListener('abort', end);
      resolve();
    };
    const timer = setTimeout(end, milliseconds);
    for (const signal of signals) signal?.addEventListener('abort', end);
    if (signals.some((signal) => signal?.aborted)) end();
  });
}
