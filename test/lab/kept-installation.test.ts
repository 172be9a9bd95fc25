import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { keepUnsealed } from '../../src/lab/build/unsealed-disk.ts';
import { makeVersion } from '../../src/lab/commands/seal.ts';
import { openImageFile } from '../../src/node.ts';
import { testContext } from '../support/cli-context.ts';
import { have, mustRun, tempDir } from '../support/programs.ts';

describe.skipIf(!have('mkfs.ext4') || !have('debugfs'))('an installation that cannot be sealed', () => {
  it('is kept where sealing fails, too, and the command to go on with is said', async () => {
    await using folder = await tempDir();
    mkdirSync(folder.file('tree/etc'), { recursive: true });
    mkdirSync(folder.file('masters'));
    writeFileSync(folder.file('tree/etc/machine-id'), '0123456789abcdef0123456789abcdef\n');
    const disk = folder.file('disk.raw');
    await mustRun('mkfs.ext4', ['-q', '-d', folder.file('tree'), disk, '8M']);
    // As where the installer did not unmount it: nothing can be taken out then.
    await mustRun('debugfs', ['-w', '-R', 'feature needs_recovery', disk]);
    const content = readFileSync(disk);
    const context = testContext({ program: 'cowherd', cwd: folder.path, env: {}, columns: 120 });
    await using image = await openImageFile(disk, { format: 'raw' });
    const sealing = makeVersion(image, { operands: ['os'], options: { fix: true } }, context, {
      name: 'os',
      origin: { how: 'build --iso' },
      keep: () => keepUnsealed(disk, folder.file('masters'), 'os'),
    });
    await expect(sealing).rejects.toThrow('was not unmounted');
    expect(context.err()).toContain(
      'what was made is kept; to go on: cowherd seal masters/os.unsealed.qcow2 --name os',
    );
    expect(readFileSync(folder.file('masters/os.unsealed.qcow2')).equals(content)).toBe(true);
  });
});
