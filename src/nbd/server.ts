import { createServer, type ListenOptions, type Server, type Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { openFilesLeft } from '../platform/open-files.ts';
import { TransmissionFlag } from '../storage/nbd/protocol.ts';
import { type Host, LocalHost } from './host.ts';
import { threadHost } from './host-threads.ts';
import { type NegotiableExport, type Negotiated, negotiate } from './negotiation.ts';
import type { ExportRecipe } from './recipe.ts';

export interface NbdServerOptions {
  /** Clients that may be connected at once; 0 or absent: any number. Others wait, ungreeted. */
  readonly limit?: number;
  /** Present: TLS is required. Makes an encrypted stream of a client's, or rejects. */
  readonly startTls?: (stream: Duplex) => Promise<Duplex>;
  /** Milliseconds that a client has for the handshake; default 10,000. */
  readonly handshakeMs?: number;
  /** Called when a client that had got past haggling has gone and no other is connected. */
  readonly onIdle?: () => void;
  /** Told why a client was not let in by TLS. */
  readonly onRefused?: (error: unknown) => void;
  /** Told why a client could not be served. */
  readonly onFailure?: (error: unknown) => void;
}

/** Clients that may be haggling at once; of more, the one that has taken longest is sent away. */
const mostHaggling = 256;
/** Clients that may wait for their turn. */
const mostWaiting = 1024;

/** An NBD server: exports and the sockets that it listens on. */
export class NbdServer {
  readonly #options: NbdServerOptions;
  readonly #host: Host;
  readonly #exports = new Map<string, NegotiableExport>();
  readonly #servers: Server[] = [];
  /** Connected and not waiting: in the order of their coming. */
  readonly #haggling = new Set<Socket>();
  readonly #waiting: Socket[] = [];
  readonly #serving = new Set<Promise<void>>();
  #connected = 0;
  #started = false;
  #closing = false;

  constructor(options: NbdServerOptions = {}) {
    this.#options = options;
    // What Node encrypts has no socket of its own that a thread could take.
    this.#host = (options.startTls ? undefined : threadHost()) ?? new LocalHost();
  }

  /** Opens an image for an export. Answers warnings for the user. Throws CliFailure in qemu-nbd's words. */
  async add(recipe: ExportRecipe): Promise<string> {
    const facts = await this.#host.open(recipe);
    const { name, description } = recipe;
    const session = recipe.overlay === 'session';
    const flags = flagsOf(facts.readOnly && !session, recipe.multiConn === true && !session);
    this.#exports.set(name, { name, description, size: facts.size, flags, contexts: facts.contexts });
    return facts.warnings;
  }

  /** Serves whoever has come meanwhile, and comes. */
  start(): void {
    this.#started = true;
    while (this.#waiting.length > 0 && this.#mayBegin()) this.#next();
  }

  /** Listens at one more place; nobody is greeted before `start`. Throws what Node throws. */
  async listen(where: ListenOptions | { readonly fd: number }): Promise<Server> {
    const server = createServer({ pauseOnConnect: true, noDelay: true }, (socket) => this.#accept(socket));
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(where, () => {
        server.off('error', reject);
        // Out of descriptors: the next client will find some.
        server.on('error', () => undefined);
        resolve();
      });
    });
    this.#servers.push(server);
    return server;
  }

  /** Stops listening, lets requests under way be answered, closes clients and images. */
  async close(): Promise<void> {
    if (this.#closing) return;
    this.#closing = true;
    for (const server of this.#servers) server.close();
    for (const socket of [...this.#waiting, ...this.#haggling]) socket.destroy();
    await this.#host.close();
    await Promise.all(this.#serving);
  }

  #accept(socket: Socket): void {
    socket.on('error', () => undefined);
    if (!this.#closing && this.#mayBegin()) this.#begin(socket);
    else if (!this.#closing && this.#mayWait()) this.#waiting.push(socket);
    else socket.destroy();
  }

  #mayBegin(): boolean {
    const { limit = 0 } = this.#options;
    return this.#started && (limit === 0 || this.#connected < limit);
  }

  /** Those who wait leave a quarter of the descriptors to the images, which may not be open yet, and to threads. */
  #mayWait(): boolean {
    if (this.#waiting.length >= mostWaiting) return false;
    const files = openFilesLeft();
    return files === undefined || files.left >= files.limit / 4;
  }

  #begin(socket: Socket): void {
    this.#connected++;
    const serving = this.#attend(socket).finally(() => {
      this.#connected--;
      this.#serving.delete(serving);
      this.#next();
    });
    this.#serving.add(serving);
  }

  #next(): void {
    if (this.#closing) return;
    // Those that have left meanwhile are found out by the greeting.
    const socket = this.#waiting.shift();
    if (socket) this.#begin(socket);
  }

  async #attend(socket: Socket): Promise<void> {
    const negotiated = await this.#haggle(socket);
    if (!negotiated || this.#closing) {
      end(socket);
      return;
    }
    const { stream, ...client } = negotiated;
    try {
      await this.#host.serve(stream, client);
    } catch (error) {
      // The session could not be set up (no space for its overlay): the client sees the end.
      stream.destroy();
      this.#options.onFailure?.(error);
    }
    if (this.#connected === 1 && !this.#closing) this.#options.onIdle?.();
  }

  async #haggle(socket: Socket): Promise<Negotiated | undefined> {
    this.#haggling.add(socket);
    if (this.#haggling.size > mostHaggling) {
      const [oldest] = this.#haggling;
      oldest.destroy();
    }
    const timer = setTimeout(() => socket.destroy(), this.#options.handshakeMs ?? 10_000);
    try {
      return await negotiate(socket, {
        find: (name) => this.#exports.get(name),
        list: () => this.#exports.values(),
        startTls: this.#options.startTls,
        onRefused: (error) => {
          if (!this.#closing) this.#options.onRefused?.(error);
        },
      });
    } finally {
      clearTimeout(timer);
      this.#haggling.delete(socket);
    }
  }
}

/** Lets what was written arrive, but does not wait for a client that does not read. */
function end(socket: Socket): void {
  if (socket.destroyed) return;
  socket.end();
  setTimeout(() => socket.destroy(), 1000).unref();
}

function flagsOf(readOnly: boolean, multiConn: boolean): number {
  const f = TransmissionFlag;
  let flags = f.hasFlags | f.sendFlush | f.sendFua | f.sendCache;
  if (multiConn) flags |= f.canMultiConn;
  return flags | (readOnly ? f.readOnly : f.sendTrim | f.sendWriteZeroes | f.sendFastZero);
}
