import { guidText, randomGuid } from '../../bytes/guid.ts';
import type { ByteStore } from '../../storage/store.ts';
import { headerOffsets, logSectorBytes, zeroGuid } from './constants.ts';
import { encodeHeader, type FoundHeader, type Header } from './header.ts';
import { encodeEntry, pagesPerEntry } from './log.ts';

/** Log sectors' worth of the file's tables, to be written at `at`. */
export interface Page {
  readonly at: number;
  readonly bytes: Uint8Array;
}

/** So many pages an entry: it is built in memory. */
const maxPages = 1024;

/**
 * Changes of headers and tables that a power cut leaves done or not done.
 *
 * Headers: the copy that is not current is written with the next number, and then is the current one. Tables: the pages
 * go into the log under a new identifier, durably; the header then names it; the pages are written in their places,
 * durably; and the header says that the log is empty. So a log that a header names is always whole, and a file
 * that nobody works on has none.
 */
export class Journal {
  readonly #store: ByteStore;
  #found: FoundHeader;
  #sequence = 0n;
  /** What the log that the header names holds, while not all of it is known to be in its place. */
  #pending: readonly Page[] | undefined;

  constructor(store: ByteStore, found: FoundHeader) {
    this.#store = store;
    this.#found = found;
  }

  get found(): FoundHeader {
    return this.#found;
  }

  /** Writes a header with these fields changed, durably. */
  async update(change: Partial<Pick<Header, 'logId' | 'fileWriteId' | 'dataWriteId'>>): Promise<void> {
    const { header, index } = this.#found;
    const next = { ...header, ...change, sequence: BigInt.asUintN(64, header.sequence + 1n) };
    const other = index === 0 ? 1 : 0;
    await this.#store.write(headerOffsets[other], encodeHeader(next));
    await this.#store.flush();
    this.#found = { header: next, index: other, sound: [true, true] };
  }

  /**
   * Brings to its end what a failed write left in the log: only then is the log free, and the tables in the file are what
   * new pages may be made of.
   */
  async settle(): Promise<void> {
    if (!this.#pending) return;
    await this.#writeInPlace(this.#pending);
    await this.update({ logId: zeroGuid });
    this.#pending = undefined;
  }

  /**
   * Writes pages in their places, in order, through the log. What they refer to must be durable already, and nothing left
   * to settle when they were made.
   */
  async write(pages: readonly Page[]): Promise<void> {
    const { logLength } = this.#found.header;
    const most = Math.min(maxPages, pagesPerEntry(logLength));
    if (most === 0) {
      // No log to speak of. An entry of a table is never torn, since it lies within a sector.
      await this.#writeInPlace(pages);
      return;
    }
    for (let done = 0; done < pages.length; done += most)
      await this.#writeLogged(pages.slice(done, done + most));
  }

  async #writeLogged(pages: readonly Page[]): Promise<void> {
    const { logOffset } = this.#found.header;
    const logId = guidText(randomGuid());
    const entry = encodeEntry({
      logId,
      sequence: ++this.#sequence,
      at: 0,
      fileSize: this.#store.size,
      pages,
    });
    await this.#store.write(logOffset, entry);
    await this.#store.flush();
    await this.update({ logId });
    this.#pending = pages;
    await this.settle();
  }

  async #writeInPlace(pages: readonly Page[]): Promise<void> {
    for (const { at, bytes } of joined(pages)) await this.#store.write(at, bytes);
    await this.#store.flush();
  }
}

/** Neighbouring pages as one. */
function joined(pages: readonly Page[]): Page[] {
  const result: Page[] = [];
  for (let index = 0; index < pages.length; ) {
    let count = 1;
    while (pages[index + count]?.at === pages[index].at + count * logSectorBytes) count++;
    if (count === 1) result.push(pages[index]);
    else {
      const bytes = new Uint8Array(count * logSectorBytes);
      for (let page = 0; page < count; page++) bytes.set(pages[index + page].bytes, page * logSectorBytes);
      result.push({ at: pages[index].at, bytes });
    }
    index += count;
  }
  return result;
}
