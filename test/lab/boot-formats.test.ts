import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { makeDemoMaster } from '../../src/lab/guest/demo-master.ts';
import { cow, fileOf, kinds, optionsOf } from '../formats/kinds.ts';
import { have, run, type TempDir, tempDir } from '../support/programs.ts';

/** A guest that counts its boots on its disk. */
async function boot(path: string, format: string, how = ''): Promise<string> {
  const drive = `file=${path},format=${format},if=ide${how}`;
  const { stdout, stderr } = await run(
    'qemu-system-x86_64',
    ['-accel', 'tcg', '-m', '16M', '-display', 'none', '-serial', 'stdio', '-no-reboot', '-drive', drive],
    { timeout: 60_000 },
  );
  return stdout + stderr;
}

describe.skipIf(!have('qemu-system-x86_64'))('a guest', () => {
  let dir: TempDir;
  beforeAll(async () => {
    dir = await tempDir('cowherd-boot-');
    await makeDemoMaster(dir.file('demo.raw'), { size: 8 * 1024 * 1024, payloadBytes: 0 });
  });
  afterAll(() => dir.remove());

  it.concurrent.each(kinds)(
    'boots from $name as we convert it, and from what it wrote as we convert it back',
    async (kind) => {
      const { format, stream } = kind;
      const [disk, back] = [fileOf(dir.path, kind, 'disk'), fileOf(dir.path, kind, 'back')];
      await cow('convert', '-f', 'raw', '-O', format, ...optionsOf(kind), dir.file('demo.raw'), disk);
      if (stream) {
        // Written once: what the guest writes goes elsewhere, and is gone.
        expect(await boot(disk, format, ',snapshot=on')).toContain('boots=1');
        expect(await boot(disk, format, ',snapshot=on')).toContain('boots=1');
        return;
      }
      expect(await boot(disk, format)).toContain('boots=1');
      await cow('convert', '-f', format, '-O', 'raw', disk, back);
      expect(await boot(back, 'raw')).toContain('boots=2');
    },
  );
});
