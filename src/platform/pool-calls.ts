import type { KoffiFunction } from './koffi.ts';

/**
 * Calls of C libraries in libuv's pool at a time: as many as it has threads. Their contexts' tables stay in the processor's
 * caches: with 16, compressing took a tenth more time. Nor do writes to files, which take the same pool, wait behind many.
 */
const maxCalls = 4;

const waiting: (() => void)[] = [];
let running = 0;

/** Contexts of a library, costly to make, of which each serves one call at a time: as many stay as calls ever overlapped. */
export class CallContexts<Context> {
  readonly #create: () => Context;
  readonly #idle: Context[] = [];

  /** `create` may throw; then so does `lend`. */
  constructor(create: () => Context) {
    this.#create = create;
  }

  /** Has `use` work with a context, when it is its turn. */
  async lend<Answer>(use: (context: Context) => Promise<Answer>): Promise<Answer> {
    if (running >= maxCalls) await new Promise<void>((resolve) => waiting.push(resolve));
    else running++;
    try {
      const context = this.#idle.pop() ?? this.#create();
      try {
        return await use(context);
      } finally {
        this.#idle.push(context);
      }
    } finally {
      const next = waiting.shift();
      if (next) next();
      else running--;
    }
  }
}

/** Calls `code` on a thread of the pool. What `args` point to must stay until it has answered. */
export function callInPool(code: KoffiFunction, args: readonly unknown[]): Promise<number> {
  return new Promise((resolve, reject) => {
    code.async(...args, (error: unknown, value: number | bigint) => {
      if (error) reject(error);
      else resolve(Number(value));
    });
  });
}
