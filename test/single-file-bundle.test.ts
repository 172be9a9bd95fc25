import { mkdirSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { bundleFile, nodeEntry } from './support/node-bundle.ts';
import { have, mustRun, run, type TempDir, tempDir } from './support/programs.ts';

/*
 * `cowherd/node` bundled with a program into one file, as for Electron, a single executable or a function in a cloud: no worker's file, no
 * native code and no package lies beside it.
 */

const program = `
  import { createImageFile, openImageFile, openLayerFile } from ${nodeEntry};
  const secret = async () => new TextEncoder().encode('correct horse');
  const [path, luks2] = process.argv.slice(2);
  (async () => {
    if (luks2) {
      const { layer } = await openLayerFile(luks2, { format: 'luks', layerOptions: { 'key-secret': 's' }, secret });
      console.log(layer.format, layer.size);
      await layer[Symbol.asyncDispose]();
      return;
    }
    const options = { 'encrypt.format': 'luks', 'encrypt.key-secret': 's', 'encrypt.iter-time': 10 };
    await createImageFile(path, { format: 'qcow2', size: 16 << 20, options, secret });
    const opening = { secret, layerOptions: { 'encrypt.key-secret': 's' } };
    const image = await openImageFile(path, { ...opening, writable: true });
    await image.write(1 << 20, new Uint8Array(8 << 20).fill(0x5a));
    await image[Symbol.asyncDispose]();
    const again = await openImageFile(path, opening);
    const bytes = new Uint8Array(8 << 20);
    await again.read(1 << 20, bytes);
    console.log(again.layer.format, bytes.every((byte) => byte === 0x5a));
    await again[Symbol.asyncDispose]();
  })();`;

let dir: TempDir;
beforeAll(async () => {
  dir = await tempDir();
});
afterAll(() => dir.remove());

describe.each(['esm', 'cjs'] as const)('one file of %s', (format) => {
  let file: string;
  beforeAll(async () => {
    mkdirSync(dir.file(format));
    file = await bundleFile(dir.file(`${format}/app.${format === 'esm' ? 'mjs' : 'cjs'}`), program, format);
  });
  const start = (...args: string[]) => run(process.execPath, [file, ...args], { cwd: dir.path });

  it('makes, writes and reads an encrypted image', async () => {
    const path = dir.file(`${format}.qcow2`);
    expect(await start(path)).toMatchObject({ stdout: 'qcow2 true\n', code: 0 });
    if (!have('qemu-io')) return;
    const judge = ['--object', 'secret,id=s,data=correct horse', '-c', 'read -P 0x5a 1M 8M'];
    await mustRun('qemu-io', [
      ...judge,
      '--image-opts',
      `driver=qcow2,encrypt.key-secret=s,file.filename=${path}`,
    ]);
  });

  it.skipIf(!have('cryptsetup'))('opens LUKS2, whose keys are derived by Argon2', async () => {
    const path = dir.file(`${format}.luks2`);
    await mustRun('truncate', ['-s', '24M', path]);
    const cheap = [
      '--pbkdf',
      'argon2id',
      '--pbkdf-force-iterations',
      '4',
      '--pbkdf-memory',
      '1024',
      '--pbkdf-parallel',
      '1',
    ];
    await mustRun('sh', [
      '-c',
      `printf 'correct horse' | cryptsetup luksFormat -q --type luks2 ${cheap.join(' ')} ${path} -`,
    ]);
    expect(await start('', path)).toMatchObject({
      stdout: expect.stringMatching(/^luks \d+\n$/),
      code: 0,
    });
  });
});
