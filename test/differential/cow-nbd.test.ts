import { mkdirSync, readFileSync, readlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { cowNbd } from '../../src/nbd/cow-nbd.ts';
import { builtServer } from '../nbd/support.ts';
import { testContext } from '../support/cli-context.ts';
import { have, mustRun, openQemuIo, run, type TempDir, tempDir } from '../support/programs.ts';
import type { DifferenceId } from './differences.ts';
import { words } from './harness.ts';

/*
 * Command lines that do not come to serve, through the installed qemu-nbd and through cow-nbd in one directory: answers
 * and exit codes are equal to the letter, or the line names its entry of differences.ts.
 */

interface Row {
  readonly line: string;
  readonly differs: DifferenceId;
  /** A part of what ours says. */
  readonly ours: string;
}

const socket = '-k $PWD/socket';
const rows: readonly (string | Row)[] = [
  '',
  '-n',
  'a.raw b.raw',
  '-n --cache=none -f raw a.raw',
  '--cache=none -n -f raw a.raw',
  '--cache=none --cache=none a.raw',
  '--cache=bad a.raw',
  '--aio=threads --aio=native a.raw',
  '--aio=bad a.raw',
  '--discard=bad a.raw',
  '--discard=on --discard=off a.raw',
  '--detect-zeroes=bad a.raw',
  '--detect-zeroes=unmap a.raw',
  `${socket} --object tls-creds-psk,id=t,dir=psk,endpoint=client,username=mallory -f raw missing.raw`,
  `${socket} --object tls-creds-psk,id=t,dir=psk,endpoint=client -f raw missing.raw`,
  `${socket} --object tls-creds-psk,id=t,dir=psk,endpoint=client,username=alice -f raw missing.raw`,
  `${socket} --object tls-creds-psk,id=t,dir=psk,endpoint=server,username=alice -f raw missing.raw`,
  `-L ${socket} --object tls-creds-psk,id=t,dir=psk,endpoint=client,username=mallory --tls-creds t`,
  '-d a.raw',
  '-d missing',
  '-d .',
  '-d',
  '-T',
  { line: `-T bad ${socket} -f raw missing.raw`, differs: 'nbd-trace', ours: 'Failed to blk_new_open' },
  { line: '-P 1 a.raw', differs: 'nbd-partition', ours: 'Partitions are not served' },
  { line: '--partition=1 a.raw', differs: 'nbd-partition', ours: 'Partitions are not served' },
  '-o',
  '-o bad a.raw',
  '-o 1k a.raw',
  '-o 99999999999999999999 a.raw',
  `-o 2097152 ${socket} -f raw a.raw`,
  { line: `-o -1 ${socket} -f raw a.raw`, differs: 'nbd-offset', ours: "Invalid offset '-1'" },
  '-e bad a.raw',
  '-e -1 a.raw',
  '-e 4294967296 a.raw',
  '-f bad a.raw',
  `${socket} -f bad a.raw`,
  `${socket} missing.raw`,
  `${socket} -f raw missing.raw`,
  `${socket} -f qcow2 a.raw`,
  `${socket} -f qcow2 missing.qcow2`,
  `${socket} -f raw .`,
  `${socket} -r -f raw missing.raw`,
  '-k socket a.raw',
  '-k $PWD/missing/socket -f raw a.raw',
  '-k $PWD -f raw a.raw',
  `${socket} -f raw --pid-file=$PWD/missing/pid a.raw`,
  `${socket} -f raw --pid-file=$PWD a.raw`,
  `${socket} --tls-creds=t -f raw a.raw`,
  `${socket} --tls-authz=t -f raw a.raw`,
  `${socket} --tls-hostname=t -f raw a.raw`,
  `${socket} --object tls-creds-x509,id=t,endpoint=server,dir=$PWD --tls-creds=t -f raw a.raw`,
  `${socket} --object tls-creds-psk,id=t,endpoint=server,dir=$PWD --tls-creds=t -f raw a.raw`,
  `${socket} --object tls-creds-psk,id=t,endpoint=server,dir=$PWD/psk --tls-creds=t --tls-hostname=h -f raw a.raw`,
  `${socket} --object secret,id=t,data=x --tls-creds=t -f raw a.raw`,
  '-c /dev/nbd0 --object tls-creds-psk,id=t,endpoint=server,dir=$PWD/psk --tls-creds=t -f raw a.raw',
  '-L a.raw',
  '-L -o 1',
  '-L -f raw',
  '-L --fork',
  `-L ${socket}`,
  '-L -b localhost -p 1',
  '-b nowhere.invalid -p 1 -f raw a.raw',
  '-b 127.0.0.1 -p bad -f raw a.raw',
  '-c',
  '-d',
  '-x',
  '--bogus',
  '--ca=bad a.raw',
  '--read a.raw b.raw',
  '--read-only=yes a.raw',
  '-Z a.raw',
  '-rZ a.raw',
  `${socket} -l bad -f qcow2 a.qcow2`,
  `${socket} -l snapshot.bad=1 -f qcow2 a.qcow2`,
  `${socket} -s -l bad -f qcow2 a.qcow2`,
  `${socket} -s -l s1 -f qcow2 snap.qcow2`,
  `${socket} --aio=native -f raw a.raw`,
  `${socket} --aio=native --cache=writethrough -f qcow2 a.qcow2`,
  `${socket} -B none -f qcow2 a.qcow2`,
  `${socket} -B none -f raw a.raw`,
  `${socket} --image-opts -f raw a.raw`,
  `${socket} --image-opts driver=raw,file.filename=missing`,
  `${socket} --image-opts driver=bad,file.filename=a.raw`,
  `${socket} --image-opts bad`,
  `${socket} --object bad a.raw`,
  `${socket} --object secret,id=s a.raw`,
  '--selinux-label=x a.raw',
  { line: `${socket} --selinux-label=x -f raw a.raw`, differs: 'nbd-selinux', ours: 'not supported' },
];

const ready = ['qemu-nbd', 'qemu-img', 'qemu-io'].every(have);

describe.skipIf(!ready)('cow-nbd and qemu-nbd', () => {
  const server = builtServer();
  let place: TempDir;
  const home = process.cwd();

  beforeAll(async () => {
    place = await tempDir('cowherd-nbd-lines-');
    for (const name of ['a.raw', 'b.raw']) {
      writeFileSync(place.file(name), '');
      truncateSync(place.file(name), 1024 * 1024);
    }
    mkdirSync(place.file('psk'));
    writeFileSync(place.file('psk/keys.psk'), `alice:${'0123456789abcdef'.repeat(2)}\n`);
    await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', place.file('a.qcow2'), '1M']);
    await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', place.file('snap.qcow2'), '1M']);
    await mustRun('qemu-img', ['snapshot', '-c', 's1', place.file('snap.qcow2')]);
    process.chdir(place.path);
  });
  afterAll(async () => {
    process.chdir(home);
    await place.remove();
  });

  const answers = async (line: string) => {
    const args = words(line, place.path);
    const theirs = await run('qemu-nbd', args, { cwd: place.path });
    const context = testContext({ program: 'qemu-nbd', cwd: place.path });
    const code = await cowNbd(args, context);
    return { theirs, ours: { code, stdout: context.out(), stderr: context.err() } };
  };

  for (const entry of rows) {
    const row = typeof entry === 'string' ? { line: entry } : entry;
    it(`answer alike: ${row.line}`, async () => {
      const { theirs, ours } = await answers(row.line);
      if (!('differs' in row)) return expect(ours).toEqual(theirs);
      expect(ours, 'the difference is gone').not.toEqual(theirs);
      expect(ours).toMatchObject({ code: 1, stdout: '', stderr: expect.stringContaining(row.ours) });
    });
  }

  it('refuse an image that is in use', async () => {
    await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', place.file('held.qcow2'), '1M']);
    await using _holder = await openQemuIo(['-f', 'qcow2', 'held.qcow2'], place.path);
    const { theirs, ours } = await answers(`${socket} -f qcow2 held.qcow2`);
    expect(theirs.stderr).toContain('lock');
    expect(ours).toEqual(theirs);
  });

  it('lock their pid files against each other', async () => {
    const pid = place.file('pid');
    const serve = (program?: string) =>
      server.start(['-t', '-f', 'raw', `--pid-file=${pid}`, place.file('a.raw')], { program });
    for (const program of [undefined, 'qemu-nbd']) {
      writeFileSync(pid, 'what an earlier server left there\n');
      await using running = await serve(program);
      // The socket is there before the file is.
      for (const end = Date.now() + 20_000; readFileSync(pid, 'utf8') !== `${running.pid}\n`; ) {
        if (Date.now() > end) expect(readFileSync(pid, 'utf8')).toBe(`${running.pid}\n`);
        await new Promise((resolve) => setTimeout(resolve, 10));
      }
      const { theirs, ours } = await answers(`-k $PWD/other -f raw --pid-file=${pid} b.raw`);
      expect(theirs).toMatchObject({ code: 1, stderr: expect.stringContaining('Cannot lock pid file') });
      expect(ours).toEqual(theirs);
      expect(readFileSync(pid, 'utf8')).toBe(`${running.pid}\n`);
      await running.stop();
      // It stays, as theirs does.
      expect(readFileSync(pid, 'utf8')).toBe(`${running.pid}\n`);
    }
  });

  it('go to the background alike, and cow-nbd stays in its directory', async () => {
    for (const [index, [program, ...first]] of [['qemu-nbd'], server.command].entries()) {
      const [path, pid] = [place.file(`fork${index}`), place.file(`fork${index}.pid`)];
      const args = ['--fork', '-k', path, '-f', 'raw', '--pid-file', pid];
      const how = { cwd: place.path };
      const failed = await run(program, [...first, ...args, 'missing.raw'], how);
      expect(failed).toEqual({
        code: 1,
        stdout: '',
        stderr: expect.stringMatching(
          /^[a-z]+-nbd: Failed to blk_new_open 'missing.raw': Could not open 'missing.raw': No such file or directory\n$/,
        ),
      });
      expect(await run(program, [...first, ...args, 'a.raw'], how)).toEqual({
        code: 0,
        stdout: '',
        stderr: '',
      });
      const number = Number(readFileSync(pid, 'utf8'));
      const directory = readlinkSync(`/proc/${number}/cwd`);
      expect(directory).toBe(index === 0 ? '/' : place.path);
      expect(await mustRun('qemu-img', ['info', '-f', 'raw', `nbd+unix:///?socket=${path}`])).toContain(
        '1 MiB',
      );
      process.kill(number);
    }
  });
});
