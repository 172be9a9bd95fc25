import { spawn } from 'node:child_process';
import { chmodSync, mkdirSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { builtProgram } from '../support/built-program.ts';
import { listensForSignals } from '../support/listens.ts';
import { unmount } from '../support/mounts.ts';
import { have, isRoot, mustRun, type RunResult, run, type TempDir, tempDir } from '../support/programs.ts';
import { words } from './harness.ts';
import { buildChain } from './world.ts';

/*
 * The program itself, as it is installed: started through a link named qemu-img. And the places that need a directory
 * of their own: a long chain, a directory that cannot be written, a full disk.
 */

let place: TempDir;
let ours: readonly [string, string];

beforeAll(async () => {
  place = await tempDir('cowherd-program-');
  ours = await builtProgram(place.path, 'cow-img', 'qemu-img');
  // Others than root must be able to reach it.
  chmodSync(place.path, 0o755);
});

afterAll(async () => place.remove());

/** Runs a line through both, each in its own directory; as another user when `uid` is given. */
async function both(
  line: string,
  directories: readonly [string, string],
  uid?: number,
): Promise<RunResult[]> {
  const answers: RunResult[] = [];
  for (const [index, cwd] of directories.entries()) {
    const [command, ...first] = index === 0 ? ['qemu-img'] : ours;
    const as = uid === undefined ? [] : ['setpriv', `--reuid=${uid}`, '--clear-groups'];
    const [program, ...args] = [...as, command, ...first, ...words(line, cwd)];
    const answer = await run(program, args, { cwd });
    const plain = (text: string) => text.replaceAll(cwd, '$PWD');
    answers.push({ code: answer.code, stdout: plain(answer.stdout), stderr: plain(answer.stderr) });
  }
  return answers;
}

async function twoDirectories(prepare: (path: string) => Promise<void>): Promise<[string, string]> {
  const made = ['a', 'b'].map((name) => place.file(`${name}${Math.random().toString(36).slice(2)}`));
  for (const path of made) {
    mkdirSync(path);
    await prepare(path);
  }
  return made as [string, string];
}

describe.skipIf(!have('qemu-img'))('started as qemu-img', () => {
  it.each([
    'create -f qcow2 new.qcow2 10M',
    'create -f qcow2 -b base.qcow2 -F qcow2 clone.qcow2',
    'create -f nonesuch new.img 1M',
    'info base.qcow2',
    'info --output=json base.qcow2',
    'info missing.img',
    'info -z',
    'map --output=json base.qcow2',
    'check base.qcow2',
    'resize base.qcow2 +1M',
    'compare base.qcow2 base.qcow2',
    'nonesuch',
    '',
  ])('%s', async (line) => {
    const directories = await twoDirectories(async (path) => {
      await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', join(path, 'base.qcow2'), '1M']);
    });
    const [theirs, own] = await both(line, directories);
    expect(own).toEqual(theirs);
  });

  it('says its own name in messages', async () => {
    await mustRun('ln', ['-sf', join(place.path, 'bin/cow-img.cjs'), place.file('cow-img')]);
    const { stderr } = await run(process.execPath, [place.file('cow-img'), 'nonesuch']);
    expect(stderr).toBe("cow-img: Command not found: nonesuch\nTry 'cow-img --help' for more information\n");
  });

  it('survives a reader that goes away', async () => {
    const line = `"$0" "$1" --help | head -n 1`;
    const { stdout, stderr } = await run('bash', ['-c', line, ...ours]);
    expect(stdout).toMatch(/^qemu-img version 7\.2\.0 \(cowherd /);
    expect(stderr).toBe('');
  });

  it('says whose version it is, whatever it was called by', async () => {
    const { stdout } = await run(process.execPath, [
      ours[1].replace(/qemu-img$/, 'bin/cow-img.cjs'),
      '--version',
    ]);
    expect(stdout).toMatch(/^qemu-img version 7\.2\.0 \(cowherd /);
  });

  it.skipIf(!have('bash'))('ends the script around it by Ctrl-C', async () => {
    const image = place.file('scripted.img');
    const script = `for round in 1 2; do "$@"; echo "round $round"; done`;
    const args = ['-c', script, 'bash', ...ours, 'create', '-q', '-o', 'preallocation=full', image, '4G'];
    const child = spawn('bash', args, { detached: true, stdio: ['ignore', 'pipe', 'inherit'] });
    let stdout = '';
    child.stdout.on('data', (piece: Buffer) => {
      stdout += piece.toString();
    });
    const ended = new Promise((resolve) => child.on('close', (code, signal) => resolve(code ?? signal)));
    while (!readdirSync(place.path).some((name) => name.includes('scripted.img'))) await sleep(5);
    process.kill(-child.pid!, 'SIGINT');
    expect(await ended).toBe('SIGINT');
    expect(stdout).toBe('');
    expect(readdirSync(place.path).filter((name) => name.includes('scripted.img'))).toEqual([]);
  });

  it.each(['info', 'info x'])('%s in a folder that is gone', async (line) => {
    await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', place.file('far.qcow2'), '1M']);
    const name = line === 'info' ? ` ${place.file('far.qcow2')}` : '';
    const answers: RunResult[] = [];
    for (const [index, program] of [['qemu-img'], ours].entries()) {
      const gone = place.file(`gone${index}`);
      mkdirSync(gone);
      const script = `rmdir "$0" && "$@" ${line}${name}`;
      answers.push(await run('sh', ['-c', script, gone, ...program], { cwd: gone }));
    }
    expect(answers[1]).toEqual(answers[0]);
  });

  it('does not open a debugger at SIGUSR1, and ends by SIGTERM as a signal would end it', async () => {
    const image = place.file('full.img');
    const child = spawn(ours[0], [ours[1], 'create', '-o', 'preallocation=full', image, '4G']);
    let stderr = '';
    child.stderr.on('data', (piece: Buffer) => {
      stderr += piece.toString();
    });
    const ended = new Promise((resolve) => child.on('close', (code, signal) => resolve(code ?? signal)));
    await new Promise((resolve) => child.stdout.once('data', resolve));
    child.kill('SIGUSR1');
    await new Promise((resolve) => setTimeout(resolve, 100));
    child.kill('SIGTERM');
    expect(await ended).toBe('SIGTERM');
    expect(stderr).not.toMatch(/debugger/i);
    expect(readdirSync(place.path).filter((name) => name.includes('full.img'))).toEqual([]);
  });
});

describe.skipIf(!have('qemu-img') || !have('qemu-io'))('asked for its progress again and again', () => {
  it('goes on, and ends as ever', async () => {
    const [base, over] = [place.file('asked.base'), place.file('asked')];
    await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', base, '40M']);
    for (let round = 0; round < 3; round++) {
      await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', base, '-F', 'qcow2', over]);
      await mustRun('qemu-io', ['-f', 'qcow2', '-c', `write -P ${round + 1} 0 8M`, over]);
      const child = spawn(ours[0], [ours[1], 'commit', over], { stdio: ['ignore', 'ignore', 'pipe'] });
      let stderr = '';
      child.stderr.on('data', (piece: Buffer) => {
        stderr += piece.toString();
      });
      const ended = new Promise((resolve) => child.on('close', (code, signal) => resolve(code ?? signal)));
      while (child.exitCode === null && !listensForSignals(child.pid!)) await sleep(1);
      while (child.exitCode === null && child.signalCode === null) {
        child.kill('SIGUSR1');
        await sleep(1);
      }
      expect(await ended).toBe(0);
      expect(stderr).toMatch(/^( {4}\(\d+\.\d\d\/100%\)\n)*$/);
    }
  });
});

describe.skipIf(!have('qemu-img'))('a chain of 300 images', () => {
  let directory: string;
  beforeAll(async () => {
    directory = place.file('chain');
    await buildChain(directory, 300);
  });

  it.each([
    'info 299.qcow2',
    'info --backing-chain 299.qcow2',
    'info --backing-chain --output=json 299.qcow2',
    'map 299.qcow2',
    'map --output=json 299.qcow2',
    'check 299.qcow2',
    'compare 299.qcow2 000.qcow2',
  ])('%s', async (line) => {
    const [theirs, own] = await both(line, [directory, directory]);
    expect(own).toEqual(theirs);
  });

  it('create on top of it, and resize', async () => {
    await mustRun('cp', ['-a', directory, place.file('chain2')]);
    for (const line of [
      'create -f qcow2 -b 299.qcow2 -F qcow2 300.qcow2',
      'resize 300.qcow2 128k',
      'info 300.qcow2',
    ]) {
      const [theirs, own] = await both(line, [directory, place.file('chain2')]);
      expect(own, line).toEqual(theirs);
    }
  });
});

describe.skipIf(!have('qemu-img') || !isRoot || !have('setpriv'))('as a user who may not', () => {
  const uid = 65534;
  const prepare = async (path: string) => {
    await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', join(path, 'closed.qcow2'), '1M']);
    await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', join(path, 'readonly.qcow2'), '1M']);
    chmodSync(join(path, 'closed.qcow2'), 0o600);
    chmodSync(join(path, 'readonly.qcow2'), 0o644);
    mkdirSync(join(path, 'sealed'), { mode: 0o700 });
    mkdirSync(join(path, 'unlisted'));
    chmodSync(join(path, 'unlisted'), 0o733);
    chmodSync(path, 0o755);
  };

  it.each([
    'create new.img 1M',
    'create -f qcow2 new.qcow2 1M',
    'create -f qcow2 readonly.qcow2 1M',
    'create -f qcow2 closed.qcow2 1M',
    'create -f qcow2 -b closed.qcow2 -F qcow2 new.qcow2',
    'create sealed/new.img 1M',
    'info closed.qcow2',
    'info readonly.qcow2',
    'info sealed/x.img',
    'map closed.qcow2',
    'check closed.qcow2',
    'check -r all readonly.qcow2',
    'compare closed.qcow2 readonly.qcow2',
    'resize closed.qcow2 2M',
    'resize readonly.qcow2 2M',
    'create -f qcow2 unlisted/new.qcow2 1M',
    'convert -O qcow2 readonly.qcow2 unlisted/new.qcow2',
    'dd -O qcow2 if=readonly.qcow2 of=unlisted/new.qcow2',
  ])('%s', async (line) => {
    const directories = await twoDirectories(prepare);
    const [theirs, own] = await both(line, directories, uid);
    expect(own).toEqual(theirs);
    for (const path of directories) expect(statSync(join(path, 'readonly.qcow2')).size).toBe(196616);
    const names = directories.map((path) => readdirSync(path, { recursive: true }).sort());
    expect(names[1]).toEqual(names[0]);
  });
});

describe.skipIf(!have('qemu-img') || !isRoot)('on a full disk', () => {
  const small = async (path: string) => {
    await mustRun('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', path]);
    await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', join(path, 'there.qcow2'), '4M']);
    await mustRun('qemu-img', ['create', '-q', join(path, 'there.img'), '64k']);
  };

  it.each([
    'create -o preallocation=falloc new.img 4M',
    'create -o preallocation=full new.img 4M',
    'create -f qcow2 -o preallocation=falloc new.qcow2 4M',
    'create -f qcow2 -o preallocation=full new.qcow2 4M',
    'create -f qcow2 new.qcow2 2P',
    'create -f qcow2 -o preallocation=full there.qcow2 4M',
    'resize -f raw --preallocation=full there.img 4M',
    'resize -f raw --preallocation=falloc there.img 4M',
    'resize --preallocation=full there.qcow2 8M',
    'resize there.qcow2 2P',
  ])('%s', async (line) => {
    let mounted: [string, string] | undefined;
    try {
      mounted = await twoDirectories(small);
      const [theirs, own] = await both(line, mounted);
      expect({ code: own.code, stdout: own.stdout }).toEqual({ code: theirs.code, stdout: theirs.stdout });
      expect(own.stderr).toBe(theirs.stderr);
      // What was there is there still, and nothing else.
      expect(readdirSync(mounted[1]).sort()).toEqual(['there.img', 'there.qcow2']);
      await mustRun('qemu-img', ['check', join(mounted[1], 'there.qcow2')]);
    } finally {
      for (const path of mounted ?? []) await unmount(path);
    }
  });
});
