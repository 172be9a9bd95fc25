import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { tarHeader, tarPadded } from '../../src/appliance/tar.ts';
import { encodeOvf } from '../../src/appliance/write-ovf.ts';
import { cowherd } from '../../src/lab/cowherd.ts';
import { createImageFile, openImageFile } from '../../src/node.ts';
import { testContext } from '../support/cli-context.ts';
import { type TempDir, tempDir } from '../support/programs.ts';

const mebibyte = 1024 * 1024;
type Member = readonly [name: string, bytes: Buffer];

describe('what descriptor and manifest promise', () => {
  let dir: TempDir;
  const path = (...names: string[]) => join(dir.path, ...names);
  beforeEach(async () => {
    dir = await tempDir('cowherd-promises-');
  });
  afterEach(() => dir.remove());

  const disk = (fill: number, size = mebibyte) => Buffer.alloc(size, fill);

  interface Wish {
    readonly file?: string;
    readonly fileBytes?: number;
    readonly capacity?: number;
    readonly change?: (text: string) => string;
  }

  /** A descriptor of one disk. */
  function descriptor({
    file = 'd.raw',
    fileBytes = mebibyte,
    capacity = mebibyte,
    change,
  }: Wish = {}): Member {
    const machine = { name: 'box', memoryMiB: 32, cpus: 1, firmware: 'bios', networkCards: 0 } as const;
    const text = encodeOvf({ ...machine, bus: 'ide', disks: [{ file, fileBytes, capacity, populated: 0 }] });
    return ['box.ovf', Buffer.from(change?.(text) ?? text)];
  }

  function manifest(...members: readonly Member[]): Member {
    const lines = members.map(
      ([name, bytes]) => `SHA256(${name})= ${createHash('sha256').update(bytes).digest('hex')}`,
    );
    return ['box.mf', Buffer.from(`${lines.join('\n')}\n`)];
  }

  function archive(members: readonly Member[]): Buffer {
    const parts = members.flatMap(([name, bytes]) => {
      const padding = Buffer.alloc(tarPadded(bytes.length) - bytes.length);
      return [tarHeader(name, bytes.length, 0), bytes, padding];
    });
    return Buffer.concat([...parts, Buffer.alloc(1024)]);
  }

  /** Imports an archive from a file and from a pipe; both must say the same. */
  async function importBoth(...members: readonly Member[]) {
    const bytes = archive(members);
    writeFileSync(path('box.ova'), bytes);
    const answers = [];
    for (const from of ['box.ova', '-']) {
      rmSync(path(`vms${answers.length}`), { recursive: true, force: true });
      const stdin = (async function* () {
        yield bytes;
      })();
      const context = testContext({ program: 'cowherd', cwd: dir.path, env: {}, columns: 120, stdin });
      const code = await cowherd(
        ['import', from, '-o', `vms${answers.length}`, '--force', '--output', 'json'],
        context,
      );
      const verified = code === 0 ? JSON.parse(context.out()).verified : undefined;
      if (code !== 0) expect(existsSync(path(`vms${answers.length}`))).toBe(false);
      answers.push({
        code,
        verified,
        err: context.err(),
        warnings: code === 0 ? JSON.parse(context.out()).warnings : [],
      });
    }
    return answers;
  }

  async function refused(why: RegExp, ...members: readonly Member[]): Promise<void> {
    for (const { code, err } of await importBoth(...members)) {
      expect([code, err]).toEqual([1, expect.stringMatching(why)]);
    }
  }

  it('are verified only where the manifest says what the descriptor and all disks are', async () => {
    const [ovf, raw] = [descriptor(), ['d.raw', disk(1)] as const];
    const verified = async (mf: Member) => (await importBoth(ovf, mf, raw)).map((each) => each.verified);
    expect(await verified(manifest(ovf, raw))).toEqual([true, true]);
    expect(await verified(manifest(ovf, ['./d.raw', raw[1]]))).toEqual([true, true]);
    expect(await verified(manifest())).toEqual([false, false]);
    expect(await verified(manifest(ovf))).toEqual([false, false]);
    expect(await verified(manifest(raw))).toEqual([false, false]);
  });

  it('are not verified where an extent of a disk is not in the manifest', async () => {
    await createImageFile(path('d.vmdk'), {
      format: 'vmdk',
      size: mebibyte,
      options: { subformat: 'monolithicFlat' },
    });
    const bytes = readFileSync(path('d.vmdk'));
    const ovf = descriptor({ file: 'd.vmdk', fileBytes: bytes.length });
    const [vmdk, flat]: Member[] = [
      ['d.vmdk', bytes],
      ['d-flat.vmdk', disk(1)],
    ];
    mkdirSync(path('box'));
    const imported = async (mf: Member) => {
      for (const [name, content] of [ovf, vmdk, flat, mf]) writeFileSync(path('box', name), content);
      const context = testContext({ program: 'cowherd', cwd: dir.path, env: {}, columns: 120 });
      const code = await cowherd(['import', 'box', '-o', 'vms', '--force', '--output', 'json'], context);
      expect([code, context.err()]).toEqual([0, '']);
      return JSON.parse(context.out());
    };
    expect(await imported(manifest(ovf, vmdk, flat))).toMatchObject({ verified: true, warnings: [] });
    expect(await imported(manifest(ovf, vmdk))).toMatchObject({
      verified: false,
      warnings: ["the manifest does not say what 'd-flat.vmdk' is"],
    });
  });

  it.each([
    ['d.raw', './d.raw'],
    ['./d.raw', 'd.raw'],
    ['a/d.raw', 'a//d.raw'],
    ['a/d.raw', 'a/./d.raw'],
  ])('are of one file each: %s and %s are one name', async (one, other) => {
    const ovf = descriptor({ file: one.includes('a/') ? 'a/d.raw' : 'd.raw' });
    const good: Member = [other, disk(1)];
    await refused(/twice/, ovf, [one, disk(2)], good, manifest(ovf, good));
  });

  it('are of one file where two could be meant', async () => {
    const ovf = descriptor({ file: 'd%20d.raw' });
    const good: Member = ['d%20d.raw', disk(1)];
    const evil: Member = ['d d.raw', disk(2)];
    const [fromFile, piped] = await importBoth(ovf, evil, good, manifest(ovf, good));
    expect(fromFile.code).toBe(0);
    await using image = await openImageFile(path('vms0/box.qcow2'));
    const byte = new Uint8Array(1);
    await image.read(0, byte);
    expect(byte[0]).toBe(1);
    expect([piped.code, piped.err]).toEqual([1, expect.stringContaining('twice')]);
  });

  it('are compared with the size of the file', async () => {
    const raw: Member = ['d.raw', disk(1)];
    await refused(/has 1048576 bytes, not 1048577/, descriptor({ fileBytes: mebibyte + 1 }), raw);
    await refused(/has 1048576 bytes, not 5/, descriptor({ fileBytes: 5 }), raw);
    for (const { code } of await importBoth(descriptor({ fileBytes: 0 }), raw)) expect(code).toBe(0);
  });

  it('are compared with the size of the disk, but for rounding', async () => {
    const raw: Member = ['d.raw', disk(1, 10 * mebibyte)];
    const of = (capacity: number, fileBytes = 0) => descriptor({ capacity, fileBytes });
    await refused(/is a disk of 10485760 bytes, not of 67108864/, of(64 * mebibyte), raw);
    await refused(/is a disk of 10485760 bytes, not of 67108864/, of(64 * mebibyte, 10 * mebibyte), raw);
    await refused(/is a disk of 10485760 bytes, not of 5242880/, of(5 * mebibyte), raw);
    for (const { code, warnings } of await importBoth(of(10 * mebibyte - 100), raw)) {
      expect([code, warnings]).toEqual([
        0,
        expect.arrayContaining([expect.stringContaining('is a disk of')]),
      ]);
    }
    // Told in a unit that is larger than the difference, by who knows the file's size.
    const inGigabytes = (fileBytes: number) =>
      descriptor({
        capacity: 1,
        fileBytes,
        change: (text) =>
          text.replace('capacityAllocationUnits="byte"', 'capacityAllocationUnits="byte * 2^30"'),
      });
    for (const { code } of await importBoth(inGigabytes(10 * mebibyte), raw)) expect(code).toBe(0);
    await refused(/is a disk of/, inGigabytes(0), raw);
  });

  it('are compared in a folder as well', async () => {
    mkdirSync(path('box'));
    writeFileSync(path('box/box.ovf'), descriptor({ fileBytes: 2 * mebibyte })[1]);
    writeFileSync(path('box/d.raw'), disk(1));
    const context = testContext({ program: 'cowherd', cwd: dir.path, env: {}, columns: 120 });
    expect(await cowherd(['import', 'box', '-o', 'vms'], context)).toBe(1);
    expect(context.err()).toContain('as the descriptor says');
    expect(readFileSync(path('box/d.raw')).length).toBe(mebibyte);
  });
});
