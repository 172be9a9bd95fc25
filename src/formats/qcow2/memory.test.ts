import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import { expect, test } from 'vitest';
import { mustRun, tempDir } from '../../../test/support/programs.ts';
import { openFileStore } from '../../storage/file.ts';
import { qcow2 } from './index.ts';

const mebi = 1024;
const tebi = 2 ** 40;

/*
 * What random requests all over 64 TiB take more than a process that does nothing, in KiB: the L2 tables' budget (32 MiB by
 * default), the L1 table and the garbage of a few requests.
 */
test.skipIf(process.platform !== 'linux')(
  'a 64 TiB image is read and written within tens of MB',
  async () => {
    await using folder = await tempDir();
    const program = folder.file('random-io.cjs');
    await build({
      entryPoints: [fileURLToPath(new URL('../../../test/support/random-io.ts', import.meta.url))],
      outfile: program,
      bundle: true,
      platform: 'node',
      format: 'cjs',
      target: 'node20',
      external: ['koffi'],
      define: { 'import.meta.url': '__moduleUrl' },
      banner: { js: "const __moduleUrl = require('node:url').pathToFileURL(__filename).href;" },
      logLevel: 'silent',
    });
    const image = folder.file('large.qcow2');
    {
      await using store = await openFileStore(image, { writable: true, create: 'truncate' });
      await qcow2.create!(store, 64 * tebi, {}, {});
    }
    const most = async (...args: string[]) =>
      Number(await mustRun(process.execPath, [program, args[0], image, ...args.slice(1)]));
    const idle = await most('idle');
    const taken = { write: (await most('write')) - idle, read: (await most('read')) - idle };
    expect(taken.write).toBeLessThan(70 * mebi);
    expect(taken.read).toBeLessThan(70 * mebi);
    // The budget counts.
    expect((await most('write', String(2 << 20))) - idle).toBeLessThan(taken.write - 16 * mebi);
    expect((await most('read', String(2 << 20))) - idle).toBeLessThan(taken.read - 16 * mebi);
  },
);
