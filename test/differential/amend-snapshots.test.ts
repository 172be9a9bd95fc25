import { readFile } from 'node:fs/promises';
import { expect, it } from 'vitest';
import { cowImg } from '../../src/cli/cow-img.ts';
import { testContext } from '../support/cli-context.ts';
import { have, mustRun, tempDir } from '../support/programs.ts';
import { zeroesAndDataFiles } from './amend-world.ts';

const withSnapshots: Readonly<Record<string, readonly string[]>> = {
  bare: ['one'],
  own: ['one'],
  shared: ['before', 'one'],
  over: ['one'],
  overs: ['before', 'one', 'two'],
};

for (const [name, snapshots] of Object.entries(withSnapshots)) {
  it.skipIf(!have('qemu-img'))(`snapshots read the same in version 2: ${name}`, async () => {
    await using dir = await tempDir('cowherd-amend-');
    const world = dir.file('world');
    await zeroesAndDataFiles(world);
    const read = async (snapshot: string): Promise<Buffer> => {
      const from = ['-f', 'qcow2', '-O', 'raw', '-l', snapshot, `${name}.qcow2`, 'read.raw'];
      await mustRun('qemu-img', ['convert', ...from], { cwd: world });
      return readFile(`${world}/read.raw`);
    };
    const expected: Buffer[] = [];
    for (const snapshot of snapshots) expected.push(await read(snapshot));
    const context = testContext({ program: 'cow-img', cwd: world });
    expect(
      await cowImg(['amend', '-o', 'compat=0.10', `${world}/${name}.qcow2`], context),
      context.err(),
    ).toBe(0);
    for (const [i, snapshot] of snapshots.entries()) {
      expect(Buffer.compare(await read(snapshot), expected[i]!), snapshot).toBe(0);
    }
    await mustRun('qemu-img', ['check', `${name}.qcow2`], { cwd: world });
  });
}
