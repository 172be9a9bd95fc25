/** How a file's caches are used, as QEMU's `-t` and `-T` name it. Only `unsafe` changes anything: convert's target is not flushed. */
export type CacheMode = 'none' | 'off' | 'directsync' | 'writeback' | 'writethrough' | 'unsafe';

const modes: readonly string[] = ['none', 'off', 'directsync', 'writeback', 'writethrough', 'unsafe'];

/** Whether qemu-img would accept the mode. */
export function isCacheMode(text: string): text is CacheMode {
  return modes.includes(text);
}
