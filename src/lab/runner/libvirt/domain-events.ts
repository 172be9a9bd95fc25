import { type ChildProcess, spawn } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';

/** Ends with its input, so with whoever started it, and takes virsh along, which has no eye on its own. */
const leash = '"$@" & virsh=$!; cat >/dev/null; kill $virsh; wait';

/**
 * libvirt's own word that a domain was started, stopped or changed otherwise: one `virsh event` for as long as anybody waits. Not every
 * hypervisor sends events to others than who caused them, so they count from the first one that comes on.
 */
export class DomainEvents implements AsyncDisposable {
  readonly #uri: string;
  readonly #program: string;
  readonly #heard: () => void;
  #child: ChildProcess | undefined;
  #ended: Promise<void> = Promise.resolve();
  #trusted = false;
  #started = false;
  #wake: (() => void)[] = [];

  constructor(options: { readonly uri: string; readonly program?: string; readonly onEvent: () => void }) {
    this.#uri = options.uri;
    this.#program = options.program ?? 'virsh';
    this.#heard = options.onEvent;
  }

  /** Whether changes will be told. */
  get trusted(): boolean {
    return this.#trusted;
  }

  /** Listens from now on. */
  listen(): void {
    if (this.#started) return;
    this.#started = true;
    const words = [this.#program, '-q', '-c', this.#uri, 'event', '--all', '--loop'];
    const child = spawn('sh', ['-c', leash, 'sh', ...words], {
      env: { ...process.env, LC_ALL: 'C', LANGUAGE: 'C' },
      stdio: ['pipe', 'pipe', 'ignore'],
      // A session of its own: Ctrl-C is ours to handle, not virsh's.
      detached: true,
    });
    this.#child = child;
    child.stdin!.on('error', () => undefined);
    child.stdout!.on('data', () => {
      this.#trusted = true;
      this.#heard();
      for (const wake of this.#wake.splice(0)) wake();
    });
    this.#ended = new Promise((resolve) => {
      const end = () => {
        this.#trusted = false;
        resolve();
      };
      child.on('error', end);
      child.on('close', end);
    });
  }

  /** Waits for the next event, so many milliseconds at most, or until the signal. */
  async next(limitMs: number, signal?: AbortSignal): Promise<void> {
    const done = new AbortController();
    const either = signal ? AbortSignal.any([signal, done.signal]) : done.signal;
    this.#wake.push(() => done.abort());
    await sleep(limitMs, undefined, { signal: either }).catch(() => undefined);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child?.stdin?.end();
    await this.#ended;
  }
}
