import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { expectSame } from '../contract/model.ts';
import { mustRun, run, type TempDir, tempDir } from '../support/programs.ts';
import { cow, fileOf, kinds, long, openKind, optionsOf, qemuIsThere } from './kinds.ts';

const piece = 65536;
const size = 3 * 2 ** 40;

describe.skipIf(!qemuIsThere)('a disk of 3 TiB', () => {
  let dir: TempDir;
  beforeEach(async () => {
    dir = await tempDir('cowherd-huge-');
  });
  afterEach(() => dir.remove());

  // A split one has 1536 files.
  it.each(kinds.filter(({ split }) => long || !split))('is the same to both as $name', async (kind) => {
    const { path: cwd } = dir;
    const { format, stream, most = size } = kind;
    const bytes = Math.min(size, most);
    const places = [piece, Math.floor(bytes / 3 / piece) * piece, bytes - 3 * piece, bytes - piece];
    const make = (name: string) => ['create', '-q', '-f', format, ...optionsOf(kind), name, `${bytes}`];

    const ours = fileOf(cwd, kind, 'o');
    await cow(...make(ours));
    {
      await using image = await openKind(ours, kind, true);
      expect(image.size).toBe(bytes);
      for (const [index, at] of places.entries()) {
        const data = new Uint8Array(piece).fill(index + 1);
        if (stream) await image.writePacked(at, data);
        else await image.write(at, data);
      }
    }
    const commands = (verb: string) =>
      places.flatMap((at, index) => ['-c', `${verb} -P ${index + 1} ${at} ${piece}`]);
    const zeroes = ['-c', `read -P 0 0 ${piece}`, '-c', `read -P 0 ${bytes - 2 * piece} ${piece}`];
    const said = await run('qemu-io', ['-r', '-f', format, ...commands('read'), ...zeroes, ours], { cwd });
    expect([said.code, said.stderr, /failed|error/i.exec(said.stdout)], said.stdout).toEqual([0, '', null]);
    await mustRun('sh', ['-c', 'rm -f *'], { cwd });

    const theirs = fileOf(cwd, kind, 'q');
    await mustRun('qemu-img', make(theirs), { cwd });
    await mustRun('qemu-io', ['-f', format, ...commands('write'), theirs], { cwd });
    await using image = await openKind(theirs, kind);
    expect(image.size).toBe(bytes);
    for (const [at, value] of [...places.map((at, i) => [at, i + 1]), [0, 0], [bytes - 2 * piece, 0]]) {
      const seen = new Uint8Array(piece);
      await image.read(at, seen);
      expectSame(seen, new Uint8Array(piece).fill(value), `at ${at}`);
    }
  });
});
