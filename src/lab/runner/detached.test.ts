import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { have, type TempDir, tempDir } from '../../../test/support/programs.ts';
import { bootDisk, endlessGuest, seatOn } from '../../../test/support/seats.ts';
import type { Seat } from '../seats/seat.ts';
import { QemuRunner } from './qemu-runner.ts';
import { seatFiles } from './runtime-dir.ts';

const here = fileURLToPath(new URL('.', import.meta.url));

/** The tool, as far as these tests need it: starts the seat, says so, and ends. */
const tool = `
  import { readFileSync } from 'node:fs';
  import { QemuRunner } from './qemu-runner.ts';
  const { seat, runtimeDir } = JSON.parse(readFileSync(process.argv[2], 'utf8'));
  await using runner = new QemuRunner({ accelerator: 'tcg', runtimeDir });
  await runner.start(seat);
  console.log('started');
`;

let folder: TempDir;
let seat: Seat;

beforeEach(async () => {
  folder = await tempDir();
  seat = seatOn(folder, 'endless', bootDisk(folder, 'endless', endlessGuest));
  await build({
    stdin: { contents: tool, resolveDir: here, loader: 'ts' },
    outfile: folder.file('tool.mjs'),
    bundle: true,
    platform: 'node',
    format: 'esm',
    target: 'node20',
    external: ['koffi'],
    logLevel: 'error',
  });
  writeFileSync(folder.file('job.json'), JSON.stringify({ seat, runtimeDir: folder.file('run') }));
});

afterEach(async () => {
  await newRunner().stop(seat, { gracefulMs: 0 });
  await folder.remove();
});

function newRunner(): QemuRunner {
  return new QemuRunner({ accelerator: 'tcg', runtimeDir: folder.file('run') });
}

function runTool(): { child: ChildProcess; ended: Promise<string> } {
  const args = [folder.file('tool.mjs'), folder.file('job.json')];
  const child = spawn(process.execPath, args, { detached: true, stdio: ['ignore', 'pipe', 'inherit'] });
  const ended = new Promise<string>((resolve) => {
    let text = '';
    child.stdout!.on('data', (chunk) => {
      text += chunk;
    });
    child.on('close', () => resolve(text));
  });
  return { child, ended };
}

describe.skipIf(!have('qemu-system-x86_64'))('guests and the tool that started them', () => {
  it('the guest outlives the tool, even when the whole process group is interrupted', async () => {
    const { child, ended } = runTool();
    expect(await ended).toBe('started\n');
    try {
      process.kill(-child.pid!, 'SIGINT');
    } catch {
      // Nobody is left in the tool's group, then: the guest is not in it.
    }
    await sleep(100);
    await using runner = newRunner();
    expect(await runner.state(seat)).toBe('running');
    await runner.stop(seat, { gracefulMs: 0 });
    expect(await runner.state(seat)).toBe('off');
  });

  it('a tool killed at any moment of a start leaves a guest that is found, or none', async () => {
    await using runner = newRunner();
    const files = seatFiles(folder.file('run'), seat);
    let found = 0;
    for (let i = 0; i < 12; i++) {
      const { child, ended } = runTool();
      // From the moment that the folder is there: earlier, nothing has happened yet.
      if (i > 0) while (!existsSync(files.log) && child.exitCode === null) await sleep(1);
      await sleep(i * 6);
      child.kill('SIGKILL');
      await ended;
      // QEMU itself goes on coming up.
      await sleep(150);
      const state = await runner.state(seat);
      expect(['off', 'running']).toContain(state);
      if (state === 'running') found++;
      await runner.stop(seat, { gracefulMs: 0 });
      expect(await runner.state(seat)).toBe('off');
      await runner.start(seat);
      expect(await runner.state(seat)).toBe('running');
      await runner.stop(seat, { gracefulMs: 0 });
      await runner.undefine(seat);
      expect(existsSync(join(files.folder, 'log'))).toBe(false);
    }
    expect(found).toBeGreaterThan(0);
  });
});
