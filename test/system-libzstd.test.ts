import { readFileSync, writeFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { builtProgram } from './support/built-program.ts';
import { have, mustRun, type TempDir, tempDir } from './support/programs.ts';

/*
 * Node 22.15 and newer have a libzstd of their own, whose functions stand before a library's own where that calls itself. Here
 * a library that is loaded first stands for it, and ends the program at once.
 */
describe.skipIf(!have('gcc') || !have('objdump') || !have('zstd') || !have('qemu-img'))(
  'another libzstd in the process',
  () => {
    let dir: TempDir;
    let other: string;
    let node: string;
    let link: string;
    const content = Buffer.alloc(1 << 20, 'what guests write');
    const cowImg = async (...args: string[]) =>
      await mustRun(node, [link, ...args], {
        cwd: dir.path,
        env: { LD_PRELOAD: other },
      });

    beforeAll(async () => {
      dir = await tempDir();
      [node, link] = await builtProgram(dir.path, 'cow-img', 'cow-img');
      const [library] = /\/\S+\/libzstd\.so\.1/.exec(await mustRun('ldconfig', ['-p'])) ?? [];
      const symbols = (await mustRun('objdump', ['-T', library!])).matchAll(/ \.text\s.* (ZSTD_\w+)$/gm);
      const names = [...new Set([...symbols].map(([, name]) => name))];
      expect(names).toContain('ZSTD_decompressStream');
      writeFileSync(
        dir.file('other.c'),
        names.map((name) => `void ${name}(void) { __builtin_trap(); }\n`).join(''),
      );
      other = dir.file('other.so');
      await mustRun('gcc', ['-shared', '-fPIC', '-w', '-o', other, dir.file('other.c')]);
      writeFileSync(dir.file('disk.raw'), content);
      await mustRun('zstd', ['-q', dir.file('disk.raw')]);
    });
    afterAll(async () => await dir?.[Symbol.asyncDispose]());

    it('is not called, in place of the system’s, by what unpacks files', async () => {
      await cowImg('convert', '--decompress', '-O', 'raw', 'disk.raw.zst', 'whole.raw');
      expect(readFileSync(dir.file('whole.raw')).equals(content)).toBe(true);
    });

    it('nor by what packs and unpacks clusters', async () => {
      await cowImg('convert', '-c', '-O', 'qcow2', '-o', 'compression_type=zstd', 'disk.raw', 'packed.qcow2');
      await mustRun('qemu-img', ['compare', dir.file('disk.raw'), dir.file('packed.qcow2')]);
      await cowImg('convert', '-O', 'raw', 'packed.qcow2', 'unpacked.raw');
      expect(readFileSync(dir.file('unpacked.raw')).equals(content)).toBe(true);
    });
  },
);
