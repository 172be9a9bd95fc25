import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { builtProgram } from '../../test/support/built-program.ts';
import { have, mustRun, run, type TempDir, tempDir } from '../../test/support/programs.ts';
import { createImageFile } from '../node.ts';

/**
 * Runs a program on a terminal, types an answer at each prompt, and says what the terminal showed, and whether it echoed. Instead of
 * the answer `SIG…`, somebody else sends that signal.
 */
const typist = `
import json, os, pty, resource, signal, sys, termios
answers = [one.encode() for one in json.loads(sys.argv[1])]
pid, fd = pty.fork()
if pid == 0:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.execvp(sys.argv[2], sys.argv[2:])
echo = lambda: bool(termios.tcgetattr(fd)[3] & termios.ECHO)
shown, echoed = b'', []
while True:
    try: piece = os.read(fd, 4096)
    except OSError: break
    if not piece: break
    shown += piece
    if answers and shown.endswith(b': '):
        echoed.append(echo())
        answer = answers.pop(0)
        if answer.startswith(b'SIG'): os.kill(pid, getattr(signal, answer.decode()))
        else: os.write(fd, answer)
after = echo()
code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
print(json.dumps({'code': code, 'shown': shown.decode(), 'echoed': echoed, 'after': after}))
`;

interface Seen {
  readonly code: number;
  readonly shown: string;
  readonly echoed: readonly boolean[];
  readonly after: boolean;
}

/**
 * `overlay` over `base`, both encrypted, with passphrases of their own; what a guest reads lies in `content`. (QEMU makes no image
 * where the machine is too busy to time its key derivation.)
 */
async function makeChain(dir: TempDir): Promise<void> {
  await writeFile(dir.file('content'), randomBytes(65_536));
  const create = (name: string, words: string, backing?: { path: string; format: string }) =>
    createImageFile(dir.file(name), {
      format: 'qcow2',
      size: 65_536,
      options: { 'encrypt.format': 'luks', 'encrypt.key-secret': 's', 'encrypt.iter-time': 0 },
      backing,
      secret: async () => new TextEncoder().encode(words),
    });
  await create('base', 'base words');
  const secret = ['--object', 'secret,id=b,data=base words'];
  const base = 'driver=qcow2,file.filename=base,encrypt.key-secret=b';
  const filling = ['convert', '-n', ...secret, '-f', 'raw', 'content', '--target-image-opts', base];
  await mustRun('qemu-img', filling, { cwd: dir.path });
  await create('overlay', 'overlay words', { path: 'base', format: 'qcow2' });
}

