import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { cowImg } from '../../src/cli/cow-img.ts';
import { makeDemoMaster } from '../../src/lab/guest/demo-master.ts';
import { testContext } from '../support/cli-context.ts';
import { have, run, type TempDir, tempDir } from '../support/programs.ts';

/** A guest that counts its boots on its disk. */
async function boot(path: string, format: string): Promise<string> {
  const drive = `file=${path},format=${format},if=ide`;
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

  it.each([
    ['vpc', 'subformat=dynamic'],
    ['vpc', 'subformat=fixed,force_size=on'],
    ['vhdx', 'subformat=dynamic'],
    ['vhdx', 'subformat=fixed'],
  ])(
    'boots from %s (%s) as we convert it, and from what it wrote as we convert it back',
    async (format, options) => {
      const convert = async (...args: string[]) => {
        const context = testContext({ cwd: dir.path });
        expect(await cowImg(['convert', ...args], context), context.err()).toBe(0);
      };
      const [disk, back] = [dir.file(`${format}-disk`), dir.file('back.raw')];
      await convert('-f', 'raw', '-O', format, '-o', options, dir.file('demo.raw'), disk);
      expect(await boot(disk, format)).toContain('boots=1');
      expect(await boot(disk, format)).toContain('boots=2');
      await convert('-f', format, '-O', 'raw', disk, back);
      expect(await boot(back, 'raw')).toContain('boots=3');
    },
  );
});
