import { readdir, readFile, writeFile } from 'node:fs/promises';
import { type BackingReference, type CreateContext, isWritable } from '../../src/formats/driver.ts';
import type { Image } from '../../src/image/image.ts';
import { createImage, openImage } from '../../src/image/open.ts';
import { openFileStore } from '../../src/node.ts';
import { MemoryStore } from '../../src/storage/memory.ts';
import type { ByteStore } from '../../src/storage/store.ts';
import { tempDir } from '../support/programs.ts';
import { type Subject, secret, subjects } from './subjects.ts';

/** Named stores of one kind, in which images and their backing images live. */
export interface World extends AsyncDisposable {
  /** Opens what was stored under the name, or a new empty store. */
  open(name: string, writable: boolean): Promise<ByteStore>;
  bytesOf(name: string): Promise<Uint8Array>;
  names(): Promise<readonly string[]>;
}

export interface WorldKind {
  readonly name: string;
  make(): Promise<World>;
}

export const worldKinds: readonly WorldKind[] = [
  { name: 'memory', make: async () => new MemoryWorld() },
  { name: 'files', make: makeFileWorld },
];

class MemoryWorld implements World {
  readonly #stores = new Map<string, MemoryStore>();

  async open(name: string): Promise<ByteStore> {
    const store = this.#stores.get(name) ?? new MemoryStore({ name });
    this.#stores.set(name, store);
    return store;
  }

  async bytesOf(name: string): Promise<Uint8Array> {
    return this.#stores.get(name)!.toBytes();
  }

  async names(): Promise<readonly string[]> {
    return [...this.#stores.keys()];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stores.clear();
  }
}

async function makeFileWorld(): Promise<World> {
  const dir = await tempDir('cowherd-contract-');
  return {
    async open(name, writable) {
      if (writable) await writeFile(dir.file(name), '', { flag: 'a' });
      return openFileStore(dir.file(name), { writable });
    },
    bytesOf: (name) => readFile(dir.file(name)),
    names: () => readdir(dir.path),
    [Symbol.asyncDispose]: () => dir.remove(),
  };
}

/** Creates an image of the subject under `name`. */
export async function createIn(
  world: World,
  name: string,
  subject: Subject,
  size: number,
  backing?: BackingReference,
): Promise<void> {
  await using store = await world.open(name, true);
  const extents: ByteStore[] = [];
  await createSubject(store, subject, size, {
    backing,
    name,
    async sibling(extent) {
      const made = await world.open(extent, true);
      extents.push(made);
      return made;
    },
    openBacking: backing && (() => world.open(backing.path, false)),
  });
  for (const extent of extents) await extent[Symbol.asyncDispose]();
}

/** Lays an image of the subject into `store`. What a format leaves undefined is zeroes then. */
export async function createSubject(
  store: ByteStore,
  subject: Subject,
  size: number,
  context: CreateContext = {},
): Promise<void> {
  const { driver, opening } = subject;
  await createImage(store, driver.name, size, subject.options, { ...context, secret });
  if (!driver.startsUndefined) return;
  const layer = await driver.open(store, { writable: true, options: opening, secret });
  if (isWritable(layer) && size > 0) await (await layer.reserve(0, size)).store.zero(0, size);
}

/** Opens an image and what it stands on. */
export async function openIn(world: World, name: string, subject: Subject, writable = true): Promise<Image> {
  return openImage(await world.open(name, writable), {
    format: subject.driver.name,
    writable,
    layerOptions: subject.opening,
    secret,
    resolve: async ({ path }, from) => ({
      source: await world.open(path.replace(/^\.\//, ''), from.writable),
      // Every encrypted image of the world has the same secret.
      layerOptions: (format) => subjects.find(({ driver }) => driver.name === format)?.opening ?? {},
    }),
  });
}
