import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { open, readdir } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, it } from 'vitest';
import { createImageFile } from '../src/node.ts';
import { libc } from '../src/platform/libc.ts';
import { builtProgram } from './support/built-program.ts';
import { listensForSignals } from './support/listens.ts';
import { tempDir } from './support/programs.ts';

/** Minutes of work, and just within what is not refused. */
const iterations = 2 ** 27 - 100_000;
/** Where the first key slot of LUKS1 says how often it is stretched. */
const iterationsAt = 208 + 4;

it.skipIf(!libc())('Ctrl-C ends a key derivation that would take minutes', async () => {
  await using dir = await tempDir();
  const program = await builtProgram(dir.path, 'cow-img', 'cow-img');
  const image = dir.file('image');
  await createImageFile(image, {
    format: 'luks',
    size: 4096,
    options: { 'key-secret': 's', 'iter-time': 0 },
    secret: async () => Buffer.from('pw'),
  });
  const file = await open(image, 'r+');
  const count = Buffer.alloc(4);
  count.writeUInt32BE(iterations);
  await file.write(count, 0, 4, iterationsAt);
  await file.close();
  const secret = ['--object', 'secret,id=s,data=pw'];
  const named = ['--image-opts', `driver=luks,file.filename=${image},key-secret=s`];
  for (const args of [
    ['map', ...secret, ...named],
    ['convert', ...secret, ...named, '-O', 'raw', dir.file('out')],
    ['create', '-q', ...secret, '-f', 'luks', '-o', 'key-secret=s,iter-time=600000', dir.file('new'), '1M'],
  ]) {
    const child = spawn(program[0], [program[1], ...args]);
    let said = '';
    child.stderr.on('data', (text) => (said += text));
    const closed = once(child, 'close');
    while (child.exitCode === null && !listensForSignals(child.pid!)) await sleep(10);
    // Long enough to be at work mostly, and nowhere near enough to be done.
    await sleep(800);
    child.kill('SIGINT');
    const [, signal] = await closed;
    expect({ signal, said }).toEqual({ signal: 'SIGINT', said: '' });
  }
  const left = await readdir(dir.path);
  expect(left).not.toContain('out');
  expect(left).not.toContain('new');
});
