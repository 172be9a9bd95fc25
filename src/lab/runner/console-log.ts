import { type FileHandle, open } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { DiskError } from '../../errors.ts';
import { asSystemError, errnoOf } from '../../platform/errno.ts';

const pieceBytes = 64 * 1024;
/** How often a log is looked at; file watching misses writes on several file systems. */
const pollMs = 40;

export interface FollowLogOptions {
  /** Byte to begin at; a file that has become shorter is read from its start. */
  readonly from: number;
  /** Asked when the end of the file is reached: true to wait for more. Absent: stop there. */
  readonly more?: () => Promise<boolean>;
  readonly signal?: AbortSignal;
}

/** The bytes of a log file as they come. A file that is not there yet is empty. Throws `aborted`. */
export async function* followLog(path: string, options: FollowLogOptions): AsyncIterable<Uint8Array> {
  const { signal, more } = options;
  let file: FileHandle | undefined;
  let at = options.from;
  const buffer = new Uint8Array(pieceBytes);
  try {
    for (;;) {
      // Asked before the read: what the guest wrote before it ended is then read for certain.
      const goOn = more ? await more() : false;
      file ??= await openIfThere(path);
      for (let got = 1; file && got > 0; ) {
        if (signal?.aborted) throw new DiskError('aborted', `Stopped reading '${path}'`, { path });
        const { size } = await file.stat();
        if (size < at) at = 0;
        ({ bytesRead: got } = await file.read(buffer, 0, buffer.length, at));
        at += got;
        if (got > 0) yield buffer.slice(0, got);
      }
      if (!goOn) return;
      await sleep(pollMs, undefined, { signal }).catch(() => undefined);
      if (signal?.aborted) throw new DiskError('aborted', `Stopped reading '${path}'`, { path });
    }
  } finally {
    await file?.close();
  }
}

async function openIfThere(path: string): Promise<FileHandle | undefined> {
  try {
    return await open(path, 'r');
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined;
    throw asSystemError(error, 'open', path);
  }
}
