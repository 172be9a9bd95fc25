import { open } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { testContext } from '../../test/support/cli-context.ts';
import { have, mustRun, tempDir } from '../../test/support/programs.ts';
import { cowImg } from './cow-img.ts';

describe.skipIf(!have('qemu-img') || !have('qemu-io'))('a table that cannot be', () => {
  // qemu-img does the same, or aborts on the way: no row of the differential tables can say which.
  it('is reported by commit, and the image is marked', async () => {
    await using dir = await tempDir('cowherd-corruption-');
    const [base, image] = [dir.file('base.raw'), dir.file('image.qcow2')];
    await mustRun('qemu-img', ['create', '-q', base, '1M']);
    await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', base, '-F', 'raw', image]);
    await mustRun('qemu-io', ['-f', 'qcow2', '-c', 'write -P 4 0 4k', image]);
    {
      await using file = await open(image, 'r+');
      await file.write(Uint8Array.of(0x80, 0, 0, 0, 0, 5, 2, 0), 0, 8, 0x40000);
    }
    const context = testContext({ program: 'qemu-img' });
    expect(await cowImg(['commit', image], context)).toBe(1);
    expect(context.err()).toBe(
      'qcow2: Marking image as corrupt: Cluster allocation offset 0x50200 unaligned (L2 offset: 0x40000, L2 index: 0); ' +
        'further corruption events will be suppressed\nqemu-img: Block job failed: Input/output error\n',
    );
    const info = JSON.parse(await mustRun('qemu-img', ['info', '--output=json', image]));
    expect(info['format-specific'].data.corrupt).toBe(true);
  });
});
