import { readFile, writeFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { builtProgram } from '../../test/support/built-program.ts';
import { have, mustRun, run, tempDir } from '../../test/support/programs.ts';

/** Runs a program on a terminal, types an answer at each prompt, and says what the terminal showed, and whether it echoed. */
const typist = `
import json, os, pty, sys, termios
answers = [one.encode() for one in json.loads(sys.argv[1])]
pid, fd = pty.fork()
if pid == 0:
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
        os.write(fd, answers.pop(0))
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
    const stopped = await type(['hor\x03'], ...reading);
    expect(stopped).toMatchObject({ code: 130, echoed: [false], after: true });
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
  }, 60_000);
});
