import { expect, it } from 'vitest';
import { cowImg } from '../src/cli/cow-img.ts';
import { testContext } from './support/cli-context.ts';
import { have, mustRun, tempDir } from './support/programs.ts';

/** Of 512 bytes a bit: for disks of 2 TiB at most. */
const bitmap = ['bitmap', '--add', '-g', '512'];

it.skipIf(!have('qemu-img'))(
  'the program says which bitmap would be too large, and QEMU opens what is there',
  async () => {
    await using dir = await tempDir('cowherd-too-large-');
    const [image, overlay] = [dir.file('image.qcow2'), dir.file('overlay.qcow2')];
    const qemu = (...args: string[]) => mustRun('qemu-img', args);
    const refused = async (...args: string[]) => {
      const context = testContext({ cwd: dir.path });
      expect(await cowImg(args, context)).toBe(1);
      await qemu('check', '-q', image);
      expect(await qemu('info', image)).toContain('name: fine');
      expect(await qemu('info', image)).not.toContain('in-use');
      return context.err();
    };
    const why =
      "Bitmap 'fine' would be too large for a disk of that size: remove it first, and add one of larger granularity\n";
    await qemu('create', '-q', '-f', 'qcow2', image, '1M');
    await qemu(...bitmap, image, 'fine');
    expect(await refused('resize', image, '3T')).toBe(`cow-img: ${why}`);
    await qemu('create', '-q', '-f', 'qcow2', '-b', image, '-F', 'qcow2', overlay, '3T');
    expect(await refused('commit', overlay)).toBe(`cow-img: ${why}`);
    await qemu('check', '-q', overlay);
  },
);
