/**
 * Cuts a stream of bytes into lines, without their line ends, at most `limit` bytes each. What to do with a
 * longer line the caller says: `onLong` 'cut' hands it out in pieces, 'throw' throws a RangeError.
 */
export class LineSplitter {
  #pending: Uint8Array[] = [];
  #pendingBytes = 0;

  constructor(
    private readonly limit: number,
    private readonly onLong: 'cut' | 'throw',
  ) {}

  /** The lines that `chunk` completes. */
  push(chunk: Uint8Array): string[] {
    const lines: string[] = [];
    let at = 0;
    while (at < chunk.length) {
      const newline = chunk.indexOf(10, at);
      const end = newline < 0 ? chunk.length : newline;
      const room = this.limit - this.#pendingBytes;
      if (end - at > room) {
        if (this.onLong === 'throw') throw new RangeError(`a line passes ${this.limit} bytes`);
        this.#keep(chunk.subarray(at, at + room));
        lines.push(this.#take());
        at += room;
        continue;
      }
      this.#keep(chunk.subarray(at, end));
      at = end;
      if (newline >= 0) {
        lines.push(this.#take());
        at++;
      }
    }
    return lines;
  }

  /** What is left without a line end; undefined when there is nothing. */
  rest(): string | undefined {
    return this.#pendingBytes > 0 ? this.#take() : undefined;
  }

  #keep(bytes: Uint8Array): void {
    // A copy: the stream may reuse its buffer.
    if (bytes.length > 0) this.#pending.push(bytes.slice());
    this.#pendingBytes += bytes.length;
  }

  #take(): string {
    const whole = new Uint8Array(this.#pendingBytes);
    let at = 0;
    for (const piece of this.#pending) {
      whole.set(piece, at);
      at += piece.length;
    }
    this.#pending = [];
    this.#pendingBytes = 0;
    const text = new TextDecoder().decode(whole);
    return text.endsWith('\r') ? text.slice(0, -1) : text;
  }
}
