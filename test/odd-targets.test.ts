import { spawn } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  closeSync,
  fstatSync,
  linkSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { cowImg } from '../src/cli/cow-img.ts';
import { createTarget } from '../src/node.ts';
import { createAside } from '../src/platform/atomic-file.ts';
import { processPlace, processStart } from '../src/platform/process-identity.ts';
import { builtProgram } from './support/built-program.ts';
import { testContext } from './support/cli-context.ts';
import { have, isRoot, mustRun, openQemuIo, type TempDir, tempDir } from './support/programs.ts';

/** node and the program as users have it, for what a test cannot do in its own process. */
let program: [string, string];
let built: TempDir;
beforeAll(async () => {
  built = await tempDir('cowherd-odd-targets-program-');
  chmodSync(built.path, 0o755);
  program = await builtProgram(built.path, 'cow-img', 'cow-img');
});
afterAll(() => built.remove());

let dir: TempDir;
beforeEach(async () => {
  dir = await tempDir('cowherd-odd-targets-');
});
afterEach(() => dir.remove());

async function cow(line: string): Promise<{ code: number; err: string }> {
  const context = testContext({ program: 'cow-img', cwd: dir.path });
  const code = await cowImg(
    line.split(' ').map((word) => word.replace('DIR', dir.path)),
    context,
  );
  return { code, err: context.err() };
}

/** A source of a megabyte of sevens, and the same as raw bytes. */
async function makeSource(): Promise<Buffer> {
  await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', dir.file('source'), '1M']);
  await mustRun('qemu-io', ['-f', 'qcow2', '-c', 'write -P 7 0 512k', dir.file('source')]);
  return Buffer.concat([Buffer.alloc(512 * 1024, 7), Buffer.alloc(512 * 1024)]);
}

const judge = have('qemu-img') && have('qemu-io');

describe.skipIf(!judge)('a file that a process has open, as a target', () => {
  it('takes the bytes, whatever its name is by now, by whatever link', async () => {
    const bytes = await makeSource();
    const fd = openSync(dir.file('out'), 'w+');
    try {
      const { ino } = fstatSync(fd);
      symlinkSync(`/dev/fd/${fd}`, dir.file('link'));
      for (const deleted of [false, true]) {
        if (deleted) rmSync(dir.file('out'));
        for (const name of [
          `/proc/self/fd/${fd}`,
          `/proc/${process.pid}/fd/${fd}`,
          `/dev/fd/${fd}`,
          'DIR/link',
        ]) {
          writeFileSync(fd, 'old');
          expect(await cow(`convert -O raw DIR/source ${name}`)).toEqual({ code: 0, err: '' });
          expect(readFileSync(`/proc/self/fd/${fd}`).equals(bytes)).toBe(true);
          expect([fstatSync(fd).ino, fstatSync(fd).nlink]).toEqual([ino, deleted ? 0 : 1]);
        }
      }
      expect(readdirSync(dir.path).sort()).toEqual(['link', 'source']);
      expect(() => createAside(dir.file('link'))).toThrow(/is a file that a process has open/);
    } finally {
      closeSync(fd);
    }
  });

  it('is standard output too', async () => {
    const bytes = await makeSource();
    const child = spawn('sh', ['-c', 'exec "$0" "$1" convert -O raw source /dev/stdout > out', ...program], {
      cwd: dir.path,
      stdio: 'inherit',
    });
    expect(await new Promise((resolve) => child.on('close', resolve))).toBe(0);
    expect(readFileSync(dir.file('out')).equals(bytes)).toBe(true);
  });

  it('is not written to while somebody uses it, or it is read', async () => {
    await makeSource();
    const fd = openSync(dir.file('source'), 'r+');
    try {
      const before = readFileSync(dir.file('source'));
      {
        await using _guest = await openQemuIo(['-f', 'qcow2', dir.file('source')]);
        const { code, err } = await cow(`create -q -f qcow2 /dev/fd/${fd} 1M`);
        expect([code, err]).toEqual([1, expect.stringContaining('Is another process using the image')]);
      }
      for (const share of ['', '-U ']) {
        const { code, err } = await cow(`convert ${share}-O raw DIR/source /dev/fd/${fd}`);
        expect([code, err]).toEqual([1, expect.stringMatching(/which is read|Failed to get/)]);
      }
      expect(readFileSync(dir.file('source')).equals(before)).toBe(true);
    } finally {
      closeSync(fd);
    }
  });
});

