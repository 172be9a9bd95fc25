import { SequentialReader } from '../bytes/sequential-reader.ts';
import { DiskError } from '../errors.ts';
import { TarWalk, tarBlock, tarPadded } from './tar.ts';

/** A regular file of an archive that is read from front to end. */
export interface TarMember {
  readonly name: string;
  /** Bytes. */
  readonly size: number;
  /** To be read before the next member is asked for; what is left of it then is passed over. Throws `corrupt`. */
  readonly content: AsyncIterable<Uint8Array>;
}

/**
 * The regular files of an archive in their order, in one pass to the stream's end. Throws as `TarWalk` does, and
 * `corrupt` where the stream ends before the archive's end mark.
 */
export async function* readTarStream(
  chunks: AsyncIterable<Uint8Array>,
  path: string,
): AsyncGenerator<TarMember, void, undefined> {
  const reader = new SequentialReader(chunks);
  try {
    yield* membersOf(reader, path);
    // What packs the archive has its checksum behind the archive's padding.
    while (await reader.next());
  } finally {
    await reader.close();
  }
}

async function* membersOf(
  reader: SequentialReader,
  path: string,
): AsyncGenerator<TarMember, void, undefined> {
  const walk = new TarWalk(path);
  for (let ended = false; ; ) {
    const at = reader.position;
    const block = await reader.take(tarBlock);
    // Some writers end with a single block of zeroes.
    if (ended && block.length === 0) return;
    if (block.length < tarBlock) {
      const message = `The tar archive ends at byte ${reader.position}, without an end mark: it was cut short`;
      throw new DiskError('corrupt', message, { path, offset: reader.position, field: 'tar' });
    }
    const step = walk.header(block, at);
    if (step.kind === 'end') return;
    ended = step.kind === 'zero';
    if (step.kind === 'zero') continue;
    const { size } = step;
    const padded = tarPadded(size);
    const begin = reader.position;
    if (step.kind === 'file') {
      yield { name: step.name, size, content: contentOf(reader, begin + size, () => walk.cutShort(at)) };
    } else if (step.kind === 'extra' && step.useful) {
      const bytes = await reader.take(size);
      if (bytes.length < size) throw walk.cutShort(at);
      walk.extra(step.type, bytes, begin);
    }
    while (reader.position < begin + padded) {
      if (!(await reader.next(begin + padded - reader.position))) throw walk.cutShort(at);
    }
  }
}

async function* contentOf(
  reader: SequentialReader,
  end: number,
  cutShort: () => DiskError,
): AsyncGenerator<Uint8Array, void, undefined> {
  while (reader.position < end) {
    const piece = await reader.next(end - reader.position);
    if (!piece) throw cutShort();
    yield piece;
  }
}
