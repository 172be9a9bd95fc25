import type { CliContext } from '../cli/context.ts';
import { CliFailure } from '../cli/failure.ts';
import { ImageArguments } from '../cli/image-arguments.ts';
import { explain, warnOfProbedRaw } from '../cli/messages.ts';
import { workingDirectory } from '../cli/process-context.ts';
import { loadSnapshot } from '../cli/snapshot-argument.ts';
import type { KeyRing } from '../crypto/luks/key-ring.ts';
import type { SnapshotSelector } from '../formats/driver.ts';
import type { Image } from '../image/image.ts';
import { openImageFile } from '../node.ts';
import { type Context, contextsOf } from './contexts.ts';
import { type DiskOptions, ServedDisk } from './disk.ts';
import { openOverlay } from './overlay.ts';
import { KeepingRing, KnownRing, type VolumeKeys, wipeKeys } from './volume-keys.ts';

/** How an export's image is opened: plain values, since threads open it anew by them. */
export interface ExportRecipe extends DiskOptions {
  readonly name: string;
  readonly description?: string;
  readonly filename: string;
  readonly format?: string;
  /** The file name is a list of options. */
  readonly imageOptions?: boolean;
  /** Texts of `--object`. */
  readonly objects?: readonly string[];
  /** What secrets among them hold, by id, in memory that threads share. */
  readonly secrets?: ReadonlyMap<string, Uint8Array>;
  /** Passphrases that were typed, by the names of the images that they open. */
  readonly keys?: ReadonlyMap<string, Uint8Array>;
  readonly untrusted?: boolean;
  /** The content of an internal snapshot is served. */
  readonly snapshot?: SnapshotSelector;
  /** Writes go to a temporary overlay: of the export, or of each session. */
  readonly overlay?: 'export' | 'session';
  readonly allocationDepth?: boolean;
  readonly bitmaps?: readonly string[];
  /** Several clients may be served at once, and what one has flushed the others see. */
  readonly multiConn?: boolean;
  /** Requests past the host's page cache, which is in use: QEMU opens no file in that way. */
  readonly nativeAioCached?: boolean;
  /** What all threads that serve it share where it is encrypted and written: `SectorGuard.newStripes`. */
  readonly stripes?: Int32Array;
  /** What they share where it is written: `FlushMemory.newWord`. */
  readonly lostFlush?: Int32Array;
  /** For threads after the first. */
  readonly volumeKeys?: VolumeKeys;
  /** Likewise: the files that the first one has open. */
  readonly files?: readonly string[];
  /** For messages. */
  readonly program: string;
}

/** What the rest of the server needs to know of an open export. */
export interface ExportFacts {
  readonly size: number;
  readonly readOnly: boolean;
  readonly contexts: readonly string[];
  /** Threads may open the image anew, each for itself, and all see the same. */
  readonly parallel: boolean;
  /** Of encrypted images, for the threads that open them after this one. */
  readonly volumeKeys: VolumeKeys;
  /** The host's files that it lies in, by device, inode and bytes. */
  readonly files: readonly string[];
  /** What the user should see, whole lines. */
  readonly warnings: string;
}

/** An export that is open on one thread. */
export class OpenExport implements AsyncDisposable {
  readonly recipe: ExportRecipe;
  readonly facts: ExportFacts;
  readonly disk: ServedDisk;
  readonly #contexts: readonly Context[];

  constructor(recipe: ExportRecipe, facts: ExportFacts, disk: ServedDisk, contexts: readonly Context[]) {
    this.recipe = recipe;
    this.facts = facts;
    this.disk = disk;
    this.#contexts = contexts;
  }

