import { closeSync, writeSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import type { Duplex } from 'node:stream';
import { Worker } from 'node:worker_threads';
import { CliFailure } from '../cli/failure.ts';
import { type RawIo, rawIo } from '../platform/raw-io.ts';
import { FlushMemory } from './flush-memory.ts';
import type { Host } from './host.ts';
import type { ExportFacts, ExportRecipe } from './recipe.ts';
import { SectorGuard } from './sector-guard.ts';
import { wipeKeys } from './volume-keys.ts';
import type { ClientOrder, FromWorker, ToWorker } from './worker-messages.ts';

/** A program bundle has its threads' code beside it, the modules beside this one; from source there is none. */
const workerFile = import.meta.url.endsWith('.cjs') ? './nbd-worker.cjs' : './worker.js';

/** Undefined where threads cannot serve sockets (no koffi; run from source). */
export function threadHost(): ThreadHost | undefined {
  const io = rawIo();
  return io && !import.meta.url.endsWith('.ts') ? new ThreadHost(io) : undefined;
}

/**
 * Serves on worker threads, which take over the sockets. An export that threads may open anew (`facts.parallel`) has as
 * many threads as there are processors, the others one: all connections of such an image share one engine.
 */
class ThreadHost implements Host {
  readonly #io: RawIo;
  readonly #most = Math.max(2, Math.min(8, availableParallelism()));
  readonly #threads: Thread[] = [];
  readonly #exports = new Map<string, Served>();

  constructor(io: RawIo) {
    this.#io = io;
  }

  async open(recipe: ExportRecipe): Promise<ExportFacts> {
    const home = this.#leastLoaded();
    const stripes = recipe.readOnly ? undefined : SectorGuard.newStripes();
    const lostFlush = recipe.readOnly ? undefined : FlushMemory.newWord();
    const first = { ...recipe, stripes, lostFlush };
    const facts = await home.open(first, false);
    const again = { ...first, volumeKeys: facts.volumeKeys, files: facts.files };
    this.#exports.set(recipe.name, { again, facts, home });
    if (facts.parallel && recipe.multiConn) this.#prepare(again);
    return facts;
  }

  /** Has a second thread ready, since clients that open several connections do not wait between them. */
  #prepare(recipe: ExportRecipe): void {
    if (this.#threads.length > 1) return;
    const thread = new Thread();
    this.#threads.push(thread);
    // A failure is met again, and told, when the thread is to serve the export.
    thread.open(recipe, true).catch(() => undefined);
  }

  async serve(stream: Duplex, client: ClientOrder): Promise<void> {
    const { again, facts, home } = this.#exports.get(client.exportName)!;
    let fd: number;
    try {
      fd = this.#takeSocket(stream);
    } finally {
      stream.destroy();
    }
    if (fd < 0) return;
    let thread = home;
    if (facts.parallel && home.clients > 0) {
      thread = this.#leastLoaded();
      try {
        await thread.open(again, true);
      } catch {
        // A file that was moved meanwhile, say: the first thread has it open.
        thread = home;
      }
    }
    await thread.serve(fd, client);
  }

  async close(): Promise<void> {
    const failures = await Promise.all(this.#threads.map((thread) => thread.finish()));
    for (const { facts } of this.#exports.values()) wipeKeys(facts.volumeKeys);
    const failure = failures.find((text) => text !== undefined);
    if (failure !== undefined) throw new CliFailure(failure);
  }

  /** A descriptor of our own for the stream's socket. */
  #takeSocket(stream: Duplex): number {
    const handle = (stream as unknown as { _handle?: { fd: number } })._handle;
    return handle ? this.#io.duplicateBlocking(handle.fd) : -1;
  }

  #leastLoaded(): Thread {
    const alive = this.#threads.filter(({ failure }) => failure === undefined);
    const [best] = alive.sort((a, b) => a.clients - b.clients);
    if (best && (best.clients === 0 || alive.length >= this.#most)) return best;
    const thread = new Thread();
    this.#threads.push(thread);
    return thread;
  }
}

/** An export, how threads after its first one open it, and that one. */
interface Served {
  readonly again: ExportRecipe;
  readonly facts: ExportFacts;
  readonly home: Thread;
}

class Thread {
  clients = 0;
  readonly #worker = new Worker(new URL(workerFile, import.meta.url), {
    // Sockets are opened by one thread and closed by another.
    trackUnmanagedFds: false,
  });
  readonly #opening = new Map<string, PromiseWithResolvers<ExportFacts>>();
  readonly #leaving = new Map<number, () => void>();
  /** Of the exports that it has open. */
  readonly #stripes: Int32Array[] = [];
  readonly #ready = deferred<{ readonly wakeFd: number; readonly sent: Int32Array }>();
  #started = false;
  #finished: ((failure?: string) => void) | undefined;
  #failure: string | undefined;
  #nextId = 0;

  constructor() {
    this.#worker.on('message', (message: FromWorker) => {
      if (message.kind !== 'ready') {
        this.#hear(message);
        return;
      }
      this.#started = true;
      this.#ready.resolve(message);
    });
    this.#worker.on('error', (error) => this.#die(error));
  }

  /** Why it serves nobody any more, or never did. */
  get failure(): string | undefined {
    return this.#failure;
  }

  async open(recipe: ExportRecipe, again: boolean): Promise<ExportFacts> {
    const known = this.#opening.get(recipe.name);
    if (known) return known.promise;
    const opening = deferred<ExportFacts>();
    this.#opening.set(recipe.name, opening);
    if (recipe.stripes) this.#stripes.push(recipe.stripes);
    await this.#tell({ kind: 'open', recipe, again });
    return opening.promise;
  }

  async serve(fd: number, client: ClientOrder): Promise<void> {
    this.clients++;
    const id = this.#nextId++;
    try {
      const left = new Promise<void>((resolve) => this.#leaving.set(id, resolve));
      try {
        await this.#tell({ kind: 'serve', id, fd, client });
      } catch (error) {
        this.#leaving.delete(id);
        closeSync(fd);
        throw error;
      }
      await left;
    } finally {
      this.clients--;
    }
  }

  /** Answers what went wrong in closing the images. (One that could not start, for want of descriptors, had none.) */
  async finish(): Promise<string | undefined> {
    const finished = new Promise<string | undefined>((resolve) => {
      this.#finished = resolve;
    });
    try {
      await this.#tell({ kind: 'finish' });
    } catch {
      return this.#started ? this.#failure : undefined;
    }
    return finished;
  }

  /** The thread may be waiting in poll: a byte in its pipe wakes it. Throws CliFailure where it has failed. */
  async #tell(message: ToWorker): Promise<void> {
    const { wakeFd, sent } = await this.#ready.promise;
    if (this.#failure !== undefined) throw new CliFailure(this.#failure);
    this.#worker.postMessage(message);
    Atomics.add(sent, 0, 1);
    try {
      writeSync(wakeFd, wakeByte);
    } catch {
      // The pipe is full: it will wake.
    }
  }

  #hear(message: FromWorker): void {
    if (message.kind === 'opened') this.#opening.get(message.name)?.resolve(message.facts);
    else if (message.kind === 'failed') {
      const { name, message: text, hint } = message;
      this.#opening.get(name)?.reject(new CliFailure(text, { hint }));
      this.#opening.delete(name);
    } else if (message.kind === 'left') {
      this.#leaving.get(message.id)?.();
      this.#leaving.delete(message.id);
    } else if (message.kind === 'finished') this.#finished?.(message.failure);
  }

  /** A bug: nothing that this thread had open can be served on. */
  #die(error: unknown): void {
    const text = error instanceof Error ? error.message : String(error);
    this.#failure = `A thread of the server failed: ${text}`;
    this.#ready.reject(new CliFailure(this.#failure));
    for (const stripes of this.#stripes) SectorGuard.abandon(stripes);
    for (const opening of this.#opening.values()) opening.reject(new CliFailure(this.#failure));
    for (const left of this.#leaving.values()) left();
    this.#finished?.(this.#failure);
  }
}

const wakeByte = new Uint8Array(1);

interface PromiseWithResolvers<T> {
  readonly promise: Promise<T>;
  readonly resolve: (value: T) => void;
  readonly reject: (reason: unknown) => void;
}

function deferred<T>(): PromiseWithResolvers<T> {
  let resolve!: (value: T) => void;
  let reject!: (reason: unknown) => void;
  const promise = new Promise<T>((yes, no) => {
    resolve = yes;
    reject = no;
  });
  // A failure after the answer has nobody to hear it.
  promise.catch(() => undefined);
  return { promise, resolve, reject };
}
