import { pageAligned } from '../bytes/page-buffer.ts';
import type { Koffi } from './koffi.ts';

/** Byte offsets in zlib's z_stream on a 64-bit system. */
const field = { nextIn: 0, availIn: 8, nextOut: 24, availOut: 32 } as const;

/** What zlib's calls take, and answer. */
export const zlib = { finish: 4, deflated: 8, streamEnd: 1, bufferError: -5 } as const;

/** As zlib's `…Init2_` want it: the first digit of its version. */
export const zlibVersion = '1';

/** zlib's z_stream, in memory that does not move. */
export class ZStream {
  static readonly bytes = 112;
  readonly memory = pageAligned(ZStream.bytes);
  readonly #view = new DataView(this.memory.buffer, this.memory.byteOffset, ZStream.bytes);

  setInput(address: number, length: number): void {
    this.#setAddress(field.nextIn, address);
    this.#view.setUint32(field.availIn, length, true);
  }

  setOutput(address: number, length: number): void {
    this.#setAddress(field.nextOut, address);
    this.#view.setUint32(field.availOut, length, true);
  }

  /** Bytes of the output that are not filled yet. */
  get outputLeft(): number {
    return this.#view.getUint32(field.availOut, true);
  }

  #setAddress(at: number, address: number): void {
    this.#view.setUint32(at, address % two32, true);
    this.#view.setUint32(at + 4, Math.floor(address / two32), true);
  }
}

/** The zlib that Node itself has, or is linked with: a second one in the process would call functions of the first. */
export function loadZlib(koffi: Koffi): ReturnType<Koffi['load']> {
  return koffi.load(null);
}

const two32 = 2 ** 32;
