import { afterAll, beforeAll, expect, it } from 'vitest';
import { testContext } from '../../test/support/cli-context.ts';
import { type TempDir, tempDir } from '../../test/support/programs.ts';
import { createImageFile } from '../node.ts';
import { cowImg } from './cow-img.ts';

const MiB = 1024 * 1024;

let dir: TempDir;
beforeAll(async () => {
  dir = await tempDir('cowherd-azure-');
});
afterAll(() => dir.remove());

async function check(path: string, ...more: string[]): Promise<{ code: number; out: string }> {
  const context = testContext({ cwd: dir.path });
  const code = await cowImg(['check', '--for', 'azure', ...more, path], context);
  return { code, out: context.out() + context.err() };
}

it('takes a fixed VHD of whole MiB, and says what is wrong with others', async () => {
  const make = async (name: string, format: string, size: number, options = {}) => {
    await createImageFile(dir.file(name), { format, size, options });
    return dir.file(name);
  };
  const good = await make('good.vhd', 'vpc', 8 * MiB, { subformat: 'fixed', force_size: true });
  expect(await check(good)).toEqual({ code: 0, out: 'Azure can take the image.\n' });
  expect((await check(good, '-f', 'vpc')).code).toBe(0);
  const odd = await make('odd.vhd', 'vpc', 8 * MiB, { subformat: 'fixed' });
  expect(await check(odd)).toMatchObject({ code: 2, out: expect.stringContaining('not whole MiB') });
  const dynamic = await make('dynamic.vhd', 'vpc', 8 * MiB);
  expect(await check(dynamic)).toMatchObject({ code: 2, out: expect.stringContaining('not fixed') });
  const other = await make('other.qcow2', 'qcow2', 8 * MiB);
  expect(await check(other)).toMatchObject({ code: 2, out: expect.stringContaining('qcow2 format') });
  const raw = await make('disk.raw', 'raw', 8 * MiB);
  expect(JSON.parse((await check(raw, '--output', 'json')).out)).toMatchObject({
    format: 'raw',
    for: 'azure',
    problems: [{ problem: 'Azure takes fixed VHDs; this is an image in raw format' }],
  });
  expect((await check(good, '--for', 'moon')).code).toBe(1);
});