describe.skipIf(!judge || !isRoot)('a file that nothing can be renamed over', () => {
  it('of another user in a sticky folder is written in place', async () => {
    const bytes = await makeSource();
    for (const name of ['sticky', 'sticky/own']) mkdirSync(dir.file(name));
    chmodSync(dir.path, 0o755);
    chmodSync(dir.file('sticky'), 0o1777);
    for (const [name, uid] of [
      ['theirs', 1234],
      ['ours', 2345],
    ] as const) {
      writeFileSync(dir.file(`sticky/${name}`), 'old');
      chmodSync(dir.file(`sticky/${name}`), 0o666);
      chownSync(dir.file(`sticky/${name}`), uid, uid);
    }
    const inodes = ['theirs', 'ours'].map((name) => statSync(dir.file(`sticky/${name}`)).ino);
    for (const name of ['theirs', 'ours', 'new']) {
      const words = [program[1], 'convert', '-O', 'raw', dir.file('source'), dir.file(`sticky/${name}`)];
      const child = spawn(process.execPath, words, { uid: 2345, gid: 2345, stdio: 'inherit' });
      expect(await new Promise((resolve) => child.on('close', resolve))).toBe(0);
      expect(readFileSync(dir.file(`sticky/${name}`)).equals(bytes)).toBe(true);
    }
    const after = ['theirs', 'ours'].map((name) => statSync(dir.file(`sticky/${name}`)).ino);
    expect([after[0] === inodes[0], after[1] === inodes[1]]).toEqual([true, false]);
    expect(readdirSync(dir.file('sticky')).sort()).toEqual(['new', 'ours', 'own', 'theirs']);
  });

  it.skipIf(!have('mount') || !have('unshare'))('a mount point is written in place', async () => {
    const bytes = await makeSource();
    for (const name of ['volume', 'target']) writeFileSync(dir.file(name), 'old');
    const script = `mount --bind volume target &&
      "$0" "$1" convert -O raw source target && cmp volume target &&
      "$0" "$1" create -q -f qcow2 -o data_file=target image 1M && ls -A > names`;
    await mustRun('unshare', ['-m', 'sh', '-ec', script, ...program], { cwd: dir.path });
    expect(readFileSync(dir.file('names'), 'utf8')).toBe('image\nnames\nsource\ntarget\nvolume\n');
    expect(readFileSync(dir.file('target'), 'utf8')).toBe('old');
    expect(statSync(dir.file('volume')).size).toBe(bytes.length);
  });

  it('lies in a folder that lets nothing go (chattr +a), or is new there', async (context) => {
    const bytes = await makeSource();
    mkdirSync(dir.file('add'));
    writeFileSync(dir.file('add/old'), 'old');
    try {
      await mustRun('chattr', ['+a', dir.file('add')]);
    } catch {
      return context.skip();
    }
    try {
      for (const name of ['old', 'new']) {
        expect(await cow(`convert -O raw DIR/source DIR/add/${name}`)).toEqual({ code: 0, err: '' });
        expect(readFileSync(dir.file(`add/${name}`)).equals(bytes)).toBe(true);
      }
      expect((await cow('create -q -f vmdk -o subformat=monolithicFlat DIR/add/split.vmdk 1M')).code).toBe(0);
      const names = ['new', 'old', 'split-flat.vmdk', 'split.vmdk'];
      expect(readdirSync(dir.file('add')).sort()).toEqual(names);
      await expect(createTarget(dir.file('add/old'), { keepLinks: true })).rejects.toMatchObject({
        code: 'denied',
      });
      expect(readdirSync(dir.file('add')).sort()).toEqual(names);
    } finally {
      await mustRun('chattr', ['-a', dir.file('add')]);
    }
  });
});

