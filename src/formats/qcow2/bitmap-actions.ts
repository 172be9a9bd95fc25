import { DiskError } from '../../errors.ts';
import type { ByteSource } from '../../storage/store.ts';
import type { BitmapContent, BitmapInfo, BitmapsTogether, LayerBitmaps } from '../driver.ts';
import { readBitmapDirectory } from './bitmap-directory.ts';
import { BitmapRow, usableBitmap } from './bitmap-row.ts';
import { changeBitmaps } from './bitmap-store.ts';
import { readBits } from './bitmap-table.ts';
import type { Qcow2Header } from './header.ts';
import type { Qcow2Writer } from './writer.ts';

/** The persistent bitmaps of one image (section "Bitmaps"). Messages are QEMU's. */
export class Qcow2Bitmaps implements LayerBitmaps {
  readonly #source: ByteSource;
  readonly #header: () => Qcow2Header;
  readonly #change: ((work: (writer: Qcow2Writer) => Promise<void>) => Promise<void>) | undefined;

  constructor(
    source: ByteSource,
    header: () => Qcow2Header,
    change?: (work: (writer: Qcow2Writer) => Promise<void>) => Promise<void>,
  ) {
    this.#source = source;
    this.#header = header;
    this.#change = change;
  }

  get supported(): boolean {
    return this.#header().version >= 3;
  }

  async list(): Promise<readonly BitmapInfo[]> {
    const entries = await readBitmapDirectory(this.#source, this.#header());
    return entries.map(({ name, granularityBits, auto, inUse }) => ({
      name,
      granularity: 2 ** granularityBits,
      enabled: auto,
      inconsistent: inUse,
    }));
  }

  async content(name: string): Promise<BitmapContent> {
    if (this.#change) {
      let bits: BitmapContent | undefined;
      // What was recorded so far belongs to it.
      await this.#change(async (writer) => {
        await writer.stopTracking();
        bits = await this.#read(name);
      });
      return bits!;
    }
    return this.#read(name);
  }

  async #read(name: string): Promise<BitmapContent> {
    const header = this.#header();
    const entries = await readBitmapDirectory(this.#source, header);
    return readBits(this.#source, header, usableBitmap(this.#source.name, entries, name));
  }

  add(wanted: Parameters<LayerBitmaps['add']>[0]): Promise<void> {
    return this.together((row) => row.add(wanted));
  }

  remove(name: string): Promise<void> {
    return this.together((row) => row.remove(name));
  }

  clear(name: string): Promise<void> {
    return this.together((row) => row.clear(name));
  }

  enable(name: string, enabled: boolean): Promise<void> {
    return this.together((row) => row.enable(name, enabled));
  }

  merge(name: string, from: () => Promise<BitmapContent>): Promise<void> {
    return this.together((row) => row.merge(name, from));
  }

  async together(work: (row: BitmapsTogether) => Promise<void>): Promise<void> {
    if (!this.#change) {
      throw new DiskError('read-only', 'The image was opened for reading only', { path: this.#source.name });
    }
    await this.#change(async (writer) => {
      await writer.load();
      // What was recorded up to now is stored first: a change works on what the image holds.
      await writer.stopTracking();
      let failure: { readonly error: unknown } | undefined;
      try {
        await changeBitmaps(writer, async (change, entries) => {
          const row = new BitmapRow(this.#source, this.#header(), change, entries);
          try {
            await work(row);
          } catch (error) {
            if (!row.changed) throw error;
            failure = { error };
          }
          return row.entries;
        });
      } catch (error) {
        throw failure ? failure.error : error;
      }
      if (failure) throw failure.error;
    });
  }
}
