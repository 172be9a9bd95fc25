import { alignDown } from '../../bytes/numbers.ts';
import type { ByteSource } from '../../storage/store.ts';
import { logSectorBytes } from './constants.ts';
import type { Page } from './journal.ts';

/** Log sectors in which bytes change, with what else is in them as the file has it. */
export class PageSet {
  readonly #source: ByteSource;
  readonly #pages = new Map<number, Uint8Array>();

  constructor(source: ByteSource) {
    this.#source = source;
  }

  /** Lays `bytes` over the file's at `at`. */
  async put(at: number, bytes: Uint8Array): Promise<void> {
    for (let done = 0; done < bytes.length; ) {
      const place = alignDown(at + done, logSectorBytes);
      let page = this.#pages.get(place);
      if (!page) {
        page = new Uint8Array(logSectorBytes);
        await this.#source.read(place, page);
        this.#pages.set(place, page);
      }
      const skip = at + done - place;
      const part = bytes.subarray(done, done + logSectorBytes - skip);
      page.set(part, skip);
      done += part.length;
    }
  }

  inOrder(): Page[] {
    return [...this.#pages].sort(([a], [b]) => a - b).map(([at, bytes]) => ({ at, bytes }));
  }
}
