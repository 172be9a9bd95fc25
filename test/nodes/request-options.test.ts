import { cp, readFile, stat } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { cowImg } from '../../src/cli/cow-img.ts';
import { testContext } from '../support/cli-context.ts';
import { have, mustRun, tempDir } from '../support/programs.ts';

/* What `discard` and `detect-zeroes` do to a file, beside what they do with qemu-img: the map, and the space. */

const zeroes = 'bench -w --pattern=0 -s 64k -c 4 --image-opts';
const nothing = 'driver=null-co,size=256k,read-zeroes=on';

describe.skipIf(!have('qemu-img') || !have('qemu-io'))('discard and detect-zeroes', () => {
  for (const [format, line] of [
    ['raw', `${zeroes} driver=raw,file.filename=FILE`],
    ['raw', `${zeroes} driver=raw,detect-zeroes=on,file.filename=FILE`],
    ['raw', `${zeroes} driver=raw,discard=unmap,detect-zeroes=unmap,file.filename=FILE`],
    ['raw', `${zeroes} driver=raw,discard=unmap,detect-zeroes=unmap,file.discard=ignore,file.filename=FILE`],
    ['raw', `${zeroes} driver=raw,file.detect-zeroes=on,file.filename=FILE`],
    ['raw', `${zeroes} driver=raw,file.detect-zeroes=unmap,file.filename=FILE`],
    ['raw', `convert -n --image-opts --target-image-opts ${nothing} driver=raw,file.filename=FILE`],
    [
      'raw',
      `convert -n --image-opts --target-image-opts ${nothing} driver=raw,discard=ignore,file.filename=FILE`,
    ],
    [
      'raw',
      `convert -n --image-opts --target-image-opts ${nothing} driver=raw,file.discard=ignore,file.filename=FILE`,
    ],
    ['qcow2', `${zeroes} driver=qcow2,file.filename=FILE`],
    ['qcow2', `${zeroes} driver=qcow2,detect-zeroes=on,file.filename=FILE`],
    ['qcow2', `${zeroes} driver=qcow2,discard=on,detect-zeroes=unmap,file.filename=FILE`],
    ['qcow2', `${zeroes} driver=qcow2,file.detect-zeroes=on,file.filename=FILE`],
    [
      'qcow2',
      `convert -n --image-opts --target-image-opts ${nothing} driver=qcow2,discard=ignore,file.filename=FILE`,
    ],
    [
      'qcow2',
      `convert -n --image-opts --target-image-opts ${nothing} driver=qcow2,discard=unmap,file.filename=FILE`,
    ],
  ] as const) {
    it(line.replace(nothing, 'NOTHING'), async () => {
      await using dir = await tempDir('cowherd-requests-');
      const [theirs, ours] = [dir.file('a.img'), dir.file('b.img')];
      await mustRun('qemu-img', ['create', '-q', '-f', format, theirs, '256k']);
      await mustRun('qemu-io', ['-f', format, '-c', 'write -P 3 0 256k', theirs]);
      await cp(theirs, ours);
      const words = (file: string) => line.split(' ').map((word) => word.replace('FILE', file));
      await mustRun('qemu-img', words(theirs));
      const context = testContext();
      expect([await cowImg(words(ours), context), context.err()]).toEqual([0, '']);
      const map = (file: string) => mustRun('qemu-img', ['map', '-f', format, '--output=json', file]);
      expect(await map(ours)).toBe(await map(theirs));
      if (format === 'qcow2') return;
      const [a, b] = await Promise.all([stat(theirs), stat(ours)]);
      expect(b.blocks).toBe(a.blocks);
      expect(Buffer.compare(await readFile(ours), await readFile(theirs))).toBe(0);
    });
  }
});
