import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { builtProgram } from './support/built-program.ts';
import { have, mustRun, run, type TempDir, tempDir } from './support/programs.ts';

/** Kills of each command; COWHERD_LONG=1 for a hundred in all. */
const kills = process.env.COWHERD_LONG === '1' ? 34 : 4;

describe.skipIf(!have('qemu-img'))('cow-img, killed at random moments', () => {
  let folder: TempDir;
  let tools: TempDir;
  let node: string;
  let program: string;
  const old = Buffer.from('the file that was there before\n');

  beforeAll(async () => {
    folder = await tempDir();
    tools = await tempDir();
    [node, program] = await builtProgram(tools.path, 'cow-img', 'qemu-img');
    writeFileSync(folder.file('source.raw'), randomBytes(48 * 1024 * 1024));
  });
  afterAll(async () => {
    await tools.remove();
    await folder.remove();
  });

  /** Starts the command and kills it after `ms`; true when the kill came before its end. */
  async function killedAfter(args: readonly string[], ms: number): Promise<boolean> {
    const child = spawn(node, [program, ...args], { cwd: folder.path, stdio: 'ignore' });
    const ended = new Promise<NodeJS.Signals | null>((resolve) =>
      child.on('exit', (_, signal) => resolve(signal)),
    );
    await Promise.race([sleep(ms), ended]);
    child.kill('SIGKILL');
    return (await ended) === 'SIGKILL';
  }

  const cases: readonly { name: string; args: readonly string[]; check: readonly (readonly string[])[] }[] = [
    {
      name: 'convert -c',
      args: ['convert', '-c', '-f', 'raw', '-O', 'qcow2', 'source.raw', 'target'],
      check: [
        ['check', '-q', 'target'],
        ['compare', '-q', '-f', 'raw', '-F', 'qcow2', 'source.raw', 'target'],
      ],
    },
    {
      name: 'convert',
      args: ['convert', '-f', 'raw', '-O', 'qcow2', 'source.raw', 'target'],
      check: [
        ['check', '-q', 'target'],
        ['compare', '-q', '-f', 'raw', '-F', 'qcow2', 'source.raw', 'target'],
      ],
    },
    {
      name: 'create with preallocation',
      args: ['create', '-q', '-f', 'qcow2', '-o', 'preallocation=full', 'target', '64M'],
      check: [['check', '-q', 'target']],
    },
  ];

  for (const { name, args, check } of cases) {
    it(`${name}: ${kills} times`, { timeout: 600_000 }, async () => {
      const target = folder.file('target');
      const isWhole = async () => {
        for (const line of check)
          expect((await run('qemu-img', line, { cwd: folder.path })).code, line[0]).toBe(0);
      };
      const begun = performance.now();
      await mustRun(node, [program, ...args], { cwd: folder.path });
      const whole = performance.now() - begun;
      await isWhole();

      let cutShort = 0;
      for (let kill = 0; kill < kills; kill++) {
        const before = kill % 2 === 0 ? undefined : old;
        rmSync(target, { force: true });
        if (before) writeFileSync(target, before);
        // The start of the program, in which nothing happens yet, is mostly left out.
        if (await killedAfter(args, whole * (0.25 + Math.random() * 0.7))) cutShort += 1;
        if (existsSync(target) && !(before && readFileSync(target).equals(before))) await isWhole();
      }
      expect(cutShort).toBeGreaterThan(0);

      await mustRun(node, [program, ...args], { cwd: folder.path });
      await isWhole();
      expect(readdirSync(folder.path).sort()).toEqual(['source.raw', 'target']);
    });
  }
});
