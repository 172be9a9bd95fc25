import { availableParallelism } from 'node:os';
import { Worker } from 'node:worker_threads';
import { alignUp } from '../bytes/numbers.ts';
import { type BulkCipher, type CipherCrew, registerCipherCrew } from '../crypto/bulk-cipher.ts';
import type { CipherSpec } from '../crypto/sector-cipher.ts';
import { maskRoomBytes } from '../crypto/xts-mask.ts';
import { DiskError } from '../errors.ts';
import { threadFile } from './thread-file.ts';

/** What a worker is told: keys come and go, and pieces of shared memory are transformed. */
export type CipherOrder =
  | { readonly kind: 'add'; readonly cipher: number; readonly spec: CipherSpec; readonly key: Uint8Array }
  | { readonly kind: 'drop'; readonly cipher: number }
  | {
      readonly kind: 'transform';
      readonly cipher: number;
      readonly job: number;
      readonly direction: 'encrypt' | 'decrypt';
      readonly sector: number;
      /** Where in the crew's memory it lies, and where the result goes. */
      readonly at: number;
      readonly to: number;
      readonly length: number;
    };

/** What a worker begins with: the crew's memory, and where in it its own room is. */
export interface CipherDesk {
  readonly memory: WebAssembly.Memory;
  readonly at: number;
}

export interface CipherAnswer {
  /** What was done; 'ready' comes once, when a worker has started. */
  readonly job: number | 'ready';
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
/** Memory to lend. What nobody asks for takes address space only. */
const lendableBytes = 40 * 1024 * 1024;

/** Worker threads that encrypt and decrypt. They start with the first cipher, and keep no process alive that is idle. */
export class ThreadCrew implements CipherCrew {
  readonly pieceBytes = 1024 * 1024;
  readonly #code: URL;
  readonly #count = Math.min(mostWorkers, availableParallelism());
  /** Those that have not ended. */
  #workers: Worker[] = [];
  readonly #free: Uint8Array[] = [];
  readonly #waiting: ((memory: Uint8Array) => void)[] = [];
  readonly #jobs = new Map<number, Job>();
  #memory: WebAssembly.Memory | undefined;
  #refused = false;
  /** Stretches that can be lent, in bytes of the memory, by where they begin. */
  #lendable: { readonly from: number; readonly to: number }[] = [];
  readonly #started = new Set<Worker>();
  #hired = false;
  #nextCipher = 0;
  #nextJob = 0;
  #turn = 0;

  /** `code`: the threads' file. */
  constructor(code: URL) {
    this.#code = code;
  }

  async borrow(): Promise<Uint8Array> {
    return this.#free.pop() ?? new Promise((resolve) => this.#waiting.push(resolve));
  }

  giveBack(memory: Uint8Array): void {
    const next = this.#waiting.shift();
    if (next) next(memory);
    else this.#free.push(memory);
  }

  lend(bytes: number): Uint8Array | undefined {
    const buffer = this.#makeMemory()?.buffer;
    if (!buffer) return undefined;
    const length = alignUp(bytes, wasmPageBytes);
    const place = this.#lendable.findIndex(({ from, to }) => to - from >= length);
    if (place < 0) return undefined;
    const { from, to } = this.#lendable[place];
    this.#lendable.splice(place, 1, ...(from + length < to ? [{ from: from + length, to }] : []));
    return new Uint8Array(buffer, from, bytes);
  }

  takeBack({ byteOffset: from, length }: Uint8Array): void {
    const all = [...this.#lendable, { from, to: from + alignUp(length, wasmPageBytes) }];
    this.#lendable = [];
    for (const one of all.sort((a, b) => a.from - b.from)) {
      const last = this.#lendable.at(-1);
      if (last?.to === one.from) this.#lendable.splice(-1, 1, { from: last.from, to: one.to });
      else this.#lendable.push(one);
    }
  }

  owns(bytes: Uint8Array): boolean {
    return bytes.buffer === this.#memory?.buffer;
  }

  start(spec: CipherSpec, key: Uint8Array): BulkCipher | undefined {
    const memory = this.#makeMemory();
    if (!memory) return undefined;
    if (!this.#hired) this.#hire(memory);
    const cipher = this.#nextCipher++;
    this.#tellAll({ kind: 'add', cipher, spec, key });
    const isReady = () => this.#workers.length > 0 && this.#workers.every((one) => this.#started.has(one));
    return {
      get ready() {
        return isReady();
      },
      transform: (direction, sector, bytes, into) =>
        new Promise((resolve, reject) => {
          const worker = this.#workers[this.#turn++ % this.#workers.length];
          if (!worker) throw new DiskError('io', 'The cipher threads have ended');
          const job = this.#nextJob++;
          if (this.#jobs.size === 0) for (const one of this.#workers) one.ref();
          this.#jobs.set(job, { worker, resolve, reject });
          const { byteOffset: at, length } = bytes;
          const to = into.byteOffset;
          this.#tell(worker, { kind: 'transform', cipher, job, direction, sector, at, to, length });
        }),
      [Symbol.dispose]: () => this.#tellAll({ kind: 'drop', cipher }),
    };
  }

  get #pieces(): number {
    return this.pieceBytes * this.#count * piecesAWorker;
  }

  /**
   * Page-aligned, and seen by all threads: pieces, what is lent, and each worker's own room. Undefined where address space is
   * limited to less.
   */
  #makeMemory(): WebAssembly.Memory | undefined {
    if (this.#memory || this.#refused) return this.#memory;
    const lendableTo = this.#pieces + lendableBytes;
    const pages = (lendableTo + maskRoomBytes * this.#count) / wasmPageBytes;
    let memory: WebAssembly.Memory;
    try {
      memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
    } catch {
      this.#refused = true;
      return undefined;
    }
    for (let at = 0; at < this.#pieces; at += this.pieceBytes) {
      this.#free.push(new Uint8Array(memory.buffer, at, this.pieceBytes));
    }
    this.#lendable = [{ from: this.#pieces, to: lendableTo }];
    this.#memory = memory;
    return memory;
  }

  #hire(memory: WebAssembly.Memory): void {
    this.#hired = true;
    const rooms = this.#pieces + lendableBytes;
    for (let made = 0; made < this.#count; made++) {
      const workerData: CipherDesk = { memory, at: rooms + made * maskRoomBytes };
      const worker = new Worker(this.#code, { workerData });
      worker.on('message', (answer: CipherAnswer) => this.#finish(worker, answer));
      worker.on('error', (error) => this.#lose(worker, error));
      worker.on('exit', () => this.#lose(worker));
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

  #finish(worker: Worker, { job, error }: CipherAnswer): void {
    if (job === 'ready') {
      this.#started.add(worker);
      return;
    }
    const { resolve, reject } = this.#jobs.get(job)!;
    this.#jobs.delete(job);
    if (this.#jobs.size === 0) for (const worker of this.#workers) worker.unref();
    if (error === undefined) resolve();
    else reject(new DiskError('io', `A cipher thread failed: ${error}`));
  }

  #lose(worker: Worker, cause?: unknown): void {
    this.#workers = this.#workers.filter((one) => one !== worker);
    for (const [number, job] of this.#jobs) {
      if (job.worker !== worker) continue;
      this.#jobs.delete(number);
      job.reject(new DiskError('io', 'A cipher thread ended', { cause }));
    }
  }
}

/** Gives large encryption to worker threads, where they can be: not without a file of theirs, and not with a single core. */
export function registerThreadCrew(): void {
  const file = threadFile('cipher-worker');
  if (file && availableParallelism() > 1) registerCipherCrew(new ThreadCrew(file));
}
