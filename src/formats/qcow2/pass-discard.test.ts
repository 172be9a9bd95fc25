import { copyFile, stat } from 'node:fs/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { have, mustRun, type TempDir, tempDir } from '../../../test/support/programs.ts';
import { openImage } from '../../image/open.ts';
import { registerZlibCodec } from '../../platform/zlib-codec.ts';
import { openFileStore } from '../../storage/file.ts';
import { isWritable } from '../driver.ts';

/*
 * Which freed space goes back to the host by `pass-discard-*`, told by the blocks that the file takes after the same
 * steps by QEMU (which discards by default where it was told `discard=unmap`; a caller of ours who discards was).
 */

const mebi = 1024 * 1024;
const slack = 256 * 1024;
let folder: TempDir;

describe.skipIf(!have('qemu-img') || !have('qemu-io'))('space that goes back to the host', () => {
  beforeAll(async () => {
    registerZlibCodec();
    folder = await tempDir();
    await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', folder.file('plain'), '4M']);
    await mustRun('qemu-io', ['-f', 'qcow2', '-c', 'write -P 1 0 4M', folder.file('plain')]);
    await copyFile(folder.file('plain'), folder.file('snapshot'));
    await mustRun('qemu-img', ['snapshot', '-c', 's', folder.file('snapshot')]);
    await mustRun('qemu-io', ['-f', 'qcow2', '-c', 'write -P 2 0 4M', folder.file('snapshot')]);
  });
  afterAll(() => folder.remove());

  /** Bytes that two copies of an image take on the host, after QEMU and we did the same. */
  async function taken(
    image: string,
    option: string | undefined,
    theirs: (named: string) => Promise<unknown>,
    ours: 'discard' | 'zero' | 'drop',
  ): Promise<readonly [theirs: number, ours: number]> {
    const files = [folder.file('theirs'), folder.file('ours')] as const;
    for (const file of files) await mustRun('cp', ['--sparse=always', folder.file(image), file]);
    const extra = option === undefined ? '' : `,${option}`;
    await theirs(`driver=qcow2,file.filename=${files[0]},discard=unmap,file.discard=unmap${extra}`);
    const [name, value] = option?.split('=') ?? [];
    const layerOptions = name === undefined ? {} : { [name]: value === 'on' };
    {
      const store = await openFileStore(files[1], { writable: true });
      await using opened = await openImage(store, { format: 'qcow2', writable: true, layerOptions });
      const { layer } = opened;
      if (ours === 'discard') await opened.discard(0, 2 * mebi);
      else if (ours === 'zero') await opened.zero(0, 2 * mebi, { unmap: true });
      else if (isWritable(layer)) await opened.exclusively(() => layer.deleteSnapshot!({ name: 's' }));
    }
    const blocks = await Promise.all(files.map(async (file) => (await stat(file)).blocks * 512));
    return [blocks[0], blocks[1]];
  }

  const io = (command: string) => (named: string) =>
    mustRun('qemu-io', ['-c', command, '--image-opts', named]);
  const drop = (named: string) => mustRun('qemu-img', ['snapshot', '-q', '-d', 's', '--image-opts', named]);

  test.each([
    ['plain', undefined, 'discard', 2 * mebi],
    ['plain', 'pass-discard-request=on', 'discard', 2 * mebi],
    ['plain', 'pass-discard-request=off', 'discard', 4 * mebi],
    ['plain', 'pass-discard-other=on', 'discard', 2 * mebi],
    ['plain', undefined, 'zero', 2 * mebi],
    ['plain', 'pass-discard-request=off', 'zero', 4 * mebi],
    ['snapshot', undefined, 'drop', 4 * mebi],
    ['snapshot', 'pass-discard-snapshot=on', 'drop', 4 * mebi],
    ['snapshot', 'pass-discard-snapshot=off', 'drop', 8 * mebi],
    ['snapshot', 'pass-discard-request=off', 'drop', 4 * mebi],
  ] as const)('image %s, %s, %s', async (image, option, step, expected) => {
    const command = { discard: io('discard 0 2M'), zero: io('write -z -u 0 2M'), drop }[step];
    const [theirs, ours] = await taken(image, option, command, step);
    expect(Math.abs(theirs - expected), `QEMU's file takes ${theirs}`).toBeLessThan(slack + 512 * 1024);
    expect(Math.abs(ours - theirs), `ours takes ${ours}, QEMU's ${theirs}`).toBeLessThan(slack);
  });
});
