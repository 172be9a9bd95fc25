import { writeFile } from 'node:fs/promises';
import { expect } from 'vitest';
import { have, run, tempDir } from '../support/programs.ts';
import { passphrase, type Subject } from './subjects.ts';
import type { World } from './worlds.ts';

export const judgeIsThere = have('qemu-img');

/**
 * Lets QEMU say whether the image of that name holds `content` and is in order. The images of the world are judged in a
 * directory of their own, under their names.
 */
export async function expectQemuAgrees(
  world: World,
  name: string,
  subject: Subject,
  content: Uint8Array,
  base?: Subject,
): Promise<void> {
  // QEMU refuses to open the VMDK images of no bytes that it makes itself.
  if (!judgeIsThere || (subject.driver.name === 'vmdk' && content.length === 0)) return;
  await using dir = await tempDir('cowherd-judge-');
  for (const file of await world.names()) await writeFile(dir.file(file), await world.bytesOf(file));
  await writeFile(dir.file('model'), content);
  const object = ['--object', `secret,id=s,data=${passphrase}`];
  const keys = [
    ...Object.entries(subject.opening),
    ...Object.entries(base?.opening ?? {}).map(([key, value]) => [`backing.${key}`, value]),
  ].map(([key, value]) => `,${key}=${value}`);
  const image = `driver=${subject.driver.name},file.filename=${name}${keys.join('')}`;
  const model = 'driver=raw,file.filename=model';
  const compared = await run('qemu-img', ['compare', ...object, '--image-opts', model, image], {
    cwd: dir.path,
  });
  expect(compared.stdout + compared.stderr).toBe('Images are identical.\n');
  const checked = await run('qemu-img', ['check', ...object, '--image-opts', image], { cwd: dir.path });
  // 63: the format has nothing to check. 3, leaks: nothing here was cut off, so there may be none.
  if (checked.code !== 63) expect(checked, 'qemu-img check').toMatchObject({ code: 0, stderr: '' });
}
