// Memory as a machine has it that has run for a while: full of files that were read.
import { mkdtempSync, openSync, readFileSync, readSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const GiB = 1024 ** 3;
const chunk = Buffer.alloc(4 * 1024 ** 2);
const longest = 8 * 1024 * GiB;

let filler;
let read = 0;

/**
 * Fills free memory, but for a gibibyte, with the cache of a file that is one hole. A virtual machine's host takes back
 * memory that lies free, and whoever needs it next pays up to tenfold system time: each side of a pair now and then. What is
 * taken from a cache was never away.
 */
export function fillFreeMemory() {
  filler ??= openFiller();
  const free = Number(/^MemFree:\s+(\d+) kB/m.exec(readFileSync('/proc/meminfo', 'utf8'))[1]) * 1024;
  for (let left = free - GiB; left > 0 && read < longest; left -= chunk.length) {
    readSync(filler, chunk, 0, chunk.length, read);
    read += chunk.length;
  }
}

/** The file has no name any more, and is gone with this process. */
function openFiller() {
  const folder = mkdtempSync(join(tmpdir(), 'cowherd-bench-filler-'));
  const path = join(folder, 'filler');
  writeFileSync(path, '');
  truncateSync(path, longest);
  const fd = openSync(path, 'r');
  rmSync(folder, { recursive: true });
  return fd;
}
