import { createHash } from 'node:crypto';
import { dirname, extname } from 'node:path';
import type { ApplianceDisk } from '../../appliance/appliance.ts';
import { type DigestName, type ManifestLine, parseManifest } from '../../appliance/manifest.ts';
import { readTarStream, type TarMember } from '../../appliance/tar-stream.ts';
import { SequentialReader } from '../../bytes/sequential-reader.ts';
import { compressionOf } from '../../codecs/compression.ts';
import { DiskError } from '../../errors.ts';
import { passableStream, passStream, streamHeadBytes } from '../../formats/vmdk/stream-pass.ts';
import type { ImageTarget } from '../../node.ts';
import { unpackStream } from '../../platform/unpack-stream.ts';
import { openUnnamedFile, spoolStream } from '../../storage/file-unpacked.ts';
import type { ByteSource } from '../../storage/store.ts';
import { copyToQcow2, makeQcow2 } from './copy-disk.ts';
import { assertDigest } from './digest.ts';
import { assertCapacity, assertFileSize, assertWholeDisk } from './disk-size.ts';
import {
  type ImportOptions,
  type ImportPlan,
  makeEmptyDisk,
  makeMachine,
  openDiskFile,
  vouchesFor,
} from './import-appliance.ts';
import { assertTextSize, decodeText, maxTextBytes, missing, namesOf } from './package.ts';

/*
 * An archive that comes through a pipe, or packed: the descriptor first, as DSP0243 has it, then the disks in any order,
 * and the manifest before or behind them. Each disk is written aside as it comes, and each file's digest is taken on the way.
 * Only when the archive has ended, and all that the manifest says is so, does anything take its place.
 */

const saveIt = 'save it to a file, unpacked, and import that';
const allDigests: readonly DigestName[] = ['SHA1', 'SHA256', 'SHA512'];

/** An appliance's archive that is read once, from front to end. */
export class ApplianceStream implements AsyncDisposable {
  readonly path: string;
  readonly #members: AsyncGenerator<TarMember, void, undefined>;
  #descriptor: { readonly name: string; readonly text: string } | undefined;
  #manifest: { readonly name: string; readonly lines: readonly ManifestLine[] } | undefined;
  #signed = false;
  /** Of files that have passed, by name and algorithm. */
  readonly #digests = new Map<string, ReadonlyMap<DigestName, string>>();

  private constructor(reader: SequentialReader, path: string) {
    this.path = path;
    this.#members = readTarStream(reader.rest(), path);
  }

  /** Reads as far as the descriptor. Throws as `readTarStream` does, and `unsupported` where a disk comes before it. */
  static async open(reader: SequentialReader, path: string): Promise<ApplianceStream> {
    const stream = new ApplianceStream(reader, path);
    try {
      while (!stream.#descriptor) {
        const member = await stream.#next();
        if (!member) {
          const message = `There is no OVF descriptor in '${path}'`;
          throw new DiskError('not-found', message, { path, field: 'descriptor' });
        }
        if (!(await stream.#takeText(member))) {
          throw beforeDescriptor(member.name, path);
        }
      }
      return stream;
    } catch (error) {
      await stream[Symbol.asyncDispose]();
      throw error;
    }
  }

  get descriptor(): { readonly name: string; readonly text: string } {
    return this.#descriptor!;
  }

  /** Makes the machine. Answers whether a manifest has vouched for it. */
  async import(plan: ImportPlan, options: ImportOptions): Promise<boolean> {
    const wanted = this.#wanted(plan);
    let vouches = false;
    await makeMachine(plan, options.domainType, async (targets) => {
      for (let member = await this.#next(); member; member = await this.#next()) {
        const index = wanted.get(member.name);
        if (index === undefined) {
          await this.#takeText(member);
          continue;
        }
        const file = plan.appliance.disks[index].file!;
        // The manifest may mean the one that was not taken.
        if (targets.has(index)) throw twice(file.href, this.path);
        assertFileSize(file, member.size, this.path, options);
        const onBytes = (done: number) => options.onCopy?.(index, done, member!.size);
        await this.#take(member, onBytes, async (reader) => {
          const disk = plan.appliance.disks[index];
          targets.set(index, await importDisk(reader, disk, plan.paths[index], this.path, options));
        });
      }
      this.#assertWhole();
      for (const [index, disk] of plan.appliance.disks.entries()) {
        if (targets.has(index)) continue;
        if (disk.file) throw missing(this.path, disk.file.href);
        targets.set(index, await makeEmptyDisk(this.path, disk, plan.paths[index], options));
      }
      const { descriptor } = this;
      const facts = { descriptor, manifest: this.#manifest, signed: this.#signed };
      vouches = vouchesFor(facts, plan.appliance, options.onWarning);
    });
    return vouches;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#members.return();
  }

  async #next(): Promise<TarMember | undefined> {
    return (await this.#members.next()).value ?? undefined;
  }

  /** Disks by the files that they come in. */
  #wanted({ appliance }: ImportPlan): ReadonlyMap<string, number> {
    const wanted = new Map<string, number>();
    for (const [index, { file }] of appliance.disks.entries()) {
      if (!file) continue;
      for (const name of namesOf(file.href, this.descriptor)) {
        if (this.#digests.has(name)) throw beforeDescriptor(name, this.path);
        if (wanted.has(name)) {
          throw new DiskError(
            'unsupported',
            `'${file.href}' is two disks of the machine: it cannot be read once, from front to end`,
            { path: this.path, field: 'href', detail: { fix: saveIt } },
          );
        }
        wanted.set(name, index);
      }
    }
    return wanted;
  }

