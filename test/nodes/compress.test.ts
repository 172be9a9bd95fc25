import { readFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { cowImg } from '../../src/cli/cow-img.ts';
import { NodeOptions } from '../../src/image/nodes/node-options.ts';
import { openImageFile, trustedImages } from '../../src/node.ts';
import { testContext } from '../support/cli-context.ts';
import { have, mustRun, tempDir } from '../support/programs.ts';

/* What the driver `compress` stores, also over what is there already: judged by qemu-img. */

const mebi = 1024 * 1024;

describe.skipIf(!have('qemu-img') || !have('qemu-io'))('compress', () => {
  for (const [kind, options] of [
    ['clusters of 64 KiB', 'cluster_size=64k'],
    ['clusters of 512 bytes', 'cluster_size=512'],
    ['clusters of 2 MiB', 'cluster_size=2M'],
    ['subclusters', 'extended_l2=on,cluster_size=128k'],
    ['zstd', 'compression_type=zstd'],
    ['refcounts of 64 bits', 'refcount_bits=64'],
  ]) {
    it(`takes the place of what is there: ${kind}`, async () => {
      await using dir = await tempDir('cowherd-compress-');
      const img = (...args: string[]) => mustRun('qemu-img', args, { cwd: dir.path });
      const io = (format: string, file: string, ...commands: string[]) =>
        mustRun('qemu-io', ['-f', format, ...commands.flatMap((command) => ['-c', command]), file], {
          cwd: dir.path,
        });
      await img('create', '-q', '-f', 'qcow2', '-o', options, 'image.qcow2', '5M');
      await io('qcow2', 'image.qcow2', 'write -P 1 0 1M', 'write -P 2 1500k 600k', 'write -z 3M 256k');
      await img('snapshot', '-c', 'before', 'image.qcow2');
      await io('qcow2', 'image.qcow2', 'write -P 3 200k 400k');
      await img('convert', '-O', 'raw', '-l', 'before', 'image.qcow2', 'before.raw');
      await img('create', '-q', 'source.raw', `${5 * mebi}`);
      await io('raw', 'source.raw', 'write -P 7 4k 700k', 'write -P 8 1600k 5k', 'write -P 9 3071k 70k');
      const target = `driver=compress,file.driver=qcow2,file.file.filename=${dir.file('image.qcow2')}`;
      for (const extra of [[], ['-W', '-m', '8'], ['-S', '0']]) {
        const context = testContext({ cwd: dir.path });
        const line = ['convert', '-n', ...extra, '--target-image-opts', '-f', 'raw'];
        expect([await cowImg([...line, dir.file('source.raw'), target], context), context.err()]).toEqual([
          0,
          '',
        ]);
        await img('compare', '-f', 'raw', '-F', 'qcow2', 'source.raw', 'image.qcow2');
        const check = JSON.parse(await img('check', '--output=json', 'image.qcow2'));
        expect(check['compressed-clusters']).toBeGreaterThan(0);
        expect(check['compressed-clusters']).toBe(check['allocated-clusters']);
      }
      await img('convert', '-O', 'raw', '-l', 'before', 'image.qcow2', 'after.raw');
      await img('compare', '-f', 'raw', '-F', 'raw', 'before.raw', 'after.raw');
    });
  }

  it('keeps what lies around small writes that come together', async () => {
    await using dir = await tempDir('cowherd-compress-');
    const file = dir.file('image.qcow2');
    await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', file, '4M']);
    await mustRun('qemu-io', ['-f', 'qcow2', '-c', 'write -P 1 0 4M', file]);
    const expected = new Uint8Array(4 * mebi).fill(1);
    {
      const options = { driver: 'compress', 'file.driver': 'qcow2', 'file.file.filename': file };
      const node = new NodeOptions(Object.entries(options));
      await using image = await openImageFile(node, { writable: true, policy: trustedImages });
      const work: Promise<void>[] = [];
      for (let at = 0; at < 200; at++) {
        const offset = at * 20_480 + 512;
        if (at % 5 === 4) {
          work.push(image.zero(offset, 9000));
          expected.fill(0, offset, offset + 9000);
        } else {
          work.push(image.write(offset, new Uint8Array(9000).fill(at)));
          expected.fill(at, offset, offset + 9000);
        }
      }
      await Promise.all(work);
      const seen = new Uint8Array(4 * mebi);
      await image.read(0, seen);
      expect(Buffer.compare(seen, expected)).toBe(0);
    }
    await mustRun('qemu-img', ['check', '-q', file]);
    const raw = dir.file('seen.raw');
    await mustRun('qemu-img', ['convert', '-O', 'raw', file, raw]);
    expect(Buffer.compare(await readFile(raw), expected)).toBe(0);
  });
});
