import type { ReadStream } from 'node:tty';
import { wipe } from '../crypto/bytes.ts';
import { DiskError } from '../errors.ts';

/** As much as a passphrase may have. */
const mostBytes = 512;
const [ctrlC, ctrlD, backspace, lineFeed, carriageReturn, ctrlU] = [3, 4, 8, 10, 13, 21];
const [ctrlZ, ctrlBackslash, del] = [26, 28, 127];
/** Milliseconds in which a stop signal surely comes to pass, if it does: a process whose shell has gone is not stopped. */
const stopping = 50;

export interface Terminal {
  readonly input: Pick<ReadStream, 'setRawMode' | 'on' | 'off' | 'resume' | 'pause'>;
  write(text: string): void;
  /** Aborted by Ctrl-C that came before, and by other signals. */
  readonly signal: AbortSignal;
  /** As the terminal does at Ctrl-C, which it leaves to us while nothing is echoed. */
  interrupt(): void;
  /** As the terminal does at Ctrl-Z. */
  suspend(): void;
  /** Calls `listener` whenever the process goes on after a stop; gives what ends that. */
  onContinued(listener: () => void): () => void;
  /** Calls `listener` at a SIGQUIT, which then ends the process as it would have; gives what ends that. */
  onQuit(listener: () => void): () => void;
}

/**
 * Asks for a passphrase on a terminal, which shows nothing of it and is afterwards as it was, whatever happens. The caller wipes it.
 * What is typed after the line's end is dropped, so that of several lines that are pasted the first counts. Throws `aborted` at Ctrl-C or a signal, `bad-argument` where it is empty or too long.
 */
export async function askSecret(prompt: string, terminal: Terminal): Promise<Uint8Array> {
  const { input, signal } = terminal;
  const typed = new Uint8Array(mostBytes);
  let length = 0;
  let tooLong = false;
  // First: a signal must not find the terminal changed.
  const forgetQuit = terminal.onQuit(() => {
    input.setRawMode(false);
    terminal.write('\n');
  });
  // What is typed at the sight of the prompt must not be shown.
  input.setRawMode(true);
  terminal.write(prompt);
  let stop!: (how: 'entered' | 'interrupted' | 'aborted') => void;
  const ended = new Promise<'entered' | 'interrupted' | 'aborted'>((resolve) => {
    stop = resolve;
  });
  let over = false;
  let resuming: NodeJS.Timeout | undefined;
  const end = (how: 'entered' | 'interrupted' | 'aborted') => {
    over = true;
    stop(how);
  };
  const askAgain = () => {
    clearTimeout(resuming);
    length = 0;
    tooLong = false;
    // A shell may have changed the terminal meanwhile, which goes unnoticed unless the mode changes.
    input.setRawMode(false);
    input.setRawMode(true);
    terminal.write(`\n${prompt}`);
  };
  const suspend = () => {
    input.setRawMode(false);
    resuming = setTimeout(askAgain, stopping);
    terminal.suspend();
  };
  const take = (byte: number) => {
    if (byte === lineFeed || byte === carriageReturn || byte === ctrlD) end('entered');
    else if (byte === ctrlC || byte === ctrlBackslash) end('interrupted');
    else if (byte === ctrlZ) suspend();
    else if (byte === ctrlU) length = 0;
    else if (byte === backspace || byte === del) {
      // A character of UTF-8 goes whole.
      do length = Math.max(0, length - 1);
      while (length > 0 && (typed[length] & 0xc0) === 0x80);
    } else if (length === mostBytes) tooLong = true;
    else typed[length++] = byte;
  };
  const onData = (bytes: Buffer) => {
    for (const byte of bytes) if (!over) take(byte);
    wipe(bytes);
  };
  const onAbort = () => end('aborted');
  const forgetContinued = terminal.onContinued(askAgain);
  input.on('data', onData);
  signal.addEventListener('abort', onAbort, { once: true });
  if (signal.aborted) end('aborted');
  input.resume();
  try {
    const how = await ended;
    if (how !== 'entered') {
      if (how === 'interrupted') {
        const aborted = new Promise((resolve) => {
          signal.addEventListener('abort', resolve, { once: true });
        });
        terminal.interrupt();
        // It comes with a turn of the event loop, and says what the program ends with.
        await aborted;
      }
      throw new DiskError('aborted', 'No passphrase was given', { cause: signal.reason });
    }
    if (length > 0 && !tooLong) return typed.slice(0, length);
    const what = tooLong ? `A passphrase has at most ${mostBytes} bytes` : 'The passphrase is empty';
    throw new DiskError('bad-argument', what, { field: 'passphrase' });
  } finally {
    forgetContinued();
    forgetQuit();
    clearTimeout(resuming);
    input.setRawMode(false);
    input.pause();
    input.off('data', onData);
    signal.removeEventListener('abort', onAbort);
    wipe(typed);
    terminal.write('\n');
  }
}
