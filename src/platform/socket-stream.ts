import { connect, type NetConnectOpts, type Socket } from 'node:net';
import { type ConnectionOptions, connect as connectTls, type TLSSocket } from 'node:tls';
import { DiskError } from '../errors.ts';
import type { ByteStream, ClientSecurity, NbdAddress, StreamSink } from '../storage/nbd/stream.ts';
import { errnoOf, strerror } from './errno.ts';
import { pskSuites } from './psk-suites.ts';

/** What comes is laid here first, except where the sink has a place for it. */
const scratchBytes = 64 * 1024;

/** Connects over TCP or a unix socket. Throws DiskError `io`, `not-found` or `denied`, in QEMU's words. */
export async function connectSocket(address: NbdAddress, signal: AbortSignal): Promise<ByteStream> {
  const stream = new SocketStream();
  await stream.open(address, signal);
  return stream;
}

class SocketStream implements ByteStream {
  #socket!: Socket;
  #sink: StreamSink | undefined;
  readonly #scratch = new Uint8Array(scratchBytes);
  /** Where the next bytes are laid: at the sink's, or undefined: in the scratch. */
  #target: Uint8Array | undefined;
  /** What came before there was a sink. */
  #early: Uint8Array[] = [];
  #ended: { readonly error: unknown } | undefined;
  #corked = false;
  #closed = false;

  async open(address: NbdAddress, signal: AbortSignal): Promise<void> {
    const where = await optionsOf(address);
    await new Promise<void>((resolve, reject) => {
      const socket = connect({
        ...where,
        onread: {
          buffer: () => this.#room() as Buffer,
          callback: (bytes: number) => {
            this.#received(bytes);
            return true;
          },
        },
      });
      this.#socket = socket;
      const onAbort = () => socket.destroy(signal.reason);
      signal.addEventListener('abort', onAbort, { once: true });
      if (signal.aborted) onAbort();
      socket.once('connect', () => {
        signal.removeEventListener('abort', onAbort);
        socket.off('error', onError);
        socket.setNoDelay();
        this.#watch(socket);
        resolve();
      });
      const onError = (error: Error) => {
        signal.removeEventListener('abort', onAbort);
        reject(error instanceof DiskError ? error : unreachable(address, error));
      };
      socket.once('error', onError);
    });
  }

