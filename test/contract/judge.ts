import { writeFile } from 'node:fs/promises';
import { expect } from 'vitest';
import { have, run, tempDir } from '../support/programs.ts';
import type { World } from './worlds.ts';

export const judgeIsThere = have('qemu-img');

/**
 * Lets QEMU say whether the image holds `content` and is in order. The images of the world are judged in a
 * directory of their own, under their names.
 */
export async function expectQemuAgrees(
  world: World,
  names: readonly string[],
  format: string,
  content: Uint8Array,
): Promise<void> {
  if (!judgeIsThere) return;
  await using dir = await tempDir('cowherd-judge-');
  for (const name of names) await writeFile(dir.file(name), await world.bytesOf(name));
  await writeFile(dir.file('model'), content);
  const compared = await run('qemu-img', ['compare', '-f', 'raw', '-F', format, 'model', names[0]], {
    cwd: dir.path,
  });
  expect(compared.stdout + compared.stderr).toBe('Images are identical.\n');
  const checked = await run('qemu-img', ['check', '-f', format, names[0]], { cwd: dir.path });
  // 63: the format has nothing to check. 3, leaks: nothing here was cut off, so there may be none.
  if (checked.code !== 63) expect(checked, 'qemu-img check').toMatchObject({ code: 0, stderr: '' });
}
