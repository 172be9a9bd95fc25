import { type ChildProcess, spawn } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';

/** Should it end by itself (libvirt is started anew), it is begun again after so long at the earliest. */
const againMs = 2_000;

/** virsh has no eye on its input: the group of processes ends with that, so with whoever started it, and with virsh. */
const leash = 'exec 3<&0; "$@" </dev/null & virsh=$!; { cat <&3 >/dev/null; kill 0; } & wait $virsh; kill 0';

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
  #running = false;
  #begun = Number.NEGATIVE_INFINITY;
  /** Of domains' last ends: who asked for it, and whether that is over. */
  readonly #ends = new Map<string, { byHost: boolean; over: boolean }>();
  readonly #waiting = new Set<() => void>();

  constructor(options: { readonly uri: string; readonly program?: string; readonly onEvent: () => void }) {
    this.#uri = options.uri;
    this.#program = options.program ?? 'virsh';
    this.#heard = options.onEvent;
  }

  /** Whether changes will be told. */
  get trusted(): boolean {
    return this.#trusted;
  }

  /** Listens from now on; again, where listening has ended meanwhile. */
  listen(): void {
    if (this.#running || performance.now() - this.#begun < againMs) return;
    this.#running = true;
    this.#begun = performance.now();
    const words = [this.#program, '-q', '-c', this.#uri, 'event', '--all', '--loop'];
    const child = spawn('sh', ['-c', leash, 'sh', ...words], {
      stdio: ['pipe', 'pipe', 'pipe'],
      // A session of its own: Ctrl-C is ours to handle, not virsh's.
      detached: true,
    });
    this.#child = child;
    child.stdin!.on('error', () => undefined);
    let rest = '';
    child.stdout!.setEncoding('utf8').on('data', (text: string) => {
      this.#trusted = true;
      const lines = (rest + text).split('\n');
      rest = lines.pop()!;
      for (const line of lines) this.#note(line);
      this.#tell();
    });
    // It would go on without its connection.
    child.stderr!.setEncoding('utf8').on('data', (text: string) => {
      if (/Disconnected from /.test(text)) child.stdin!.end();
    });
    this.#ended = new Promise((resolve) => {
      const end = () => {
        this.#trusted = false;
        this.#running = false;
        this.#tell();
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
    const wake = () => done.abort();
    this.#waiting.add(wake);
    await sleep(limitMs, undefined, { signal: either }).catch(() => undefined);
    this.#waiting.delete(wake);
  }

  /**
   * Whether the domain's last end was not its guest's doing (a signal to its hypervisor looks the same otherwise), as far as was
   * heard. What is on its way is waited for, so many milliseconds at most.
   */
  async endedByHost(domain: string, limitMs: number): Promise<boolean> {
    const until = performance.now() + limitMs;
    while (this.#trusted && !this.#ends.get(domain)?.over && performance.now() < until)
      await this.next(until - performance.now());
    return this.#ends.get(domain)?.byHost === true;
  }

  /** virsh's words: `event 'lifecycle' for domain 'NAME': Shutdown Finished after host request`. */
  #note(line: string): void {
    const [, domain, what] = /^event 'lifecycle' for domain '?(.*?)'?: (.*)$/.exec(line) ?? [];
    if (domain === undefined) return;
    if (what.startsWith('Started')) this.#ends.delete(domain);
    if (what.startsWith('Shutdown'))
      this.#ends.set(domain, { byHost: what.includes('host request'), over: false });
    if (what.startsWith('Stopped'))
      this.#ends.set(domain, { byHost: this.#ends.get(domain)?.byHost === true, over: true });
  }

  #tell(): void {
    this.#heard();
    for (const wake of this.#waiting) wake();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child?.stdin?.end();
    await this.#ended;
  }
}
