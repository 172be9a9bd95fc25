import { readFile, writeFile } from 'node:fs/promises';
import { alignDown, alignUp } from '../../src/bytes/numbers.ts';
import { isWritable } from '../../src/formats/driver.ts';
import { qcow2 } from '../../src/formats/qcow2/index.ts';
import type { Image } from '../../src/image/image.ts';
import { openImage } from '../../src/image/open.ts';
import { openFileStore } from '../../src/storage/file.ts';
import type { ByteStore } from '../../src/storage/store.ts';
import { mustRun, type RunOptions, type TempDir } from './programs.ts';

/*
 * The life of a qcow2 image: steps that we, qemu-io and qemu-img take in turn. A plain array of bytes is the model; in
 * the end qemu-img reads the image back, and checks it.
 */

export interface Shape {
  readonly clusterBits: number;
  readonly compat: '0.10' | '1.1';
  readonly refcountBits: number;
  readonly lazy: boolean;
  readonly extendedL2: boolean;
  readonly zstd: boolean;
  readonly backing: 'none' | 'raw' | 'qcow2';
  /** LUKS. */
  readonly encrypted: boolean;
  /** No snapshots, nothing packed. */
  readonly dataFile: 'none' | 'plain' | 'raw';
}

const luks = {
  'encrypt.format': 'luks',
  'encrypt.key-secret': 's',
  'encrypt.iter-time': 0,
  'encrypt.cipher-alg': 'aes-128',
};
const passphrase = 'correct horse';
const secret = async (): Promise<Uint8Array> => new TextEncoder().encode(passphrase);

export type Step =
  | {
      readonly kind: 'write' | 'qemu-write';
      readonly at: number;
      readonly length: number;
      readonly fill: number;
    }
  | { readonly kind: 'zero' | 'unmap' | 'discard'; readonly at: number; readonly length: number }
  | {
      readonly kind: 'qemu-zero' | 'qemu-unmap' | 'qemu-discard';
      readonly at: number;
      readonly length: number;
    }
  | { readonly kind: 'pack'; readonly at: number; readonly clusters: number; readonly fill: number }
  | { readonly kind: 'grow' | 'shrink' | 'qemu-grow'; readonly by: number }
  | { readonly kind: PlainStep };

export type PlainStep = 'flush' | 'reopen' | SnapshotStep | `qemu-${SnapshotStep}`;
type SnapshotStep = 'snapshot' | 'apply' | 'drop';

export const maxBytes = 600 * 1024;
export const sector = 512;

function noise(bytes: Uint8Array, seed: number): void {
  let state = seed * 2654435761;
  for (let at = 0; at < bytes.length; at++) {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    bytes[at] = state >>> 24;
  }
}

export class Life {
  readonly file: string;
  readonly #folder: TempDir;
  readonly #shape: Shape;
  readonly #clusterSize: number;
  /** What our discards give up whole pieces of. */
  readonly #grain: number;
  model: Uint8Array;
  #base = new Uint8Array(0);
  #snapshots: { readonly name: string; readonly model: Uint8Array }[] = [];
  #names = 0;
  #packed = false;
  #image: Image | undefined;

  constructor(folder: TempDir, shape: Shape, size: number) {
    this.#folder = folder;
    this.file = folder.file('life.qcow2');
    this.#shape = shape;
    this.#clusterSize = 2 ** shape.clusterBits;
    this.#grain = shape.extendedL2 ? this.#clusterSize / 32 : this.#clusterSize;
    this.model = new Uint8Array(size);
  }

