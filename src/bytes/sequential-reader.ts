/**
 * Takes bytes off a stream in the pieces that a format has them in. Holds no more than was asked for, and one chunk.
 * One call at a time.
 */
export class SequentialReader {
  readonly #chunks: AsyncIterator<Uint8Array>;
  /** Bytes that came and were not taken, in order. */
  readonly #held: Uint8Array[] = [];
  #heldBytes = 0;
  #position = 0;

  constructor(chunks: AsyncIterable<Uint8Array>) {
    this.#chunks = chunks[Symbol.asyncIterator]();
  }

  /** Bytes taken. */
  get position(): number {
    return this.#position;
  }

  /** The next bytes, which stay to be taken; fewer than `length` only at the end. */
  async peek(length: number): Promise<Uint8Array> {
    while (this.#heldBytes < length) {
      const next = await this.#chunks.next();
      if (next.done) break;
      this.#hold(next.value);
    }
    const [first] = this.#held;
    if (first === undefined) return new Uint8Array(0);
    if (first.length >= length || this.#held.length === 1) return first.subarray(0, length);
    const bytes = new Uint8Array(Math.min(length, this.#heldBytes));
    let filled = 0;
    for (const piece of this.#held) {
      if (filled === bytes.length) break;
      const part = piece.subarray(0, bytes.length - filled);
      bytes.set(part, filled);
      filled += part.length;
    }
    return bytes;
  }

  /** The next bytes; fewer than `length` only at the end. */
  async take(length: number): Promise<Uint8Array> {
    const bytes = await this.peek(length);
    this.#drop(bytes.length);
    return bytes;
  }

  /** Some of the next bytes, at most `limit` and at least one, as they come; undefined at the end. */
  async next(limit = Number.POSITIVE_INFINITY): Promise<Uint8Array | undefined> {
    while (this.#heldBytes === 0) {
      const next = await this.#chunks.next();
      if (next.done) return undefined;
      this.#hold(next.value);
    }
    const piece = this.#held[0].subarray(0, limit);
    this.#drop(piece.length);
    return piece;
  }

  /** The rest, as it comes. */
  async *rest(): AsyncGenerator<Uint8Array, void, undefined> {
    for (let piece = await this.next(); piece; piece = await this.next()) yield piece;
  }

  /** Ends the stream early. */
  async close(): Promise<void> {
    await this.#chunks.return?.();
  }

  #hold(chunk: Uint8Array): void {
    if (chunk.length === 0) return;
    this.#held.push(chunk);
    this.#heldBytes += chunk.length;
  }

  #drop(length: number): void {
    this.#position += length;
    this.#heldBytes -= length;
    for (let left = length; left > 0; ) {
      const [first] = this.#held;
      if (first.length > left) {
        this.#held[0] = first.subarray(left);
        return;
      }
      left -= first.length;
      this.#held.shift();
    }
  }
}