describe.skipIf(!judge)('a file that whoever calls has open', () => {
  it('takes what is written where it lies while it is empty, and keeps its content once it has some', async () => {
    const bytes = await makeSource();
    const fd = openSync(dir.file('out'), 'w+');
    try {
      await mustRun(program[0], [program[1], 'convert', '-O', 'raw', dir.file('source'), dir.file('out')]);
      expect(fstatSync(fd)).toMatchObject({ ino: statSync(dir.file('out')).ino, nlink: 1 });
      expect(readFileSync(`/proc/self/fd/${fd}`).equals(bytes)).toBe(true);
      await mustRun(program[0], [program[1], 'create', '-q', '-f', 'raw', dir.file('out'), '1M']);
      expect(fstatSync(fd)).toMatchObject({ size: bytes.length, nlink: 0 });
      expect(readFileSync(`/proc/self/fd/${fd}`).equals(bytes)).toBe(true);
    } finally {
      closeSync(fd);
    }
  });

  it('is empty again where the work fails', async () => {
    writeFileSync(dir.file('out'), '');
    const { ino } = statSync(dir.file('out'));
    {
      await using target = await createTarget(dir.file('out'));
      await target.store.write(0, new Uint8Array(512));
      await target.settle();
      expect([target.aside, statSync(dir.file('out')).size]).toEqual([false, 512]);
    }
    expect(statSync(dir.file('out'))).toMatchObject({ ino, size: 0 });
    await using kept = await createTarget(dir.file('out'), { keepLinks: true });
    expect(kept.aside).toBe(true);
  });
});

describe.skipIf(!judge)('a file that is written in place', () => {
  it('keeps what it held where the image is refused before its first byte', async () => {
    await makeSource();
    linkSync(dir.file('source'), dir.file('other'));
    const before = readFileSync(dir.file('source'));
    for (const line of [
      'create -q -f qcow2 -o cluster_size=3 DIR/other 1M',
      'create -q -f qcow2 -o preallocation=nope DIR/other 1M',
      'create -q -f qcow2 -o encrypt.format=luks DIR/other 1M',
      'convert -O qcow2 -o compat=7 DIR/copy DIR/other',
    ]) {
      writeFileSync(dir.file('copy'), before);
      expect(await cow(line)).toMatchObject({ code: 1 });
      expect(readFileSync(dir.file('other')).equals(before), line).toBe(true);
    }
    expect(await cow('create -q -f raw DIR/other 0')).toEqual({ code: 0, err: '' });
    expect(statSync(dir.file('source'))).toMatchObject({ size: 0, nlink: 2 });
  });

  it.each([{ durable: true }, { durable: false }])('is empty after a commit of nothing: %o', async (how) => {
    writeFileSync(dir.file('out'), 'old');
    linkSync(dir.file('out'), dir.file('other'));
    {
      await using target = await createTarget(dir.file('out'), { emptyLate: true });
      expect([target.aside, target.store.size, statSync(dir.file('out')).size]).toEqual([false, 0, 3]);
    }
    expect(readFileSync(dir.file('other'), 'latin1')).toBe('old');
    await using target = await createTarget(dir.file('out'), { emptyLate: true });
    await target.commit(how);
    expect(statSync(dir.file('other')).size).toBe(0);
  });
});

describe('a target', () => {
  it('whose path leads out of where a link leads is made there', async () => {
    mkdirSync(dir.file('a/b'), { recursive: true });
    symlinkSync('a/b', dir.file('link'));
    symlinkSync('../up', dir.file('a/b/up'));
    expect((await cow('create -q -f raw DIR/link/../out 1M')).code).toBe(0);
    expect((await cow('create -q -f raw DIR/link/up 1M')).code).toBe(0);
    expect((await cow('create -q -f qcow2 -o data_file=../data DIR/link/image 1M')).code).toBe(0);
    expect(readdirSync(dir.file('a')).sort()).toEqual(['b', 'data', 'out', 'up']);
    expect(readdirSync(dir.path).sort()).toEqual(['a', 'link']);
  });

  it('that a killed run has left with a second name is written aside', async () => {
    writeFileSync(dir.file('disk'), 'old');
    const dead = `${process.pid}-${Number(processStart(process.pid)) - 1}.${processPlace()}`;
    linkSync(dir.file('disk'), dir.file(`.disk.cowherd-${dead}.0badcafe0bad.part`));
    await using target = await createTarget(dir.file('disk'));
    expect([target.aside, readFileSync(dir.file('disk'), 'utf8')]).toEqual([true, 'old']);
  });
});
