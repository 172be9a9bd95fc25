const pageBytes = 4096;
const wasmPageBytes = 65536;
const mostWasmPages = 65536;
const arenaBytes = 8 * 1024 * 1024;

let arena = new Uint8Array(0);
let used = 0;
const arenas = new WeakMap<ArrayBufferLike, WebAssembly.Memory>();
let refused = false;

/**
 * A zeroed buffer of `bytes` that begins on a page boundary (4 KiB), for large I/O: the kernel copies to and
 * from it faster than to `new Uint8Array(n)`, which begins 16 bytes into a page when it is large.
 *
 * WebAssembly memory is the one thing in plain JavaScript that is page-aligned. One costs a quarter of a
 * millisecond and 10 GiB of address space, so buffers are cut from arenas of 8 MiB; an arena lives as long as
 * any buffer of it. Ask once and reuse. Where no such memory can be had (a limit on address space), the
 * buffer is an ordinary one. It cannot be transferred to a worker, only copied.
 */
export function pageAligned(bytes: number): Uint8Array<ArrayBuffer> {
  const room = Math.ceil(bytes / pageBytes) * pageBytes;
  if (room > arenaBytes / 2) return memoryOf(bytes)?.subarray(0, bytes) ?? new Uint8Array(bytes);
  if (used + room > arena.length) {
    const memory = newMemory(arenaBytes);
    if (!memory) return new Uint8Array(bytes);
    arenas.set(memory.buffer, memory);
    arena = new Uint8Array(memory.buffer as ArrayBuffer);
    used = pageBytes;
  }
  const at = used;
  used += room;
  return arena.subarray(at, at + bytes);
}

/**
 * The arena of this thread that buffers over `buffer` were cut from, for code of WebAssembly that computes on them: its first
 * 4 KiB are in no buffer. Undefined: it is something else.
 */
export function arenaOf(buffer: ArrayBufferLike): WebAssembly.Memory | undefined {
  return arenas.get(buffer);
}

function memoryOf(bytes: number): Uint8Array<ArrayBuffer> | undefined {
  const memory = newMemory(bytes);
  return memory && new Uint8Array(memory.buffer as ArrayBuffer);
}

function newMemory(bytes: number): WebAssembly.Memory | undefined {
  const pages = Math.max(1, Math.ceil(bytes / wasmPageBytes));
  if (refused || pages > mostWasmPages || typeof WebAssembly === 'undefined') return undefined;
  try {
    return new WebAssembly.Memory({ initial: pages, maximum: pages });
  } catch {
    // Address space that is limited stays so: do not ask again and again.
    refused = true;
    return undefined;
  }
}
