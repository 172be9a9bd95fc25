import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { tempDir } from '../../../test/support/programs.ts';
import { encodeExtraDisk } from '../seats/seat-extras.ts';
import { removeSeatFiles } from './seat-files.ts';

it('a seat that goes takes its own files along, and no copy of a master that is called as it is', async () => {
  await using folder = await tempDir('cowherd-seat-files-');
  const pool = {
    path: folder.path,
    read: async (name: string) =>
      existsSync(folder.file(name)) ? readFileSync(folder.file(name)) : undefined,
    facts: async () => undefined,
    remove: async (name: string) => rmSync(folder.file(name)),
  };
  const copy = 'web+0123456789abcdef.qcow2';
  const strange = 'web+strange.qcow2';
  for (const name of [copy, strange, 'web2.qcow2', 'web2+data.qcow2']) {
    writeFileSync(folder.file(name), await encodeExtraDisk('class', name.split(/[+.]/)[0], 1 << 20));
  }
  writeFileSync(folder.file(copy), await encodeExtraDisk('other', 'web', 1 << 20));
  writeFileSync(folder.file(strange), 'a disk of somebody else');
  for (const name of ['web.qcow2', 'web+data.qcow2'])
    writeFileSync(folder.file(name), await encodeExtraDisk('class', 'web', 1 << 20));
  writeFileSync(folder.file('web.log'), '');
  // One that was cut off, and a copy that is on its way.
  for (const name of ['web+cut.qcow2', 'web+fedcba9876543210.qcow2'])
    writeFileSync(folder.file(name), new Uint8Array(65536));
  const files = new Set(readdirSync(folder.path));
  const removed = await removeSeatFiles({ pool }, files, { lab: 'class', seat: 'web', log: true });
  expect([...removed].sort()).toEqual(['web+cut.qcow2', 'web+data.qcow2', 'web.log', 'web.qcow2']);
  expect(readdirSync(folder.path).sort()).toEqual(
    [copy, 'web+fedcba9876543210.qcow2', strange, 'web2+data.qcow2', 'web2.qcow2'].sort(),
  );
});
