/** What a C library copies by vector instructions and not by the processor's string instruction. */
const vectorBytes = 2048;
const lineBytes = 64;

/**
 * `into.set(from, at)`. To where no cache line begins, long copies go in short pieces: some processors' string instruction, which
 * C libraries take for long ones, writes there at a tenth of its speed.
 */
export function copyBytes(from: Uint8Array, into: Uint8Array, at: number): void {
  if (from.length <= vectorBytes || (into.byteOffset + at) % lineBytes === 0) {
    into.set(from, at);
    return;
  }
  for (let done = 0; done < from.length; done += vectorBytes) {
    into.set(from.subarray(done, done + vectorBytes), at + done);
  }
}
