import { availableParallelism } from 'node:os';
import { Worker } from 'node:worker_threads';
import { type BulkCipher, type CipherCrew, registerCipherCrew } from '../crypto/bulk-cipher.ts';
import type { CipherSpec } from '../crypto/sector-cipher.ts';
import { maskRoomBytes } from '../crypto/xts-mask.ts';
import { DiskError } from '../errors.ts';

/** What a worker is told: keys come and go, and pieces of shared memory are transformed in place. */
export type CipherOrder =
  | { readonly kind: 'add'; readonly cipher: number; readonly spec: CipherSpec; readonly key: Uint8Array }
  | { readonly kind: 'drop'; readonly cipher: number }
  | {
      readonly kind: 'transform';
      readonly cipher: number;
      readonly job: number;
      readonly direction: 'encrypt' | 'decrypt';
      readonly sector: number;
      /** Where in the crew's memory. */
      readonly at: number;
      readonly length: number;
    };

/** What a worker begins with: the crew's memory, and where in it its own room is. */
export interface CipherDesk {
  readonly memory: WebAssembly.Memory;
  readonly at: number;
}

export interface CipherAnswer {
  readonly job: number;
  readonly error?: string;
}

interface Job {
  readonly worker: Worker;
  resolve(): void;
  reject(error: unknown): void;
}

const mostWorkers = 4;
const piecesAWorker = 3;
const wasmPageBytes = 65536;

/** A program bundle has its threads' code beside it, the modules beside this one; from source there is none. */
const workerFile = import.meta.url.endsWith('.cjs') ? './cipher-worker.cjs' : './cipher-worker.js';

/** Worker threads that encrypt and decrypt. They start with the first cipher, and keep no process alive that is idle. */
class ThreadCrew implements CipherCrew {
  readonly pieceBytes = 512 * 1024;
  readonly #workers: Worker[] = [];
  readonly #free: Uint8Array[] = [];
  readonly #waiting: ((memory: Uint8Array) => void)[] = [];
  readonly #jobs = new Map<number, Job>();
  #nextCipher = 0;
  #nextJob = 0;
  #turn = 0;

  async borrow(): Promise<Uint8Array> {
    return this.#free.pop() ?? new Promise((resolve) => this.#waiting.push(resolve));
  }

  giveBack(memory: Uint8Array): void {
    const next = this.#waiting.shift();
    if (next) next(memory);
    else this.#free.push(memory);
  }

  start(spec: CipherSpec, key: Uint8Array): BulkCipher {
    if (this.#workers.length === 0) this.#hire();
    const cipher = this.#nextCipher++;
    this.#tellAll({ kind: 'add', cipher, spec, key });
    return {
      transform: (direction, sector, bytes) =>
        new Promise((resolve, reject) => {
          const worker = this.#workers[this.#turn++ % this.#workers.length];
          const job = this.#nextJob++;
          if (this.#jobs.size === 0) for (const one of this.#workers) one.ref();
          this.#jobs.set(job, { worker, resolve, reject });
          const { byteOffset: at, length } = bytes;
          this.#tell(worker, { kind: 'transform', cipher, job, direction, sector, at, length });
        }),
      [Symbol.dispose]: () => this.#tellAll({ kind: 'drop', cipher }),
    };
  }

  #hire(): void {
    const count = Math.min(mostWorkers, availableParallelism());
    const lent = this.pieceBytes * count * piecesAWorker;
    const pages = (lent + maskRoomBytes * count) / wasmPageBytes;
    // Page-aligned, and seen by all threads.
    const memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
    for (let at = 0; at < lent; at += this.pieceBytes) {
      this.#free.push(new Uint8Array(memory.buffer, at, this.pieceBytes));
    }
    for (let made = 0; made < count; made++) {
      const workerData: CipherDesk = { memory, at: lent + made * maskRoomBytes };
      const worker = new Worker(new URL(workerFile, import.meta.url), { workerData });
      worker.on('message', (answer: CipherAnswer) => this.#finish(answer));
      worker.on('error', (error) => this.#fail(worker, error));
      worker.unref();
      this.#workers.push(worker);
    }
  }

  #tellAll(order: CipherOrder): void {
    for (const worker of this.#workers) this.#tell(worker, order);
  }

  #tell(worker: Worker, order: CipherOrder): void {
    worker.postMessage(order);
  }

  #finish({ job, error }: CipherAnswer): void {
    const { resolve, reject } = this.#jobs.get(job)!;
    this.#jobs.delete(job);
    if (this.#jobs.size === 0) for (const worker of this.#workers) worker.unref();
    if (error === undefined) resolve();
    else reject(new DiskError('io', `A cipher thread failed: ${error}`));
  }

  #fail(worker: Worker, cause: unknown): void {
    for (const [number, job] of this.#jobs) {
      if (job.worker !== worker) continue;
      this.#jobs.delete(number);
      job.reject(new DiskError('io', 'A cipher thread ended', { cause }));
    }
  }
}

/** Gives large encryption to worker threads, where they can be: not from source, and not with a single core. */
export function registerThreadCrew(): void {
  if (import.meta.url.endsWith('.ts') || availableParallelism() < 2) return;
  registerCipherCrew(new ThreadCrew());
}
