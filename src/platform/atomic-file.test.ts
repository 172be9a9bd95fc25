import { spawn, spawnSync } from 'node:child_process';
import {
  chmodSync,
  closeSync,
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { basename } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { build } from 'esbuild';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { have, isRoot, mustRun, run, type TempDir, tempDir } from '../../test/support/programs.ts';
import { createAside, sweepAsides } from './atomic-file.ts';
import { processPlace, processStart } from './process-identity.ts';

let folder: TempDir;
beforeEach(async () => {
  folder = await tempDir('cowherd-aside-');
});
afterEach(() => folder.remove());

const names = () => readdirSync(folder.path).sort();

describe('createAside', () => {
  it('shows the file whole at its name, or not at all', async () => {
    const path = folder.file('disk.qcow2');
    const aside = createAside(path);
    expect(aside.target).toBe(path);
    expect(basename(aside.path)).toMatch(
      new RegExp(`^\\.disk\\.qcow2\\.cowherd-${process.pid}-\\d+\\.[0-9a-f]{8}\\.[0-9a-f]{12}\\.part$`),
    );
    expect(names()).toEqual([]);
    writeFileSync(aside.path, 'new');
    expect(existsSync(path)).toBe(false);
    await aside.commit();
    expect(names()).toEqual(['disk.qcow2']);
    await aside.abandon();
    expect(readFileSync(path, 'utf8')).toBe('new');
  });

  it('takes it away when it is abandoned or left', async () => {
    {
      await using aside = createAside(folder.file('disk'));
      writeFileSync(aside.path, 'half');
    }
    const aside = createAside(folder.file('disk'));
    await aside.abandon();
    await aside.abandon();
    expect(names()).toEqual([]);
  });

  it('replaces a file, keeping its mode and owner, and only where it may', async () => {
    const path = folder.file('disk');
    writeFileSync(path, 'old');
    chmodSync(path, 0o640);
    if (isRoot) await mustRun('chown', ['1234:2345', path]);
    linkSync(path, folder.file('other-link'));
    {
      await using refused = createAside(path);
      writeFileSync(refused.path, 'new');
      await expect(refused.commit({ replace: false })).rejects.toMatchObject({ code: 'exists' });
      expect(readFileSync(path, 'utf8')).toBe('old');
    }
    expect(names()).toEqual(['disk', 'other-link']);
    await using aside = createAside(path);
    writeFileSync(aside.path, 'new');
    await aside.commit();
    const { mode, uid, gid } = statSync(path);
    expect([readFileSync(path, 'utf8'), mode % 0o1000]).toEqual(['new', 0o640]);
    if (isRoot) expect([uid, gid]).toEqual([1234, 2345]);
    expect(readFileSync(folder.file('other-link'), 'utf8')).toBe('old');
    await using fresh = createAside(folder.file('fresh'));
    writeFileSync(fresh.path, 'x');
    await fresh.commit({ replace: false, durable: false });
    expect(names()).toEqual(['disk', 'fresh', 'other-link']);
    expect(lstatSync(folder.file('fresh')).nlink).toBe(1);
  });

  it('writes to where symbolic links lead, and leaves them', async () => {
    mkdirSync(folder.file('pool'));
    symlinkSync('pool/real', folder.file('link'));
    symlinkSync('link', folder.file('link-to-link'));
    await using aside = createAside(folder.file('link-to-link'));
    writeFileSync(aside.path, 'x');
    await aside.commit();
    expect(readlinkSync(folder.file('link'))).toBe('pool/real');
    expect(readFileSync(folder.file('pool/real'), 'utf8')).toBe('x');
    symlinkSync('round', folder.file('round'));
    expect(() => createAside(folder.file('round'))).toThrow(/Too many levels of symbolic links/);
  });

  it('has names short enough for any file name', async () => {
    const path = folder.file(`${'ä'.repeat(120)}.img`);
    await using aside = createAside(path);
    writeFileSync(aside.path, 'x');
    expect(Buffer.byteLength(basename(aside.path))).toBeLessThanOrEqual(255);
    await aside.commit();
    expect(existsSync(path)).toBe(true);
  });

  it('names what went wrong at the name that was asked for', async () => {
    const aside = createAside(folder.file('disk'));
    await expect(aside.commit()).rejects.toMatchObject({ code: 'not-found', path: folder.file('disk') });
    mkdirSync(folder.file('disk'));
    writeFileSync(aside.path, 'x');
    await expect(aside.commit()).rejects.toMatchObject({ code: 'bad-argument', detail: { errno: 'EISDIR' } });
    await aside.abandon();
    expect(names()).toEqual(['disk']);
  });
});

/** A program that prepares an aside, writes it, prints its path, and then does `then`. */
async function program(then: string): Promise<string> {
  const here = (name: string) => JSON.stringify(new URL(name, import.meta.url).pathname);
  const outfile = folder.file('program.mjs');
  await build({
    stdin: {
      contents: `
        import { writeFileSync } from 'node:fs';
        import { createAside } from ${here('./atomic-file.ts')};
        import { watchSignals } from ${here('./signals.ts')};
        const watch = watchSignals();
        const aside = createAside(process.argv[2]);
        writeFileSync(aside.path, 'half');
        console.log(aside.path);
        ${then}`,
      resolveDir: folder.path,
      loader: 'ts',
    },
    outfile,
    bundle: true,
    platform: 'node',
    format: 'esm',
    target: 'node20',
    logLevel: 'silent',
  });
  return outfile;
}

/** Starts the program and waits until it has printed its path. */
async function start(file: string, input: 'ignore' | number = 'ignore') {
  const child = spawn(process.execPath, [file, folder.file('disk')], {
    stdio: [input, 'pipe', 'inherit'],
  });
  const path = await new Promise<string>((resolve) =>
    child.stdout!.once('data', (text) => resolve(String(text).trim())),
  );
  const ended = new Promise<{ code: number | null; signal: string | null }>((resolve) =>
    child.on('close', (code, signal) => resolve({ code, signal })),
  );
  return { child, path, ended };
}

describe('a process that ends early', () => {
  it('takes its files with it when it exits or throws', async () => {
    for (const then of ['process.exit(3)', 'setTimeout(() => { throw new Error("bug") })']) {
      const file = await program(then);
      const ended = spawnSync(process.execPath, [file, folder.file('disk')], { encoding: 'utf8' });
      expect(ended.status).toBe(then.includes('exit') ? 3 : 1);
      expect(ended.stdout).toContain('.part');
      expect(names()).toEqual(['program.mjs']);
    }
  });

  it('is told of the first signal and ends at the second, its files deleted', async () => {
    const file = await program(`
      watch.signal.addEventListener('abort', () => console.log(watch.exitCode, watch.signal.reason.signalName));
      setInterval(() => {}, 1000);`);
    for (const [name, code] of [
      ['SIGINT', 130],
      ['SIGTERM', 143],
      ['SIGHUP', 129],
    ] as const) {
      const { child, path, ended } = await start(file);
      const told = new Promise<string>((resolve) =>
        child.stdout!.once('data', (text) => resolve(String(text).trim())),
      );
      child.kill(name);
      expect(await told).toBe(`${code} ${name}`);
      expect(existsSync(path)).toBe(true);
      child.kill(name);
      expect(await ended).toEqual({ code: null, signal: name });
      expect(existsSync(path)).toBe(false);
    }
  });

  it.skipIf(!existsSync('/proc/self/fdinfo'))(
    'goes on at SIGHUP after nohup, whose input cannot be read',
    async () => {
      const file = await program(`
      watch.signal.addEventListener('abort', () => console.log(watch.exitCode));
      setInterval(() => {}, 1000);`);
      const input = openSync('/dev/null', 'w');
      const { child, ended } = await start(file, input);
      closeSync(input);
      const told = new Promise<string>((resolve) =>
        child.stdout!.once('data', (text) => resolve(String(text).trim())),
      );
      child.kill('SIGHUP');
      await sleep(100);
      child.kill('SIGTERM');
      expect(await told).toBe('143');
      child.kill('SIGHUP');
      await sleep(100);
      expect(child.exitCode ?? child.signalCode).toBe(null);
      child.kill('SIGTERM');
      expect(await ended).toEqual({ code: null, signal: 'SIGTERM' });
    },
  );

  it('leaves a file when it is killed, which a sweep takes; files of live processes stay', async () => {
    const file = await program('setInterval(() => {}, 1000);');
    const [killed, alive] = [await start(file), await start(file)];
    killed.child.kill('SIGKILL');
    await killed.ended;
    await using own = createAside(folder.file('mine'));
    writeFileSync(own.path, 'x');
    expect(sweepAsides(folder.path)).toEqual([killed.path]);
    expect(existsSync(alive.path)).toBe(true);
    expect(existsSync(own.path)).toBe(true);
    alive.child.kill('SIGKILL');
    await alive.ended;
    expect(sweepAsides(folder.path)).toEqual([alive.path]);
    expect(sweepAsides(folder.path)).toEqual([]);
  });
});

describe('sweepAsides', () => {
  it('is not fooled by a number that came into use again, and asks strangers for a day of silence', () => {
    const start = Number(processStart(process.pid));
    const recent = [
      // Ours, by number and start: alive.
      `.a.cowherd-${process.pid}-${start}.${processPlace()}.0.part`,
      // Another boot, host or container: it may be at work.
      '.b.cowherd-1-5.0badcafe.0.part',
      '.c.cowherd-999999-5.0badcafe.0.part',
      '.d.cowherd-999999-beef.part',
      // No business of ours.
      'e.cowherd-999999-0.part',
      '.f.part',
      '.g.cowherd-x-0.part',
    ];
    const reused = `.h.cowherd-${process.pid}-${start - 1}.${processPlace()}.0.part`;
    for (const name of [...recent, reused]) writeFileSync(folder.file(name), 'x');
    expect(sweepAsides(folder.path)).toEqual([folder.file(reused)]);
    const old = [
      '.i.cowherd-1-5.0badcafe.0.part',
      '.j.cowherd-999999-beef.part',
      `.k.cowherd-${process.pid}-beef.part`,
    ];
    for (const name of old) {
      writeFileSync(folder.file(name), 'x');
      utimesSync(folder.file(name), 1000, Date.now() / 1000 - 25 * 3600);
    }
    expect(sweepAsides(folder.path)).toEqual(old.slice(0, 2).map((name) => folder.file(name)));
    expect(names()).toEqual([...recent, old[2]].sort());
  });

  it('says when it cannot look', () => {
    expect(() => sweepAsides(folder.file('nope'))).toThrow(/No such file or directory/);
  });
});

describe('a device', () => {
  it('is never put aside: at most a link to it is', async () => {
    const link = folder.file('disk');
    symlinkSync('/dev/null', link);
    for (const path of ['/dev/null', link])
      expect(() => createAside(path)).toThrow(/is a device: no file can take its place/);
    expect(() => createAside('/dev/null', { deviceLink: true })).toThrow(/is a device/);
    const aside = createAside(link, { deviceLink: true });
    writeFileSync(aside.path, 'new');
    await aside.commit();
    expect(lstatSync(link).isFile()).toBe(true);
    expect(readFileSync(link, 'utf8')).toBe('new');
    expect(lstatSync('/dev/null').isCharacterDevice()).toBe(true);
  });
});

describe.skipIf(!have('strace'))('commit', () => {
  it('has the file on the disk before its name, and then the name', async () => {
    const file = await program('await aside.commit();');
    const { stderr } = await run('strace', [
      '-f',
      '-e',
      'trace=fsync,rename,link,unlink',
      process.execPath,
      file,
      folder.file('disk'),
    ]);
    expect(stderr.match(/\b(fsync|rename|link|unlink)\(/g)).toEqual(['fsync(', 'rename(', 'fsync(']);
    expect(readFileSync(folder.file('disk'), 'utf8')).toBe('half');
  });
});