  /** The disk and contexts (by their numbers among `facts.contexts`) for one client; `end` when it has gone. */
  async session(wanted: readonly number[]): Promise<{
    readonly disk: ServedDisk;
    readonly contexts: readonly { readonly id: number; readonly context: Context }[];
    end(): Promise<void>;
  }> {
    const pick = (contexts: readonly Context[]) => wanted.map((id) => ({ id, context: contexts[id] }));
    if (this.recipe.overlay !== 'session') {
      return { disk: this.disk, contexts: pick(this.#contexts), end: async () => undefined };
    }
    const image = await openOverlay(this.disk.image);
    const disk = await ServedDisk.of(image, { ...this.recipe, readOnly: false });
    const contexts = pick(await contextsOf(disk, wantedContexts(this.recipe)));
    // The image beneath is everybody's.
    return { disk, contexts, end: async () => image.layer[Symbol.asyncDispose]() };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.disk[Symbol.asyncDispose]();
  }
}

/** Opens an export. `again`: on a further thread; the first has the locks. Throws CliFailure in qemu-nbd's words. */
export async function openExport(recipe: ExportRecipe, again = false): Promise<OpenExport> {
  const [context, warnings] = collectingContext(recipe.program);
  const keyRing = new KeepingRing();
  const found = new Set<string>();
  const image = await openRecipeImage(recipe, context, {
    keyRing: again ? new KnownRing(recipe.volumeKeys ?? keyRing.keys) : keyRing,
    again,
    found,
  });
  const files = [...found].sort();
  try {
    // Names may lead to other files by now, or a file was cut, and all clients are to be served the same.
    if (again && recipe.files && files.join() !== recipe.files.join()) {
      throw new CliFailure(`${openingFailed(recipe.filename)}it is another file by now, or of another size`);
    }
    if (recipe.offset !== undefined && recipe.offset > image.size) {
      throw new CliFailure(
        `Offset (${recipe.offset}) cannot be greater than size of the containing file (${image.size})`,
      );
    }
    const disk = await ServedDisk.of(image, recipe);
    if (recipe.nativeAioCached && disk.isLocal) {
      throw new CliFailure(
        `${openingFailed(recipe.filename)}aio=native was specified, but it requires cache.direct=on, which was not specified.`,
      );
    }
    const contexts = await contextsOf(disk, wantedContexts(recipe));
    const facts = {
      size: disk.size,
      readOnly: recipe.readOnly,
      contexts: contexts.map(({ name }) => name),
      parallel: isParallel(disk, recipe),
      volumeKeys: keyRing.keys,
      files,
      warnings: warnings(),
    };
    return new OpenExport(recipe, facts, disk, contexts);
  } catch (error) {
    wipeKeys(keyRing.keys);
    await image[Symbol.asyncDispose]();
    throw inWords(error, '');
  }
}

function wantedContexts({ allocationDepth = false, bitmaps = [] }: ExportRecipe) {
  return { allocationDepth, bitmaps };
}

async function openRecipeImage(
  recipe: ExportRecipe,
  context: CliContext,
  {
    keyRing,
    again,
    found,
  }: {
    readonly keyRing: KeyRing;
    readonly again: boolean;
    /** Gets the files that were opened. */
    readonly found: Set<string>;
  },
): Promise<Image> {
  const { filename, format, snapshot, overlay } = recipe;
  const images = new ImageArguments(context);
  images.imageOptions = recipe.imageOptions ?? false;
  images.untrusted = recipe.untrusted ?? false;
  images.objects.know(recipe.secrets ?? new Map());
  for (const text of recipe.objects ?? []) images.take('object', text);
  const writable = !recipe.readOnly && overlay === undefined;
  let image: Image;
  try {
    image = await openImageFile(images.nameOf(filename, { format }), {
      ...images.opening,
      missingKey: async (path) => {
        const key = recipe.keys?.get(path);
        return key && images.objects.keep(new Uint8Array(key));
      },
      keyRing,
      format,
      writable,
      locks: again ? 'none' : 'take',
      // As QEMU's exports do: clients were told a size.
      keepSize: true,
      onFile: ({ device, inode, size }) => found.add(`${device}:${inode}:${size}`),
    });
  } catch (error) {
    throw inWords(error, openingFailed(filename));
  } finally {
    images.objects.wipe();
  }
  if (writable && image.probed && image.layer.format === 'raw')
    warnOfProbedRaw(context, image.filename ?? filename);
  try {
    if (snapshot !== undefined) await loadSnapshot([image], snapshot);
    return overlay === 'export' ? await openOverlay(image) : image;
  } catch (error) {
    await image[Symbol.asyncDispose]();
    throw inWords(error, '');
  }
}

/** What a message of an image that could not be opened begins with. */
export function openingFailed(filename: string): string {
  return `Failed to blk_new_open '${filename}': `;
}

/** Whether every thread may have a view of its own: nobody changes it, or each byte has its place for good. */
function isParallel(disk: ServedDisk, { readOnly, overlay, filename, imageOptions }: ExportRecipe): boolean {
  if (overlay === 'export' || !disk.isLocal) return false;
  // Nodes of their own beneath a data file or a header: each thread would have its own, and one may write.
  if ((imageOptions || filename.startsWith('json:')) && /\b(data-file|header)\b/.test(filename)) return false;
  if (readOnly || overlay === 'session') return true;
  const { layer, probed } = disk.image;
  // A file that a write makes longer has one size in this view and another in the next.
  if (layer.format === 'raw') return layer.flat !== undefined && !probed && layer.source.size >= layer.size;
  return layer.format === 'luks' && disk.encryptedWhole;
}

function inWords(error: unknown, before: string): CliFailure {
  if (error instanceof CliFailure && before === '') return error;
  const { text, hint } = explain(error);
  return new CliFailure(before + text, { hint, cause: error });
}

/** A context for code of the command line that may run on any thread: what it says is gathered. */
function collectingContext(program: string): [CliContext, () => string] {
  let text = '';
  const stream = {
    write(part: string | Uint8Array) {
      text += typeof part === 'string' ? part : new TextDecoder().decode(part);
    },
    isTTY: false,
    columns: 80,
  };
  const context: CliContext = {
    program,
    stdout: stream,
    stderr: stream,
    stdin: process.stdin,
    env: process.env,
    cwd: workingDirectory(),
    signal: new AbortController().signal,
    onProgressSignal: () => () => undefined,
    now: () => Date.now(),
  };
  return [context, () => text];
}
