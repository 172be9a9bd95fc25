import { statSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { have, mustRun, type TempDir, tempDir } from '../../../test/support/programs.ts';
import { openImageFile } from '../../node.ts';

/*
 * A disk that ends within a cluster, and grows with its space set aside: the rest of that cluster is a part of it. qemu-io
 * then fills the growth, and the file takes no more space for it.
 */

const size = 2_048_000;
const growth = 16_384;

describe.skipIf(!have('qemu-io'))('growth within a cluster', () => {
  let folder: TempDir;
  beforeEach(async () => {
    folder = await tempDir('cowherd-growth-');
  });
  afterEach(() => folder.remove());

  const blocks = () => statSync(folder.file('disk.qcow2')).blocks;
  const qemuIo = (command: string) =>
    mustRun('qemu-io', ['-f', 'qcow2', '-c', command, folder.file('disk.qcow2')]);

  for (const options of ['preallocation=metadata', 'preallocation=metadata,extended_l2=on']) {
    for (const preallocation of ['falloc', 'full'] as const) {
      test(`${options} then ${preallocation}`, async () => {
        const path = folder.file('disk.qcow2');
        await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', options, path, String(size)]);
        await qemuIo(`write -P 1 ${size - 512} 512`);
        {
          await using image = await openImageFile(path, { writable: true });
          await image.resize(size + growth, { preallocation });
        }
        const before = blocks();
        await qemuIo(`read -P 1 ${size - 512} 512`);
        await qemuIo(`read -P 0 ${size} ${growth}`);
        await qemuIo(`write -P 2 ${size} ${growth}`);
        // Tables may still take a block or two.
        expect(blocks() - before).toBeLessThan(growth / 512 / 2);
        await mustRun('qemu-img', ['check', '-q', path]);
      });
    }
  }
});
