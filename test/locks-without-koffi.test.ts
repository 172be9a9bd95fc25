import { spawn } from 'node:child_process';
import { Worker } from 'node:worker_threads';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { bundleFile, nodeEntry } from './support/node-bundle.ts';
import { type TempDir, tempDir } from './support/programs.ts';

/*
 * Where the system's locks cannot be taken, ours still see each other, and say that nobody else does.
 */

let dir: TempDir;
let program: string;
const env = { ...process.env, COWHERD_NO_KOFFI: '1' };

beforeAll(async () => {
  dir = await tempDir();
  program = await bundleFile(
    dir.file('program.mjs'),
    `import { parentPort, workerData } from 'node:worker_threads';
     import { createImageFile, openImageFile } from ${nodeEntry};
     const [path, locks, stay] = workerData ?? process.argv.slice(2);
     const tell = (text) => parentPort ? parentPort.postMessage(text) : console.log(text);
     try {
       if (locks === 'create') await createImageFile(path, { format: 'qcow2', size: 1 << 20 });
       else {
         await using image = await openImageFile(path, { writable: true, locks });
         tell('open');
         if (stay) await new Promise((resolve) => process.stdin.once('end', resolve).resume());
       }
     } catch (error) { tell(error.code); }`,
  );
});
afterAll(() => dir.remove());

function start(...args: string[]) {
  const child = spawn(process.execPath, [program, ...args], { env, stdio: 'pipe' });
  let stderr = '';
  child.stderr.on('data', (text) => {
    stderr += text;
  });
  const first = new Promise<string>((resolve) =>
    child.stdout.once('data', (text) => resolve(`${text}`.trim())),
  );
  const ended = new Promise<string>((resolve) => child.once('close', () => resolve(stderr)));
  return { child, first, ended };
}

function inThread(path: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const thread = new Worker(program, { workerData: [path, 'take'], env, stderr: true });
    thread.once('message', resolve);
    thread.once('error', reject);
  });
}

describe.skipIf(process.platform !== 'linux')('image locks without koffi', () => {
  it('keep threads and processes of ours from each other, and end with a kill', async () => {
    const path = dir.file('disk.qcow2');
    await start(path, 'create').ended;
    const holder = start(path, 'take', 'stay');
    expect(await holder.first).toBe('open');
    expect(await start(path, 'take').first).toBe('locked');
    expect(await inThread(path)).toBe('locked');
    holder.child.kill('SIGKILL');
    await holder.ended;
    // Of threads that begin at the same time one at most has it.
    const answers = await Promise.all([1, 2, 3, 4].map(() => inThread(path)));
    expect(answers.filter((answer) => answer !== 'open' && answer !== 'locked')).toEqual([]);
    const after = start(path, 'take');
    expect(await after.first).toBe('open');
    expect((await after.ended).match(/COWHERD_NO_LOCKS.*npm install koffi/g)).toHaveLength(1);
  });

  it('are not missed where they are not wanted, nor by who makes an image', async () => {
    const path = dir.file('other.qcow2');
    expect(await start(path, 'create').ended).toBe('');
    const open = start(path, 'none');
    expect(await open.first).toBe('open');
    expect(await open.ended).toBe('');
    expect(await start(path, 'create').ended).toBe('');
  });
});
