import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { copyFileSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { builtProgram } from './support/built-program.ts';
import { listensForSignals } from './support/listens.ts';
import { have, mustRun, run, type TempDir, tempDir } from './support/programs.ts';

/*
 * Ctrl-C in the real program, in the midst of every verb that takes long: the exit code says so, and all images are as
 * they were, or read as they did and are in order. A verb that was done before the signal came is asked again, with less
 * time.
 */

interface Case {
  readonly line: string;
  /** Files that may differ in their bytes: they must be sound and read as before. Others are equal to the byte. */
  readonly may?: readonly string[];
}

const cases: readonly Case[] = [
  { line: 'convert -O qcow2 source.raw new' },
  { line: 'convert -c -O qcow2 source.raw target.qcow2' },
  { line: 'convert -C -O raw big.qcow2 target.qcow2' },
  { line: 'dd -O qcow2 if=source.raw of=target.qcow2 bs=4k' },
  { line: 'create -f qcow2 -o preallocation=full new 3G' },
  { line: 'create -f raw -o preallocation=full target.qcow2 3G' },
  { line: 'commit overlay.qcow2', may: ['overlay.qcow2', 'base.qcow2'] },
  { line: 'rebase -b other.raw -F raw overlay.qcow2', may: ['overlay.qcow2'] },
  { line: 'amend -o compat=0.10 big.qcow2', may: ['big.qcow2'] },
  { line: 'amend -o refcount_bits=64 tiny.qcow2', may: ['tiny.qcow2'] },
  { line: 'check tiny.qcow2' },
  { line: 'check -r all tiny.qcow2', may: ['tiny.qcow2'] },
  { line: 'compare source.raw tiny.qcow2' },
  { line: 'bench -c 100000 source.raw' },
  { line: 'measure -O qcow2 tiny.qcow2' },
  { line: 'map --output=json tiny.qcow2' },
  { line: 'resize -f raw --preallocation=full other.raw 3G' },
  { line: 'resize --preallocation=full big.qcow2 3G', may: ['big.qcow2'] },
];

describe.skipIf(!have('qemu-img') || !have('qemu-io'))('Ctrl-C', () => {
  let made: TempDir;
  let folder: TempDir;
  let tools: TempDir;
  let node: string;
  let program: string;

  beforeAll(async () => {
    made = await tempDir('cowherd-interrupt-');
    tools = await tempDir();
    [node, program] = await builtProgram(tools.path, 'cow-img', 'qemu-img');
    const here = { cwd: made.path };
    const image = (line: string) => mustRun('qemu-img', line.split(' '), here);
    writeFileSync(made.file('source.raw'), randomBytes(48 * 1024 * 1024));
    await image('convert -O qcow2 source.raw big.qcow2');
    await image('convert -O qcow2 -o cluster_size=512 source.raw tiny.qcow2');
    await image('create -q -f qcow2 target.qcow2 1M');
    await image('create -q -f raw other.raw 48M');
    await image('create -q -f qcow2 -o cluster_size=4k base.qcow2 48M');
    await image('create -q -f qcow2 -o cluster_size=4k -b base.qcow2 -F qcow2 overlay.qcow2');
    await mustRun('qemu-io', ['-f', 'qcow2', '-c', 'write -P 3 0 48M', 'base.qcow2'], here);
    await mustRun('qemu-io', ['-f', 'qcow2', '-c', 'write -P 4 0 24M', 'overlay.qcow2'], here);
  });
  afterAll(async () => {
    await tools?.remove();
    await made?.remove();
  });
  beforeEach(async () => {
    folder = await tempDir('cowherd-interrupt-');
    return () => folder.remove();
  });

  /** Interrupts the program so many milliseconds after it began to listen for signals. Gives its exit code, or the signal that it died of. */
  async function interrupted(args: readonly string[], ms: number): Promise<number | NodeJS.Signals> {
    const child = spawn(node, [program, ...args], { cwd: folder.path, stdio: 'ignore' });
    let running = true;
    const ended = new Promise<number | NodeJS.Signals>((resolve) => {
      child.on('exit', (code, signal) => {
        running = false;
        resolve(code ?? signal!);
      });
    });
    while (running && !listensForSignals(child.pid!)) await sleep(1);
    await Promise.race([sleep(ms), ended]);
    child.kill('SIGINT');
    return await ended;
  }

  it.each(cases)('in $line', { timeout: 180_000 }, async ({ line, may = [] }) => {
    // An overlay is named with what it stands on.
    const stand = line.includes('overlay') ? ['base.qcow2', 'overlay.qcow2'] : [];
    const names = readdirSync(made.path)
      .filter((name) => line.includes(name) || stand.includes(name))
      .sort();
    const before = new Map(names.map((name) => [name, readFileSync(made.file(name))]));
    const content = async (name: string) => {
      await mustRun('qemu-img', ['convert', '-O', 'raw', name, `${name}.content`], { cwd: folder.path });
      return readFileSync(folder.file(`${name}.content`));
    };
    let code: number | NodeJS.Signals = 0;
    for (const ms of [100, 30, 10, 3, 0, 0]) {
      for (const name of readdirSync(folder.path)) rmSync(folder.file(name));
      for (const name of names) copyFileSync(made.file(name), folder.file(name));
      code = await interrupted(line.split(' '), ms);
      if (code === 'SIGINT') break;
    }
    expect(code).toBe('SIGINT');
    expect(readdirSync(folder.path).sort()).toEqual(names);
    for (const name of names) {
      if (!may.includes(name)) {
        expect(before.get(name)!.equals(readFileSync(folder.file(name))), name).toBe(true);
      }
    }
    for (const name of may) {
      const { code: checked, stdout } = await run('qemu-img', ['check', name], { cwd: folder.path });
      expect([0, 3], stdout).toContain(checked);
      await mustRun('qemu-img', ['convert', '-O', 'raw', name, `${name}.now`], { cwd: folder.path });
      const now = readFileSync(folder.file(`${name}.now`));
      for (const file of names) copyFileSync(made.file(file), folder.file(file));
      const was = await content(name);
      // A commit that was cut short may have brought the base some of what the overlay holds, and nothing else.
      const other = line.startsWith('commit') && name === 'base.qcow2' ? await content('overlay.qcow2') : was;
      for (let at = 0; at < was.length; at += 512) {
        const sector = now.subarray(at, at + 512);
        if (sector.equals(was.subarray(at, at + 512)) || sector.equals(other.subarray(at, at + 512)))
          continue;
        expect.fail(`${name} has at ${at} what was in none of the images`);
      }
    }
  });
});
