import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { DiskError, type DiskErrorCode } from '../../../errors.ts';

export interface VirshOptions {
  /** libvirt's connection URI. */
  readonly uri: string;
  /** The program; default `virsh` on PATH. */
  readonly program?: string;
  /** Milliseconds that the connection may take; default: `connectLimitMs`. */
  readonly limitMs?: number;
}

interface Waiting {
  /** The command line, as virsh repeats it. */
  readonly line: string;
  /** Ends its answer on both streams. */
  readonly mark: string;
  readonly resolve: (output: string) => void;
  readonly reject: (error: DiskError) => void;
}

/** How long virsh may take to say goodbye. */
const quitLimitMs = 2_000;

/**
 * How long a libvirt may take to answer at first, in milliseconds. ssh by itself waits for a host that swallows packets for minutes, and
 * for one that says nothing without end: all seats of other hosts would wait too.
 */
export function connectLimitMs(uri: string): number {
  return /^[a-z0-9+]+:\/\/[^/?]/.test(uri) ? 15_000 : 60_000;
}

/**
 * One virsh for any number of commands: they are written to its input as they come, and answered in order. Forty
 * definitions take a tenth of what forty processes do. It is started by the first command, and again should it have died, or have lost
 * its connection while it had nothing to do.
 */
export class Virsh implements AsyncDisposable {
  readonly uri: string;
  readonly #program: string;
  readonly #limitMs: number;
  readonly #waiting: Waiting[] = [];
  #child: ChildProcessWithoutNullStreams | undefined;
  #ended: Promise<void> = Promise.resolve();
  #disposed = false;
  #out = '';
  #err = '';

  constructor(options: VirshOptions) {
    this.uri = options.uri;
    this.#program = options.program ?? 'virsh';
    this.#limitMs = options.limitMs ?? connectLimitMs(options.uri);
  }

  /**
   * Runs one command and gives what it printed. Throws what virsh complains about: `not-found`, `in-use`, `locked`,
   * `exists`, `denied`, `unsupported`, else `io`.
   */
  run(...words: readonly string[]): Promise<string> {
    const line = words.map(quoted).join(' ');
    const mark = `cowherd-${randomUUID()}`;
    return new Promise((resolve, reject) => {
      if (this.#disposed) {
        reject(new DiskError('aborted', `The connection to ${this.uri} was given back`));
        return;
      }
      // Line editing has a meaning for each of these.
      // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is refused
      if (/[\x00-\x1f\x7f]/.test(line)) {
        const message = `${JSON.stringify(words.at(-1))} cannot be said to virsh`;
        reject(new DiskError('bad-argument', message));
        return;
      }
      this.#waiting.push({ line, mark, resolve, reject });
      this.#child ??= this.#start();
      this.#child.stdin.write(`${line}\necho ${mark}\necho --err ${mark}\n`);
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#disposed = true;
    const child = this.#child;
    if (!child) return;
    child.stdin.end();
    const timer = setTimeout(() => child.kill('SIGKILL'), quitLimitMs);
    await this.#ended;
    clearTimeout(timer);
  }

  #start(): ChildProcessWithoutNullStreams {
    const child = spawn(this.#program, ['-q', '-c', this.uri], {
      // Its words are looked at: in English, but with names as they are, of which plain C would leave escapes (`vol-list`).
      // A history of commands would be kept in the user's home.
      // It repeats what it reads as for a terminal: a line must not be wrapped.
      env: { ...process.env, LC_ALL: 'C.UTF-8', LANGUAGE: 'C', VIRSH_HISTSIZE: '0', COLUMNS: '32767' },
      // A session of its own: Ctrl-C is ours to handle, not virsh's.
      detached: true,
    });
    this.#out = '';
    this.#err = '';
    // It reads its first command when it is connected, and repeats it.
    const timer = setTimeout(() => {
      this.#giveUp(child, `no answer within ${this.#limitMs / 1000} s`);
    }, this.#limitMs);
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      clearTimeout(timer);
      if (this.#child !== child) return;
      this.#out += text;
      this.#settle();
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      if (this.#child !== child) return;
      this.#err += text;
      this.#settle();
      if (this.#waiting.length === 0 && /Disconnected from /.test(this.#err)) this.#giveUp(child, this.#err);
    });
    child.stdin.on('error', () => undefined);
    this.#ended = new Promise((resolve) => {
      const end = (error?: Error) => {
        clearTimeout(timer);
        if (this.#child === child)
          this.#fail(complaint(this.#err) || error?.message || 'virsh ended without a word');
        resolve();
      };
      child.on('error', end);
      child.on('close', () => end());
    });
    return child;
  }

  /** Ends a virsh of no use, with what it has started (ssh). */
  #giveUp(child: ChildProcessWithoutNullStreams, words: string): void {
    if (this.#child === child) this.#fail(complaint(words));
    try {
      process.kill(-child.pid!, 'SIGKILL');
    } catch {
      // It has ended by itself.
    }
  }

  #fail(words: string): void {
    this.#child = undefined;
    for (const one of this.#waiting.splice(0)) one.reject(errorOf(words, this.uri));
  }

  #settle(): void {
    for (let one = this.#waiting[0]; one; one = this.#waiting[0]) {
      // The mark comes twice: virsh repeats what it reads, and then does it.
      const echoed = `virsh # echo ${one.mark}\n`;
      const outEnd = this.#out.indexOf(`${echoed}${one.mark}`);
      const errMark = `error: ${one.mark}\n`;
      const errEnd = this.#err.indexOf(errMark);
      if (outEnd < 0 || errEnd < 0) return;
      const output = this.#out.slice(0, outEnd);
      const begin = output.indexOf(`${one.line}\n`);
      const words = complaint(this.#err.slice(0, errEnd));
      this.#out = this.#out.slice(outEnd + echoed.length + one.mark.length);
      this.#err = this.#err.slice(errEnd + errMark.length);
      this.#waiting.shift();
      if (words === '') one.resolve(output.slice(begin < 0 ? 0 : begin + one.line.length + 1).trim());
      else one.reject(errorOf(words, this.uri));
    }
  }
}

/** A word for virsh's own parser, which knows quotes as a shell does. */
function quoted(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'"'"'`)}'`;
}

/** virsh's error lines as one sentence, without what it says of its own reconnecting. */
function complaint(text: string): string {
  return text
    .split('\n')
    .map((line) => line.replace(/^error:\s*/, '').trim())
    .filter((line) => line !== '' && line !== 'Reconnected to the hypervisor')
    .join(': ')
    .replaceAll('::', ':');
}

const codes: readonly (readonly [RegExp, DiskErrorCode])[] = [
  // What was being looked for then is `failed to get` as well, and may be there.
  [/Disconnected from |Failed to reconnect to /, 'io'],
  [
    /failed to get (domain|network|metadata|vol|pool)|(domain|volume|pool) not found|no domain with matching/i,
    'not-found',
  ],
  [/ENOENT|spawn .* ENOENT/, 'not-found'],
  [/already (running|active)/i, 'in-use'],
  [/Failed to get .*lock|Is another process using the image/, 'locked'],
  [/already exists|exists already|file exists/i, 'exists'],
  [/permission denied|access denied|authentication|operation not permitted/i, 'denied'],
  [/unsupported|not supported/i, 'unsupported'],
];

function errorOf(words: string, uri: string): DiskError {
  const code = codes.find(([pattern]) => pattern.test(words))?.[1] ?? 'io';
  return new DiskError(code, words, { path: uri, field: 'virsh', detail: { virsh: words } });
}