describe.skipIf(!have('python3'))('a passphrase at a terminal', () => {
  it('is asked for, shown nowhere, and the terminal is left as it was', async () => {
    await using dir = await tempDir();
    const program = await builtProgram(dir.path, 'cow-img', 'cow-img');
    await writeFile(dir.file('typist.py'), typist);
    const type = async (answers: readonly string[], ...args: readonly string[]): Promise<Seen> => {
      const command = [dir.file('typist.py'), JSON.stringify(answers), ...program, ...args];
      return JSON.parse(await mustRun('python3', command));
    };
    const image = dir.file('image');
    const creating = ['create', '-q', '-f', 'luks', '-o', 'iter-time=1,cipher-alg=aes-128', image, '64k'];
    // A slip of two bytes of UTF-8 is taken back whole.
    const made = await type(['horsé\x7fe staple\r', 'horse staple\r'], ...creating);
    expect(made).toMatchObject({ code: 0, echoed: [false, false], after: true });
    const out = dir.file('out');
    const reading = ['convert', '-f', 'luks', '-O', 'raw', image, out];
    const read = await type(['horse staple\r'], ...reading);
    expect(read).toMatchObject({ code: 0, echoed: [false], after: true });
    expect((await readFile(out)).length).toBe(65_536);
    const again = dir.file('again');
    const sealing = [
      'convert',
      '-f',
      'luks',
      '-O',
      'luks',
      '-o',
      'iter-time=1,cipher-alg=aes-128',
      image,
      again,
    ];
    const sealed = await type(['horse staple\r', 'other words\r', 'other words\r'], ...sealing);
    expect(sealed).toMatchObject({ code: 0, echoed: [false, false, false], after: true });
    const wrong = await type(['battery\r'], 'map', '-f', 'luks', image);
    expect(wrong).toMatchObject({ code: 1, shown: expect.stringContaining('Invalid password'), after: true });
    // Of a paste of lines the first counts, at a prompt each.
    const pasted = await type(
      ['pass\rpass\r', 'pass\r'],
      ...creating.slice(0, -2),
      dir.file('pasted'),
      '64k',
    );
    expect(pasted).toMatchObject({ code: 0, echoed: [false, false], after: true });
    expect(
      await type(['pass\r'], 'convert', '-f', 'luks', '-O', 'raw', dir.file('pasted'), out),
    ).toMatchObject({
      code: 0,
    });
    // Ctrl-Z is no character; where there is no shell to go on by, it asks again.
    const suspended = await type(['hor\x1a', 'horse staple\r'], ...reading);
    expect(suspended).toMatchObject({ code: 0, echoed: [false, false], after: true });
    const stopped = await type(['hor\x03'], ...reading);
    expect(stopped).toMatchObject({ code: -2, echoed: [false], after: true });
    for (const [name, code] of [
      ['SIGQUIT', -3],
      ['SIGTERM', -15],
    ] as const) {
      expect(await type([name], ...reading)).toMatchObject({ code, echoed: [false], after: true });
    }
    const differing = await type(['one\r', 'two\r'], ...creating.slice(0, -2), dir.file('other'), '64k');
    expect(differing).toMatchObject({
      code: 1,
      shown: expect.stringContaining('The two passphrases differ'),
    });
    for (const { shown } of [made, read, sealed, wrong, stopped, differing])
      expect(shown).not.toMatch(/hor|stap|words|batt|one\r/);
    // Nobody sits there: as qemu-img.
    expect(await run(program[0], [program[1], 'map', '-f', 'luks', image])).toMatchObject({
      code: 1,
      stderr: expect.stringContaining("Parameter 'key-secret' is required for cipher"),
    });
    if (!have('cryptsetup')) return;
    const test = ['open', '--test-passphrase', image, '-d', '-'];
    expect(await run('cryptsetup', test, { input: 'horse staple' })).toMatchObject({ code: 0 });
    const testAgain = ['open', '--test-passphrase', again, '-d', '-'];
    expect(await run('cryptsetup', testAgain, { input: 'other words' })).toMatchObject({ code: 0 });
  }, 240_000);

  it.skipIf(!have('qemu-img'))(
    'is asked for of each image of a chain, and of a new key slot',
    async () => {
      await using dir = await tempDir();
      const program = await builtProgram(dir.path, 'cow-img', 'cow-img');
      await writeFile(dir.file('typist.py'), typist);
      await makeChain(dir);
      const type = async (answers: readonly string[], ...args: readonly string[]): Promise<Seen> => {
        const command = [dir.file('typist.py'), JSON.stringify(answers), ...program, ...args];
        return JSON.parse(await mustRun('python3', command, { cwd: dir.path }));
      };
      const both = ['overlay words\r', 'base words\r'];
      const reading = ['convert', '-O', 'raw', 'overlay', 'out'];
      const read = await type(both, ...reading);
      expect(read).toMatchObject({ code: 0, echoed: [false, false], after: true });
      expect(read.shown).toBe("Passphrase of 'overlay': \r\nPassphrase of 'base': \r\n");
      expect(await readFile(dir.file('out'))).toEqual(await readFile(dir.file('content')));
      const wrong = await type(['overlay words\r', 'other words\r'], ...reading);
      expect(wrong).toMatchObject({ code: 1, shown: expect.stringContaining('Invalid password') });
      // Whether it is in order can be seen without a key.
      expect(await type([], 'check', 'overlay')).toMatchObject({ code: 0, echoed: [] });
      const adding = ['amend', '-o', 'encrypt.state=active,encrypt.iter-time=1', 'overlay'];
      const added = await type([...both, 'new words\r', 'new words\r'], ...adding);
      expect(added).toMatchObject({ code: 0, echoed: [false, false, false, false], after: true });
      expect(await type(['new words\r', 'base words\r'], ...reading)).toMatchObject({ code: 0 });
      for (const { shown } of [read, wrong, added]) expect(shown).not.toContain('words');
    },
    240_000,
  );

  it.skipIf(!have('qemu-img') || !have('nbdcopy'))(
    'is asked for by cow-nbd, of each image of a chain',
    async () => {
      await using dir = await tempDir();
      const program = await builtProgram(dir.path, 'cow-nbd', 'cow-nbd');
      await writeFile(dir.file('typist.py'), typist);
      await makeChain(dir);
      const socket = dir.file('socket');
      const serve = async (answers: readonly string[], ...args: readonly string[]): Promise<Seen> => {
        const command = [dir.file('typist.py'), JSON.stringify(answers), ...program, '-k', socket, ...args];
        return JSON.parse(await mustRun('python3', command, { cwd: dir.path }));
      };
      for (const mode of [['-r'], []]) {
        const served = serve(['overlay words\r', 'base words\r'], ...mode, '-f', 'qcow2', 'overlay');
        while (!existsSync(socket)) await sleep(20);
        // It is greeted when the image is open; when the client has gone, the server ends.
        await mustRun('nbdcopy', [`nbd+unix:///?socket=${socket}`, dir.file('out')]);
        const seen = await served;
        expect(seen).toMatchObject({ code: 0, echoed: [false, false], after: true });
        expect(seen.shown).not.toContain('words');
        expect(await readFile(dir.file('out'))).toEqual(await readFile(dir.file('content')));
      }
      const wrong = await serve(['overlay words\r', 'other words\r'], '-f', 'qcow2', 'overlay');
      expect(wrong).toMatchObject({ code: 1, shown: expect.stringContaining('Invalid password') });
    },
    240_000,
  );
});