  attach(sink: StreamSink): void {
    this.#sink = sink;
    this.#target = undefined;
    for (const bytes of this.#early.splice(0)) sink.take(bytes, bytes.length);
    if (this.#ended) sink.ended(this.#ended.error);
  }

  send(bytes: Uint8Array): void {
    if (!this.#corked) {
      this.#corked = true;
      this.#socket.cork();
      process.nextTick(this.#uncork);
    }
    this.#socket.write(bytes);
  }

  async secure(security: ClientSecurity): Promise<void> {
    // What was said in clear has to be out before the first word under TLS.
    this.#uncork();
    const plain = this.#socket;
    plain.removeAllListeners();
    plain.on('error', () => undefined);
    this.#socket = await startTls(plain, security);
    this.#socket.on('data', (chunk: Uint8Array) => this.#chunk(chunk));
    this.#watch(this.#socket);
  }

  close(): void {
    this.#closed = true;
    this.#sink = undefined;
    this.#socket.destroy();
  }

  end(): void {
    this.#closed = true;
    this.#sink = undefined;
    const socket = this.#socket;
    socket.end(() => socket.destroy());
  }

  readonly #uncork = (): void => {
    if (!this.#corked) return;
    this.#corked = false;
    this.#socket.uncork();
  };

  #watch(socket: Socket): void {
    socket.on('error', (error) => this.#over(error));
    socket.on('end', () => this.#over(undefined));
    socket.on('close', () => this.#over(undefined));
  }

  #over(error: unknown): void {
    if (this.#ended || this.#closed) return;
    this.#ended = { error };
    this.#sink?.ended(error);
  }

  #room(): Uint8Array {
    this.#target = this.#sink?.target();
    return this.#target ?? this.#scratch;
  }

  #received(bytes: number): void {
    if (this.#closed) return;
    if (this.#target) this.#sink!.laid(bytes);
    else if (this.#sink) this.#sink.take(this.#scratch, bytes);
    else this.#early.push(this.#scratch.slice(0, bytes));
  }

  #chunk(bytes: Uint8Array): void {
    if (this.#sink) this.#sink.take(bytes, bytes.length);
    else if (!this.#closed) this.#early.push(bytes);
  }
}

async function optionsOf(address: NbdAddress): Promise<NetConnectOpts> {
  if (address.kind === 'unix') return { path: address.path };
  return { host: address.host === '' ? 'localhost' : address.host, port: portOf(address) };
}

/** Throws in the words of getaddrinfo(3) for a port that is none. */
function portOf({ host, port }: Extract<NbdAddress, { kind: 'tcp' }>): number {
  if (/^[0-9]+$/.test(port) && Number(port) < 65536) return Number(port);
  if (port === 'nbd') return 10809;
  throw new DiskError(
    'bad-argument',
    `address resolution failed for ${host}:${port}: Servname not supported for ai_socktype`,
    { field: 'port' },
  );
}

function unreachable(address: NbdAddress, error: Error): DiskError {
  const code = (error as NodeJS.ErrnoException).code ?? '';
  if (address.kind === 'tcp' && (code === 'ENOTFOUND' || code.startsWith('EAI_'))) {
    const { host, port } = address;
    const reason =
      code === 'EAI_AGAIN' ? 'Temporary failure in name resolution' : 'Name or service not known';
    return new DiskError('io', `address resolution failed for ${host}:${port}: ${reason}`, { cause: error });
  }
  // Several addresses of one name were tried.
  const cause = error instanceof AggregateError ? error.errors.at(-1) : error;
  const errno = errnoOf(cause);
  const name = address.kind === 'unix' ? address.path : `${address.host}:${address.port}`;
  const reason = errno === undefined ? cause.message : strerror(errno);
  const kind = errno === 'ENOENT' ? 'not-found' : errno === 'EACCES' ? 'denied' : 'io';
  return new DiskError(kind, `Failed to connect to '${name}': ${reason}`, { cause: error });
}

function startTls(plain: Socket, { credentials, hostname }: ClientSecurity): Promise<TLSSocket> {
  return new Promise((resolve, reject) => {
    const secured = connectTls({ socket: plain, ...tlsOptions(credentials, hostname) });
    const onError = (error: Error) =>
      reject(new DiskError('denied', tlsFailure(error, hostname), { field: 'tls', cause: error }));
    const onClose = () => onError(new Error(hasGone));
    secured.once('error', onError);
    secured.once('close', onClose);
    secured.once('secureConnect', () => {
      secured.off('error', onError);
      secured.off('close', onClose);
      resolve(secured);
    });
  });
}

const noIssuer = "The certificate hasn't got a known issuer";

/** OpenSSL's codes of what is wrong with a certificate, in QEMU's words. */
const certificateFailures: Readonly<Record<string, string>> = {
  CERT_HAS_EXPIRED: 'The certificate has expired',
  CERT_NOT_YET_VALID: 'The certificate is not yet activated',
  CERT_REVOKED: 'The certificate has been revoked',
  DEPTH_ZERO_SELF_SIGNED_CERT: noIssuer,
  SELF_SIGNED_CERT_IN_CHAIN: noIssuer,
  UNABLE_TO_GET_ISSUER_CERT: noIssuer,
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: noIssuer,
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: noIssuer,
};

/** GnuTLS's words, which QEMU passes on. */
const hasGone = 'The TLS connection was non-properly terminated.';

function tlsFailure(error: Error, hostname: string | undefined): string {
  const { code = '', reason } = error as NodeJS.ErrnoException & { readonly reason?: string };
  if (code === 'ERR_TLS_CERT_ALTNAME_INVALID') return `Certificate does not match the hostname ${hostname}`;
  return (
    certificateFailures[code] ??
    (code === noHostname
      ? error.message
      : `TLS handshake failed: ${code === 'ECONNRESET' ? hasGone : (reason ?? error.message)}`)
  );
}

const noHostname = 'COWHERD_NO_HOSTNAME';

/** For a connection that has no host, as over a unix socket: any certificate of the authority would do. */
function refuseUnnamed(): Error {
  return Object.assign(new Error('No hostname for certificate validation'), { code: noHostname });
}

function tlsOptions(
  credentials: ClientSecurity['credentials'],
  hostname: string | undefined,
): ConnectionOptions {
  if (credentials.kind === 'psk') {
    const { username, keys } = credentials;
    const key = keys.get(username);
    return {
      ciphers: pskSuites,
      // OpenSSL under Node offers shared keys up to this version only.
      minVersion: 'TLSv1.2',
      maxVersion: 'TLSv1.2',
      checkServerIdentity: () => undefined,
      pskCallback: () => (key ? { identity: username, psk: key } : null),
    };
  }
  const { authority, revoked, certificate, key, verifyPeer } = credentials;
  return {
    ca: authority && Buffer.from(authority),
    crl: revoked && Buffer.from(revoked),
    cert: certificate && Buffer.from(certificate),
    key: key && Buffer.from(key),
    rejectUnauthorized: verifyPeer,
    minVersion: 'TLSv1.2',
    servername: hostname !== undefined && !/^[0-9.]+$|:/.test(hostname) ? hostname : undefined,
    ...(hostname === undefined ? { checkServerIdentity: refuseUnnamed } : { host: hostname }),
  };
}
