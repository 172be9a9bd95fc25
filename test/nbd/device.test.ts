import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { delimiter } from 'node:path';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { connectDevice } from '../../src/nbd/device.ts';
import { testContext } from '../support/cli-context.ts';
import { type TempDir, tempDir } from '../support/programs.ts';

vi.mock('node:fs/promises', { spy: true });

let folder: TempDir;
/** What the system says of a device that stands for /dev/nbd0, and what nbd-client was asked for. */
let [device, sysBlock, asked] = ['', '', () => [] as string[]];

const connected = (pid: number) => writeFileSync(`${sysBlock}/nbd0/pid`, `${pid}\n`);

beforeEach(async () => {
  folder = await tempDir();
  device = folder.file('nbd0');
  sysBlock = folder.file('block');
  const log = folder.file('log');
  asked = () => readFileSync(log, 'utf8').trim().split('\n');
  mkdirSync(`${sysBlock}/nbd0`, { recursive: true });
  writeFileSync(device, '');
  mkdirSync(folder.file('bin'));
  const script = `#!/bin/sh\necho "$*" >> '${log}'\ncase $1 in -unix) echo $$ > '${sysBlock}/nbd0/pid';; esac\nexit 0\n`;
  writeFileSync(folder.file('bin/nbd-client'), script, { mode: 0o755 });
  vi.stubEnv('PATH', `${folder.file('bin')}${delimiter}${process.env.PATH}`);
});
afterEach(async () => {
  vi.unstubAllEnvs();
  await folder.remove();
});

async function connectIt(): Promise<() => Promise<void>> {
  const place = { kind: 'unix', path: '/run/s' } as const;
  return connectDevice(device, place, () => undefined, testContext({ program: 'qemu-nbd' }), sysBlock);
}

it('a device is disconnected by the server that it is connected to', async () => {
  const disconnect = await connectIt();
  await disconnect();
  expect(asked()).toEqual([`-unix /run/s ${device}`, `-d ${device}`]);
});

it('a device that was disconnected, and perhaps connected to another server since, is left alone', async () => {
  const disconnect = await connectIt();
  rmSync(`${sysBlock}/nbd0/pid`);
  await disconnect();
  connected(1);
  await disconnect();
  expect(asked()).toEqual([`-unix /run/s ${device}`]);
});

it('where the system does not say who connected it, it is disconnected', async () => {
  rmSync(`${sysBlock}/nbd0`, { recursive: true });
  const disconnect = await connectIt();
  await disconnect();
  expect(asked()).toEqual([`-unix /run/s ${device}`, `-d ${device}`]);
});

it('nor does it matter that nbd-client has said that it is done before the system showed who connected it', async () => {
  const script = `#!/bin/sh\necho "$*" >> '${folder.file('log')}'\n`;
  writeFileSync(folder.file('bin/nbd-client'), script, { mode: 0o755 });
  const disconnect = await connectIt();
  connected(7);
  await disconnect();
  expect(asked()).toEqual([`-unix /run/s ${device}`, `-d ${device}`]);
});

it('where that was seen a little later, a device that has another server since is left alone', async () => {
  const script = `#!/bin/sh\necho "$*" >> '${folder.file('log')}'\n`;
  writeFileSync(folder.file('bin/nbd-client'), script, { mode: 0o755 });
  // It is seen when somebody has opened the device for its partitions.
  vi.mocked(open).mockImplementationOnce(async () => {
    connected(7);
    throw new Error('no medium');
  });
  const disconnect = await connectIt();
  connected(8);
  await disconnect();
  expect(asked()).toEqual([`-unix /run/s ${device}`]);
});