  async create(baseSize: number): Promise<void> {
    const { backing, clusterBits, compat, refcountBits, lazy, extendedL2, zstd, encrypted, dataFile } =
      this.#shape;
    if (backing !== 'none') {
      this.#base = new Uint8Array(baseSize);
      noise(this.#base, 7);
      this.#base.fill(0, Math.floor(baseSize / 3), Math.floor(baseSize / 2));
      await writeFile(this.#folder.file('base.raw'), this.#base);
      if (backing === 'qcow2') {
        const args = [
          'convert',
          '-f',
          'raw',
          '-O',
          'qcow2',
          this.#folder.file('base.raw'),
          this.#folder.file('base.qcow2'),
        ];
        await mustRun('qemu-img', args);
      }
      this.model.set(this.#base.subarray(0, Math.min(baseSize, this.model.length)));
    }
    await using store = await openFileStore(this.file, { writable: true, create: 'truncate' });
    const options = {
      cluster_size: 2 ** clusterBits,
      compat,
      refcount_bits: refcountBits,
      lazy_refcounts: lazy,
      extended_l2: extendedL2,
      compression_type: zstd ? 'zstd' : 'zlib',
      ...(encrypted && luks),
      ...(dataFile !== 'none' && { data_file: 'life.data', data_file_raw: dataFile === 'raw' }),
    };
    const reference = backing === 'none' ? undefined : { path: `base.${backing}`, format: backing };
    let data: ByteStore | undefined;
    const sibling = async (name: string) => {
      data = await openFileStore(this.#folder.file(name), { writable: true, create: 'truncate' });
      return data;
    };
    await qcow2.create!(store, this.model.length, options, { backing: reference, sibling, secret });
    await data?.[Symbol.asyncDispose]();
  }

  async image(): Promise<Image> {
    this.#image ??= await openImage(await openFileStore(this.file, { writable: true }), {
      format: 'qcow2',
      writable: true,
      layerOptions: this.#shape.encrypted ? { 'encrypt.key-secret': 's' } : {},
      secret,
      resolve: ({ path }, { writable }) => openFileStore(this.#folder.file(path), { writable }),
    });
    return this.#image;
  }

  async close(): Promise<void> {
    const image = this.#image;
    this.#image = undefined;
    await image?.[Symbol.asyncDispose]();
  }

  #range(at: number, length: number, unit = 1): readonly [number, number] {
    const from = alignDown(Math.floor(at * this.model.length), unit);
    return [from, Math.min(alignUp(length, unit), this.model.length - from)];
  }

  async #qemuIo(...commands: string[]): Promise<void> {
    await this.close();
    const args = commands.flatMap((command) => ['-c', command]);
    await mustRun('qemu-io', ['-d', 'unmap', ...args, ...this.#named], this.#there);
  }

  async #qemuImg(verb: string, args: readonly string[], ...after: string[]): Promise<void> {
    await mustRun('qemu-img', [verb, ...args, ...this.#named, ...after], this.#there);
  }

  /** QEMU looks for a data file in the working directory where options are given. */
  get #there(): RunOptions {
    return { cwd: this.#folder.path };
  }

  /** The image's name as QEMU's programs take it. */
  get #named(): string[] {
    const { encrypted, dataFile } = this.#shape;
    const key = encrypted ? ',encrypt.key-secret=s' : '';
    const data = dataFile === 'none' ? '' : ',data-file.filename=life.data';
    const name = `driver=qcow2,file.filename=life.qcow2${key}${data}`;
    return ['--object', `secret,id=s,data=${passphrase}`, '--image-opts', name];
  }

  /** What a discard of these bytes zeroes: whole units inside, where the version can say so. */
  #discarded(from: number, length: number, unit: number): void {
    if (this.#shape.compat === '0.10' && this.#shape.backing !== 'none') return;
    const end = from + length;
    const first = alignUp(from, unit);
    const last = end === this.model.length ? end : alignDown(end, unit);
    if (first < last) this.model.fill(0, first, last);
  }

  #resized(size: number): void {
    const model = new Uint8Array(size);
    model.set(this.model.subarray(0, size));
    // A backing file that is longer than the overlay was shines through where the overlay grows.
    this.model = model;
  }

  async take(step: Step): Promise<void> {
    switch (step.kind) {
      case 'write': {
        const [from, length] = this.#range(step.at, step.length);
        const data = new Uint8Array(length);
        if (step.fill < 128) noise(data, step.fill);
        else data.fill(step.fill);
        const image = await this.image();
        // Half of them over what is there, where that can be told at once: as cow-nbd writes.
        const place = step.fill % 2 === 1 ? image.placeNow?.(from, length) : undefined;
        if (place && !place.store.encrypted) await place.store.write(place.at, data);
        else await image.write(from, data);
        this.model.set(data, from);
        return;
      }
      case 'qemu-write': {
        const [from, length] = this.#range(step.at, step.length, sector);
        await this.#qemuIo(`write -P ${step.fill} ${from} ${length}`);
        this.model.fill(step.fill, from, from + length);
        return;
      }
      case 'zero':
      case 'unmap': {
        const [from, length] = this.#range(step.at, step.length);
        await (await this.image()).zero(from, length, { unmap: step.kind === 'unmap' });
        this.model.fill(0, from, from + length);
        return;
      }
      case 'qemu-zero':
      case 'qemu-unmap': {
        const [from, length] = this.#range(step.at, step.length, sector);
        await this.#qemuIo(`write -z ${step.kind === 'qemu-unmap' ? '-u ' : ''}${from} ${length}`);
        this.model.fill(0, from, from + length);
        return;
      }
      case 'discard': {
        const [from, length] = this.#range(step.at, step.length);
        await (await this.image()).discard(from, length);
        this.#discarded(from, length, this.#grain);
        return;
      }
      case 'qemu-discard': {
        if (this.#shape.compat === '0.10' && this.#shape.backing !== 'none') return;
        const [from, length] = this.#range(step.at, step.length, sector);
        await this.#qemuIo(`discard ${from} ${length}`);
        this.#discarded(from, length, this.#clusterSize);
        return;
      }
      case 'pack': {
        const image = await this.image();
        if (!isWritable(image.layer) || !image.layer.pack || this.#shape.dataFile !== 'none') return;
        this.#packed = true;
        const first = alignDown(Math.floor(step.at * this.model.length), this.#clusterSize);
        const work: Promise<void>[] = [];
        for (let n = 0; n < step.clusters; n++) {
          const from = first + n * this.#clusterSize;
          if (from >= this.model.length) break;
          const data = new Uint8Array(Math.min(this.#clusterSize, this.model.length - from)).fill(step.fill);
          noise(data.subarray(0, data.length >> (n % 4)), step.fill + n);
          work.push(image.writePacked(from, data));
          this.model.set(data, from);
        }
        await Promise.all(work);
        return;
      }
      case 'grow':
      case 'qemu-grow': {
        const size = Math.min(maxBytes, this.model.length + step.by * sector);
        if (this.#snapshots.length > 0 && this.#shape.compat === '0.10') return;
        const hides = this.#base.length > this.model.length;
        if (hides && this.#shape.compat === '0.10') return;
        // QEMU cannot zero a part of a packed cluster.
        if (hides && this.#shape.extendedL2 && step.kind === 'qemu-grow') return;
        if (step.kind === 'grow') await (await this.image()).resize(size);
        else {
          await this.close();
          await this.#qemuImg('resize', ['-q'], String(size));
        }
        this.#resized(size);
        return;
      }
      case 'shrink': {
        const size = Math.max(sector, this.model.length - step.by * sector);
        if (this.#snapshots.length > 0 && this.#shape.compat === '0.10') return;
        await (await this.image()).resize(size);
        this.#resized(size);
        return;
      }
      case 'snapshot':
      case 'qemu-snapshot': {
        if (this.#shape.refcountBits === 1 || this.#shape.dataFile !== 'none') return;
        // Packed clusters that share a host cluster count a reference each: soon there is none left for a snapshot.
        if (this.#shape.refcountBits < 8 && this.#packed) return;
        if (this.#shape.refcountBits === 2 && this.#snapshots.length >= 2) return;
        const name = `s${++this.#names}`;
        await this.#snapshotVerb(step.kind, '-c', name);
        this.#snapshots.push({ name, model: this.model.slice() });
        return;
      }
      case 'apply':
      case 'qemu-apply': {
        const snapshot = this.#snapshots.at(-1);
        if (!snapshot) return;
        await this.#snapshotVerb(step.kind, '-a', snapshot.name);
        this.model = snapshot.model.slice();
        return;
      }
      case 'drop':
      case 'qemu-drop': {
        const snapshot = this.#snapshots.shift();
        if (snapshot) await this.#snapshotVerb(step.kind, '-d', snapshot.name);
        return;
      }
      case 'flush':
        await (await this.image()).flush();
        return;
      case 'reopen':
        await this.close();
        return;
    }
  }

  async #snapshotVerb(kind: PlainStep, option: '-c' | '-a' | '-d', name: string): Promise<void> {
    if (kind.startsWith('qemu-')) {
      await this.close();
      await this.#qemuImg('snapshot', ['-q', option, name]);
      return;
    }
    const image = await this.image();
    const { layer } = image;
    if (!isWritable(layer)) throw new Error('The image is not writable');
    await image.exclusively(async () => {
      if (option === '-c') await layer.createSnapshot!({ name, dateSeconds: 1, dateNanoseconds: 0 });
      else if (option === '-a') await layer.applySnapshot!({ name });
      else await layer.deleteSnapshot!({ name });
    });
  }

  /** We read it back, qemu-img reads it back, and qemu-img check has nothing to say. */
  async judge(): Promise<void> {
    const image = await this.image();
    if (image.size !== this.model.length) throw new Error(`The image has ${image.size} bytes`);
    const read = new Uint8Array(this.model.length);
    await image.read(0, read);
    expectSame(read, this.model, 'our reading');
    await this.close();
    const raw = this.#folder.file('read.raw');
    await this.#qemuImg('check', ['-q']);
    await this.#qemuImg('convert', ['-O', 'raw'], raw);
    expectSame(await readFile(raw), this.model, "qemu-img's reading");
    if (this.#shape.dataFile === 'raw') {
      const file = await readFile(this.#folder.file('life.data'));
      expectSame(file.subarray(0, this.model.length), this.model, 'the raw data file');
    }
    for (const { name, model } of this.#snapshots) {
      await this.#qemuImg('convert', ['-O', 'raw', '-l', `snapshot.name=${name}`], raw);
      // qemu-img shows a snapshot by the size that the image has now.
      const there = Math.min(model.length, this.model.length);
      const found = (await readFile(raw)).subarray(0, there);
      expectSame(found, model.subarray(0, there), `snapshot ${name}`);
    }
  }
}

function expectSame(a: Uint8Array, b: Uint8Array, what: string): void {
  if (a.length === b.length && Buffer.compare(a, b) === 0) return;
  const at = a.findIndex((byte, index) => byte !== b[index]);
  throw new Error(`${what} differs at ${at}: ${a[at]} for ${b[at]} (lengths ${a.length}, ${b.length})`);
}
