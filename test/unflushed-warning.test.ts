import { afterAll, beforeAll, expect, it } from 'vitest';
import { bundleFile, nodeEntry } from './support/node-bundle.ts';
import { run, type TempDir, tempDir } from './support/programs.ts';

let dir: TempDir;
let program: string;
beforeAll(async () => {
  dir = await tempDir();
  program = await bundleFile(
    dir.file('program.mjs'),
    `import { createImage, createImageFile, MemoryStore, openImage, openImageFile } from ${nodeEntry};
     // Nobody could flush this one to anywhere.
     const memory = new MemoryStore();
     await createImage(memory, 'qcow2', 1 << 20);
     await (await openImage(memory, { writable: true })).write(0, new Uint8Array(512));
     const [path, format, end] = process.argv.slice(2);
     await createImageFile(path, { format, size: 1 << 20 });
     const image = await openImageFile(path, { format, writable: true, locks: 'none' });
     await image.write(0, new Uint8Array(512));
     if (end === 'flush' || end === 'write') await image.flush();
     if (end === 'write') await image.write(65536, new Uint8Array(512));
     if (end === 'dispose') await image[Symbol.asyncDispose]();
     if (end === 'exit') process.exit(3);`,
  );
});
afterAll(() => dir.remove());

it.each([
  ['qcow2', 'nothing', 0, true],
  ['qcow2', 'exit', 3, true],
  ['qcow2', 'write', 0, true],
  ['qcow2', 'flush', 0, false],
  ['qcow2', 'dispose', 0, false],
  ['raw', 'nothing', 0, false],
] as const)(
  'a program that changes a %s image and ends by %s (code %i) is warned: %s',
  async (format, end, code, warned) => {
    const path = dir.file(`${format}-${end}`);
    const ended = await run(process.execPath, [program, path, format, end]);
    expect(ended.code).toBe(code);
    if (warned) expect(ended.stderr).toContain(`[COWHERD_UNFLUSHED] CowherdWarning: '${path}' changed`);
    else expect(ended.stderr).toBe('');
  },
);