  /** Takes a descriptor, a manifest or a signature; passes over any other file and answers false. */
  async #takeText(member: TarMember): Promise<boolean> {
    const { name, size } = member;
    const kind = extname(name).toLowerCase();
    const text = async (reader: SequentialReader) => {
      assertTextSize(size, name);
      return decodeText(await reader.take(size), name);
    };
    if (kind === '.ovf') {
      if (this.#descriptor) {
        throw new DiskError('bad-argument', `There is more than one OVF descriptor in '${this.path}'`, {
          path: this.path,
          field: 'descriptor',
        });
      }
      await this.#take(member, undefined, async (reader) => {
        this.#descriptor = { name, text: await text(reader) };
      });
    } else if (kind === '.mf' && !this.#manifest) {
      const lines = parseManifest(await text(new SequentialReader(member.content)), this.path);
      this.#manifest = { name, lines };
      for (const line of lines) this.#assertLine(line);
    } else {
      this.#signed ||= kind === '.cert';
      // Before the descriptor, any other file may be a disk; what is short costs little to find that out later.
      if (!this.#descriptor && size > maxTextBytes) return false;
      await this.#take(member, undefined, async () => undefined);
    }
    return true;
  }

  /** Has `use` read a file, and passes over what it leaves; takes its digest, and compares it where that is known. */
  async #take(
    member: TarMember,
    onBytes: ((done: number) => void) | undefined,
    use: (reader: SequentialReader) => Promise<void>,
  ): Promise<void> {
    const manifest = this.#manifest;
    const lines = manifest?.lines.filter(({ file }) => namesOf(file, manifest).includes(member.name));
    const algorithms = lines ? [...new Set(lines.map(({ algorithm }) => algorithm))] : allDigests;
    const hashes = new Map(algorithms.map((name) => [name, createHash(name.toLowerCase())] as const));
    const hashed = async function* () {
      let done = 0;
      for await (const piece of member.content) {
        for (const hash of hashes.values()) hash.update(piece);
        done += piece.length;
        yield piece;
        onBytes?.(done);
      }
    };
    const reader = new SequentialReader(hashed());
    await use(reader);
    while (await reader.next());
    const digests = new Map([...hashes].map(([name, hash]) => [name, hash.digest('hex')] as const));
    this.#digests.set(member.name, digests);
    for (const line of lines ?? []) this.#assertLine(line);
  }

  /** Throws `corrupt` where a file that has passed is not what the line says. */
  #assertLine(line: ManifestLine): void {
    const name = namesOf(line.file, this.#manifest!).find((each) => this.#digests.has(each));
    const digest = name === undefined ? undefined : this.#digests.get(name)?.get(line.algorithm);
    if (digest !== undefined) assertDigest(line, digest, this.path);
  }

  /** Throws where a file of the manifest has not come. */
  #assertWhole(): void {
    const manifest = this.#manifest;
    for (const { file } of manifest?.lines ?? []) {
      if (!namesOf(file, manifest!).some((name) => this.#digests.has(name))) throw missing(this.path, file);
    }
  }
}

async function importDisk(
  packed: SequentialReader,
  disk: ApplianceDisk,
  path: string,
  archive: string,
  options: ImportOptions,
): Promise<ImageTarget> {
  const { href, gzip } = disk.file!;
  const compression = gzip ? 'gzip' : compressionOf(await packed.peek(16));
  if (!compression) return takeDisk(packed, disk, path, archive, options);
  const reader = new SequentialReader(unpackStream(compression, packed.rest(), href));
  try {
    return await takeDisk(reader, disk, path, archive, options);
  } finally {
    await reader.close();
  }
}

async function takeDisk(
  reader: SequentialReader,
  disk: ApplianceDisk,
  path: string,
  archive: string,
  options: ImportOptions,
): Promise<ImageTarget> {
  const { href } = disk.file!;
  const { signal, onWarning } = options;
  const header = passableStream(await reader.peek(streamHeadBytes), href);
  if (header) {
    assertCapacity(disk, { size: header.capacity, format: 'vmdk' }, archive, options);
    await using metadata = await openUnnamedFile(dirname(path), href);
    return await makeQcow2(path, header.capacity, signal, (made) =>
      passStream(reader, header, {
        path: href,
        metadata,
        write: (offset, bytes) => made.write(offset, bytes),
      }),
    );
  }
  onWarning(`'${href}' is no stream-optimized VMDK: it is saved to a file without a name first`);
  const file = await spoolStream(reader.rest(), dirname(path), href);
  const openExtent = (name: string): Promise<ByteSource> => {
    const message = `'${href}' has its data in '${name}': such a disk cannot be imported while it is read`;
    return Promise.reject(
      new DiskError('unsupported', message, { path: archive, field: 'extent', detail: { fix: saveIt } }),
    );
  };
  await using image = await openDiskFile(file, { href, path: archive, signal, openExtent });
  await assertWholeDisk(image, disk, archive, options);
  return await copyToQcow2(path, image.size, image, { signal });
}

function twice(href: string, path: string): DiskError {
  return new DiskError('corrupt', `The archive holds '${href}' twice`, {
    path,
    field: 'href',
    detail: { fix: 'have it exported or download it again' },
  });
}

function beforeDescriptor(name: string, path: string): DiskError {
  return new DiskError(
    'unsupported',
    `'${name}' comes before the OVF descriptor: such an archive cannot be imported while it is read`,
    { path, field: 'descriptor', detail: { fix: saveIt } },
  );
}
