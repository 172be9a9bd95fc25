import type { Duplex } from 'node:stream';
import { Connection } from './connection.ts';
import { ThreadBuffers } from './page-pool.ts';
import { type ExportFacts, type ExportRecipe, type OpenExport, openExport } from './recipe.ts';
import type { Session } from './session.ts';
import { StreamWire } from './wire.ts';
import type { ClientOrder } from './worker-messages.ts';

/** Has the images open, and serves clients that have agreed on everything. */
export interface Host {
  /** Throws CliFailure in qemu-nbd's words. */
  open(recipe: ExportRecipe): Promise<ExportFacts>;
  /** Resolved when the client has gone. Takes the stream over. */
  serve(stream: Duplex, client: ClientOrder): Promise<void>;
  /** Lets requests under way be answered, then closes clients and images. Throws what closing an image throws. */
  close(): Promise<void>;
}

/** Serves on this thread, by Node's event loop: for TLS, and where the system's calls cannot be had. */
export class LocalHost implements Host {
  readonly #buffers = new ThreadBuffers();
  readonly #exports = new Map<string, OpenExport>();
  readonly #clients = new Set<StreamClient>();

  async open(recipe: ExportRecipe): Promise<ExportFacts> {
    const opened = await openExport(recipe);
    this.#exports.set(recipe.name, opened);
    return opened.facts;
  }

  async serve(stream: Duplex, client: ClientOrder): Promise<void> {
    const { disk, contexts, end } = await this.#exports.get(client.exportName)!.session(client.contexts);
    const session = { disk, contexts, mode: client.mode };
    const entry = serveStream(stream, session, this.#buffers, client.first);
    this.#clients.add(entry);
    try {
      await entry.gone;
    } finally {
      this.#clients.delete(entry);
      await end();
    }
  }

  async close(): Promise<void> {
    const clients = [...this.#clients];
    for (const { finish } of clients) finish();
    await Promise.all(clients.map(({ gone }) => gone));
    for (const opened of this.#exports.values()) await opened[Symbol.asyncDispose]();
  }
}

/** A client that is served over a stream: `gone` is resolved when it has left. */
interface StreamClient {
  /** Takes no more requests. */
  finish(): void;
  readonly gone: Promise<void>;
}

/** Serves one client in the transmission phase over a stream of Node's; `first`: bytes that were read already. */
export function serveStream(
  stream: Duplex,
  session: Session,
  buffers: ThreadBuffers,
  first: Uint8Array,
): StreamClient {
  const wire = new StreamWire(stream, first);
  let due = false;
  let leave: () => void = () => undefined;
  const gone = new Promise<void>((resolve) => {
    leave = resolve;
  });
  const later = () => {
    if (due) return;
    due = true;
    setImmediate(pump);
  };
  const connection = new Connection(buffers, wire, session, { onWork: later });
  const pump = () => {
    due = false;
    connection.pump();
    if (connection.closed) leave();
    else if (connection.hasWork || (connection.wantsInput && wire.hasInput)) later();
  };
  wire.onTaken = later;
  for (const event of ['readable', 'end', 'close']) stream.on(event, later);
  later();
  const finish = () => {
    connection.finish();
    later();
  };
  return { finish, gone };
}
