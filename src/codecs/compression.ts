/** A compression that whole files come in, by the name of its program. */
export type Compression = 'gzip' | 'xz' | 'zstd' | 'bzip2';

const signatures: readonly (readonly [Compression, readonly number[]])[] = [
  ['gzip', [0x1f, 0x8b, 0x08]],
  ['xz', [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00]],
  ['zstd', [0x28, 0xb5, 0x2f, 0xfd]],
];

/** The compression that a file beginning with `head` is packed by, or undefined. */
export function compressionOf(head: Uint8Array): Compression | undefined {
  for (const [name, signature] of signatures) {
    if (signature.every((byte, at) => head[at] === byte)) return name;
  }
  return isBzip2(head) ? 'bzip2' : undefined;
}

/** "BZh", a digit, and the mark of a block or that of the end: four letters alone could be any text. */
function isBzip2(head: Uint8Array): boolean {
  const level = head[3] ?? 0;
  if (head[0] !== 0x42 || head[1] !== 0x5a || head[2] !== 0x68 || level < 0x31 || level > 0x39) return false;
  const block = [0x31, 0x41, 0x59, 0x26, 0x53, 0x59];
  const end = [0x17, 0x72, 0x45, 0x38, 0x50, 0x90];
  return [block, end].some((mark) => mark.every((byte, at) => head[4 + at] === byte));
}
