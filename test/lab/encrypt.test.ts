import { createHmac, pbkdf2Sync } from 'node:crypto';
import {
  chmodSync,
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { cowherd } from '../../src/lab/cowherd.ts';
import { makeDemoMaster } from '../../src/lab/guest/demo-master.ts';
import { stretched } from '../../src/lab/seats/passphrase-memory.ts';
import { testContext } from '../support/cli-context.ts';
import { haveLibvirtd, startLibvirtd } from '../support/libvirtd.ts';
import { have, mustRun, run } from '../support/programs.ts';
import { LabBench, labBench } from './support.ts';

const words = 'only the teacher knows';

/** The seat's passphrase as docs/lab.md says it is made: PBKDF2, and HKDF (RFC 5869) written out. */
function passphraseOf(seat: string, lab = 'class', of = words): string {
  const stretched = pbkdf2Sync(of, `cowherd lab ${lab}`, 500_000, 32, 'sha512');
  const key = createHmac('sha256', Buffer.alloc(32)).update(stretched).digest();
  return createHmac('sha256', key).update(`cowherd seat ${seat}\x01`).digest('base64');
}

function writeKey(bench: LabBench, text = `${words}\n`): void {
  writeFileSync(bench.path('lab.key'), text, { mode: 0o600 });
  chmodSync(bench.path('lab.key'), 0o600);
}

const encrypt = { 'passphrase-file': 'lab.key' };

/** qemu-io on an image under a passphrase. */
function io(path: string, passphrase: string, ...commands: readonly string[]) {
  const options = `driver=qcow2,file.filename=${path},encrypt.format=luks,encrypt.key-secret=s`;
  return run('qemu-io', [
    ...['--object', `secret,id=s,data=${passphrase}`, '--image-opts', options],
    ...commands.flatMap((one) => ['-c', one]),
  ]);
}

async function mustIo(path: string, passphrase: string, ...commands: readonly string[]): Promise<void> {
  const { code, stdout, stderr } = await io(path, passphrase, ...commands);
  expect({ code, said: stdout + stderr }).toMatchObject({
    code: 0,
    said: expect.not.stringContaining('failed'),
  });
}

describe.skipIf(!have('qemu-img') || !have('qemu-io'))('an encrypted lab', () => {
  it('gives each seat a key of its own, and lives as any lab', async () => {
    await using bench = await labBench();
    writeKey(bench);
    bench.write('lab.yaml', { seats: 2, encrypt, disks: [{ name: 'data', size: '1M' }] });
    const disk = (seat: string) => bench.path(`class/${seat}.qcow2`);
    const said = [await bench.must('up', 'lab.yaml')];
    const info = JSON.parse(await mustRun('qemu-img', ['info', '--output=json', disk('student-01')]));
    expect(info['format-specific'].data.encrypt).toMatchObject({ format: 'luks', 'cipher-alg': 'aes-256' });
    const [one, two] = ['student-01', 'student-02'].map((seat) => passphraseOf(seat));
    await mustIo(disk('student-01'), one, 'read -P 0x5a 0 1M', 'write -P 7 2M 64k');
    await mustIo(bench.path('class/student-01+data.qcow2'), one, 'write -P 9 0 64k');
    expect((await io(disk('student-02'), one, 'read 0 512')).stderr).toContain('Invalid password');
    expect((await io(disk('student-01'), words, 'read 0 512')).stderr).toContain('Invalid password');

    if (have('virt-xml-validate')) {
      await mustRun('virt-xml-validate', [bench.path('class/student-01.xml'), 'domain']);
    }
    expect(readFileSync(bench.path('class/student-01.xml'), 'utf8')).toContain('<encryption format="luks">');
    said.push(await bench.must('diff', 'lab.yaml', 'student-01'));
    expect(said.at(-1)).toContain('64 KiB');
    said.push(await bench.must('save', 'lab.yaml', 'student-01', 'saved.qcow2'));
    await mustIo(bench.path('saved.qcow2'), one, 'read -P 7 2M 64k');
    said.push(await bench.must('promote', 'lab.yaml', 'student-01', '--as', 'next', '--plain'));
    await mustRun('qemu-io', ['-r', '-c', 'read -P 7 2M 64k', bench.path('masters/next@1.qcow2')]);
    said.push(await bench.must('flatten', 'lab.yaml', 'student-01'));
    await mustIo(disk('student-01'), one, 'read -P 7 2M 64k', 'read -P 0x5a 0 1M');
    const named = `driver=qcow2,file.filename=${disk('student-01')},encrypt.key-secret=s`;
    const object = ['--object', `secret,id=s,data=${one}`];
    await mustRun('qemu-img', ['check', '-q', ...object, '--image-opts', named]);
    expect((await mustRun('qemu-img', ['info', disk('student-01')])).includes('backing file:')).toBe(false);
    said.push(await bench.must('reset', 'lab.yaml', 'student-01'));
    await mustIo(disk('student-01'), one, 'read -P 0x5a 2M 64k');
    await mustIo(bench.path('class/student-01+data.qcow2'), one, 'read -P 0 0 64k');
    said.push(await bench.must('restore', 'lab.yaml', 'student-01', 'saved.qcow2'));
    await mustIo(disk('student-01'), one, 'read -P 7 2M 64k');
    said.push(await bench.must('compact', 'lab.yaml', 'student-02'), await bench.must('status', 'lab.yaml'));
    await mustIo(disk('student-02'), two, 'read -P 0x5a 0 1M');
    bench.write('lab.yaml', {
      seats: 2,
      encrypt,
      disk: { size: '80M' },
      disks: [{ name: 'data', size: '2M' }],
    });
    said.push(await bench.must('up', 'lab.yaml'));
    await mustIo(disk('student-01'), one, 'read -P 7 2M 64k', 'read -P 0 64M 16M');
    for (const text of said) for (const secret of [words, one, two]) expect(text).not.toContain(secret);
    for (const name of readdirSync(bench.path('class'))) {
      if (name.startsWith('.')) continue;
      expect(readFileSync(bench.path('class', name)).includes(one)).toBe(false);
    }
    await bench.must('move', 'masters/m.raw', 'masters/moved.raw');
    await mustIo(disk('student-01'), one, 'read -P 0x5a 0 1M');
    expect(await mustRun('qemu-img', ['info', disk('student-01')])).toContain('masters/moved.raw');
    await bench.must('down', 'lab.yaml');
  });

  it('stands on no encrypted master, and says so', async () => {
    await using bench = await labBench();
    const object = ['--object', 'secret,id=s,data=x'];
    const quick = 'encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10';
    await mustRun('qemu-img', [
      'create',
      '-q',
      ...object,
      '-f',
      'qcow2',
      '-o',
      quick,
      bench.path('masters/e.qcow2'),
      '8M',
    ]);
    bench.write('lab.yaml', { master: 'masters/e.qcow2' });
    expect((await bench.run('up', 'lab.yaml')).err).toContain('is encrypted, or stands on what is');
  });

  it('takes the passphrase from a file that nobody else may read, and from no other', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml', { seats: 1, encrypt });
    expect((await bench.run('up', 'lab.yaml')).err).toContain('lab.key');
    writeKey(bench, '\n');
    expect((await bench.run('up', 'lab.yaml')).err).toContain('holds no passphrase');
    writeKey(bench);
    chmodSync(bench.path('lab.key'), 0o640);
    const refused = await bench.run('up', 'lab.yaml');
    expect(refused.err).toContain('Others may read the passphrase');
    expect(refused.err).toContain('chmod 600');
    expect(readdirSync(bench.path('class')).filter((name) => name.endsWith('.qcow2'))).toEqual([]);
  });

  it('tells a seat’s passphrase, and libvirt’s definition of its secret', async () => {
    await using bench = await labBench();
    writeKey(bench);
    bench.write('lab.yaml', { seats: 2, encrypt });
    await bench.must('up', 'lab.yaml');
    const told = await bench.must('passphrase', 'lab.yaml', 'student-02');
    expect(told).toBe(passphraseOf('student-02'));
    await mustIo(bench.path('class/student-02.qcow2'), told, 'read -P 0x5a 0 1M');
    const definition = await bench.must('passphrase', 'lab.yaml', 'student-02', '--definition');
    expect(definition).not.toContain(told);
    const uuid = /<uuid>(.*)<\/uuid>/.exec(definition)![1];
    expect(readFileSync(bench.path('class/student-02.xml'), 'utf8')).toContain(`uuid="${uuid}"`);
    writeFileSync(bench.path('secret.xml'), definition);
    if (have('virt-xml-validate')) await mustRun('virt-xml-validate', [bench.path('secret.xml'), 'secret']);
    bench.write('plain.yaml', { lab: 'plain', seats: 1 });
    expect((await bench.run('passphrase', 'plain.yaml', 'student-01')).err).toContain('are not encrypted');
  });

  it('takes the passphrase from a descriptor', async () => {
    await using bench = await labBench();
    writeKey(bench);
    const fd = openSync(bench.path('lab.key'), 'r');
    try {
      bench.write('lab.yaml', { seats: 1, encrypt: { 'passphrase-file': `/dev/fd/${fd}` } });
      await bench.must('up', 'lab.yaml');
    } finally {
      closeSync(fd);
    }
    await mustIo(bench.path('class/student-01.qcow2'), passphraseOf('student-01'), 'read -P 0x5a 0 1M');
  });

  it('has the passphrase typed at a terminal, twice where disks are made, and forgets it', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml', { seats: 2, encrypt: { 'passphrase-file': '/dev/tty' } });
    const typed: Uint8Array[] = [];
    const type = async (answers: readonly string[], ...args: readonly string[]) => {
      const left = [...answers];
      const prompts: string[] = [];
      const plain = testContext({ program: 'cowherd', cwd: bench.dir.path, env: {} });
      const askSecret = async (prompt: string) => {
        prompts.push(prompt);
        const answer = new Uint8Array(Buffer.from(left.shift()!));
        typed.push(answer);
        return answer;
      };
      const code = await cowherd(args, Object.create(plain, { askSecret: { value: askSecret } }));
      return { code, prompts, out: plain.out(), err: plain.err() };
    };
    expect((await bench.run('up', 'lab.yaml')).err).toContain('Nobody is at a terminal');
    const slip = await type([words, 'only the teacher knws'], 'up', 'lab.yaml');
    expect(slip).toMatchObject({ code: 2, err: expect.stringContaining('The two passphrases differ') });
    expect(readdirSync(bench.path('class')).filter((name) => name.endsWith('.qcow2'))).toEqual([]);
    const made = await type([words, words], 'up', 'lab.yaml');
    expect(made).toMatchObject({ code: 0, prompts: ['Passphrase of class: ', 'The same again: '] });
    await mustIo(bench.path('class/student-02.qcow2'), passphraseOf('student-02'), 'read -P 0x5a 0 1M');
    // Once a command, however many disks it opens.
    const told = await type([words], 'passphrase', 'lab.yaml', 'student-01');
    expect(told).toMatchObject({
      code: 0,
      out: passphraseOf('student-01'),
      prompts: ['Passphrase of class: '],
    });
    expect(await type([words], 'diff', 'lab.yaml', 'student-01')).toMatchObject({ code: 0 });
    expect((await type(['other'], 'diff', 'lab.yaml', 'student-01')).err).toContain(
      'The passphrase that was typed is not that of student-01',
    );
    for (const one of typed) expect(one.every((byte) => byte === 0)).toBe(true);
    for (const { out, err } of [slip, made]) expect(out + err).not.toContain('teacher');
  });

  it('names the passphrase file where it is not that of the disks, whatever the verb', async () => {
    await using bench = await labBench();
    writeKey(bench);
    const disks = [{ name: 'data', size: '1M' }];
    bench.write('lab.yaml', { seats: 1, encrypt, disks });
    await bench.must('up', 'lab.yaml');
    writeKey(bench, 'another one\n');
    const before = bench.snapshot(bench.path('class/student-01.qcow2'));
    const refused = async (...args: readonly string[]) => {
      const { code, err } = await bench.run(...args);
      expect([args[0], code, err]).toEqual([
        args[0],
        1,
        expect.stringContaining('is not that of student-01'),
      ]);
      expect(err).toContain('lab.key');
      expect(err).not.toContain('ask its owner');
    };
    await refused('flatten', 'lab.yaml', 'student-01');
    await refused('promote', 'lab.yaml', 'student-01', '--plain');
    await refused('export', 'student-01', 'out.ova', '--lab', 'lab.yaml');
    await refused('compact', 'lab.yaml', 'student-01');
    await refused('diff', 'lab.yaml', 'student-01');
    bench.write('lab.yaml', { seats: 1, encrypt, disks, disk: { size: '80M' } });
    await refused('up', 'lab.yaml');
    bench.write('lab.yaml', { seats: 1, encrypt, disks: [{ name: 'data', size: '2M' }] });
    await refused('up', 'lab.yaml');
    expect(bench.snapshot(bench.path('class/student-01.qcow2'))).toEqual(before);
    // A copy needs no key.
    await bench.must('save', 'lab.yaml', 'student-01', 'saved.qcow2');
  });

  it('makes a master, which is not encrypted, of a seat only where that is said', async () => {
    await using bench = await labBench();
    writeKey(bench);
    bench.write('lab.yaml', { seats: 1, encrypt });
    await bench.must('up', 'lab.yaml');
    for (const more of [[], ['--dry-run'], ['--method', 'commit'], ['--anyway']]) {
      const { code, err } = await bench.run('promote', 'lab.yaml', 'student-01', ...more);
      expect({ code, err }).toEqual({ code: 2, err: expect.stringContaining('--plain') });
    }
    expect(readdirSync(bench.path('masters')).filter((name) => name.includes('@'))).toEqual([]);
    const { code, err } = await bench.run('promote', 'lab.yaml', 'student-01', '--plain');
    expect({ code, err }).toEqual({ code: 0, err: expect.stringContaining('m@1 is not encrypted') });
    await mustRun('qemu-io', ['-r', '-c', 'read -P 0x5a 0 1M', bench.path('masters/m@1.qcow2')]);
    // A plain seat is asked nothing.
    bench.write('plain.yaml', { lab: 'plain', seats: 1 });
    await bench.must('up', 'plain.yaml');
    expect((await bench.run('promote', 'plain.yaml', 'student-01')).err).toBe('');
  });

  it('makes no new disks under another passphrase than that of the seats that are there', async () => {
    await using bench = await labBench();
    writeKey(bench);
    bench.write('lab.yaml', { seats: 2, encrypt });
    await bench.must('up', 'lab.yaml');
    writeKey(bench, 'another one\n');
    const disks = [{ name: 'data', size: '1M' }];
    const before = bench.snapshot(bench.path('class'));
    for (const more of [{ seats: 4 }, { seats: 2, disks }]) {
      bench.write('lab.yaml', { encrypt, ...more });
      const { code, err } = await bench.run('up', 'lab.yaml');
      expect({ code, err }).toEqual({
        code: 1,
        err: expect.stringContaining('is not that of student-01: new disks would be under another one'),
      });
      expect(err).toContain('lab.key');
      expect(err).toContain("'cowherd reset'");
    }
    const kept = ({ ...files }: Record<string, string>) => {
      // The lock of the lab comes and goes.
      for (const path of Object.keys(files)) if (!path.endsWith('.qcow2')) delete files[path];
      return files;
    };
    expect(kept(bench.snapshot(bench.path('class')))).toEqual(kept(before));
    // Both ways out: a disk gets the passphrase that is meant, or is made new.
    bench.write('lab.yaml', { seats: 4, encrypt });
    const [old, now] = [passphraseOf('student-01'), await bench.must('passphrase', 'lab.yaml', 'student-01')];
    await mustRun('qemu-img', [
      ...['amend', '--object', `secret,id=old,data=${old}`, '--object', `secret,id=new,data=${now}`],
      ...['-o', 'encrypt.state=active,encrypt.new-secret=new,encrypt.iter-time=10', '--image-opts'],
      `driver=qcow2,file.filename=${bench.path('class/student-01.qcow2')},encrypt.key-secret=old`,
    ]);
    expect((await bench.run('up', 'lab.yaml')).err).toContain('is not that of student-02');
    await bench.must('reset', 'lab.yaml', 'student-02');
    await bench.must('up', 'lab.yaml');
    await mustIo(bench.path('class/student-01.qcow2'), now, 'read -P 0x5a 0 1M');
    await mustIo(
      bench.path('class/student-04.qcow2'),
      passphraseOf('student-04', 'class', 'another one'),
      'read -P 0x5a 0 1M',
    );
  });

  it('is no hindrance where a disk that is there cannot be read', async () => {
    await using bench = await labBench();
    writeKey(bench);
    bench.write('lab.yaml', { seats: 2, encrypt });
    await bench.must('up', 'lab.yaml');
    await mustRun('truncate', ['-s', '100K', bench.path('class/student-01.qcow2')]);
    bench.write('lab.yaml', { seats: 3, encrypt });
    await bench.must('up', 'lab.yaml');
    await mustIo(bench.path('class/student-03.qcow2'), passphraseOf('student-03'), 'read -P 0x5a 0 1M');
  });

  it('keeps no stretched passphrase when a command has ended', async () => {
    await using bench = await labBench();
    writeKey(bench);
    bench.write('lab.yaml', { seats: 1, encrypt });
    const remembering = vi.spyOn(stretched, 'set');
    try {
      await bench.must('up', 'lab.yaml');
      expect(remembering).toHaveBeenCalled();
      for (const [, key] of remembering.mock.calls) {
        expect((await key).every((byte) => byte === 0)).toBe(true);
      }
      expect(stretched.size).toBe(0);
    } finally {
      remembering.mockRestore();
    }
  });

  it('keeps the disks that are there as they are, until they are reset', async () => {
    await using bench = await labBench();
    writeKey(bench);
    bench.write('lab.yaml', { seats: 2 });
    await bench.must('up', 'lab.yaml');
    bench.write('lab.yaml', { seats: 2, encrypt });
    expect(await bench.must('up', 'lab.yaml')).toContain('nothing to do');
    await bench.must('reset', 'lab.yaml', 'student-01');
    const definition = (seat: string) => readFileSync(bench.path(`class/${seat}.xml`), 'utf8');
    expect(definition('student-01')).toContain('<encryption');
    expect(definition('student-02')).not.toContain('<encryption');
    await mustIo(bench.path('class/student-01.qcow2'), passphraseOf('student-01'), 'read -P 0x5a 0 1M');
    bench.write('lab.yaml', { seats: 2 });
    const { err } = await bench.run('diff', 'lab.yaml', 'student-01');
    expect(err).toContain('the lab file names no passphrase');
    await bench.must('reset', 'lab.yaml', 'all');
    expect(definition('student-01')).not.toContain('<encryption');
  });
});

describe.skipIf(!have('qemu-system-x86_64'))('a guest of an encrypted lab', () => {
  let runtime: string;
  beforeAll(() => {
    runtime = mkdtempSync(join(tmpdir(), 'cwh-'));
    process.env.COWHERD_RUNTIME_DIR = runtime;
  });
  afterAll(() => {
    delete process.env.COWHERD_RUNTIME_DIR;
    rmSync(runtime, { recursive: true, force: true });
  });

  async function demoLab(bench: LabBench, values: Readonly<Record<string, unknown>>): Promise<void> {
    mkdirSync(bench.path('demo'));
    await makeDemoMaster(bench.path('demo/demo.raw'), { size: 8 * 1024 * 1024, payloadBytes: 0 });
    const guest = { master: 'demo/demo.raw', guest: 'demo', memory: '16M', network: 'none', seats: 1 };
    writeKey(bench);
    bench.write('lab.yaml', { ...guest, encrypt, ...values });
  }

  it('boots from its disk, and leaves no passphrase behind', async () => {
    await using bench = await labBench();
    await demoLab(bench, { runner: 'qemu' });
    await bench.must('up', 'lab.yaml');
    const boots = async () => (await bench.must('start', 'lab.yaml', '--watch')).match(/boots=\d+/)?.[0];
    expect([await boots(), await boots()]).toEqual(['boots=1', 'boots=2']);
    const left = readdirSync(runtime, { recursive: true }).map(String);
    expect(left.some((name) => name.endsWith('secret'))).toBe(false);
    // Another passphrase is refused before anything starts.
    writeKey(bench, 'something else\n');
    const { code, err } = await bench.run('start', 'lab.yaml');
    expect({ code, err }).toMatchObject({
      code: 1,
      err: expect.stringContaining('is not that of student-01'),
    });
    expect(err).not.toContain('something else');
  }, 120_000);

  it.skipIf(!haveLibvirtd)(
    'boots under libvirt, by a secret that only QEMU is told',
    async () => {
      await using libvirtd = await startLibvirtd();
      const bench = new LabBench(libvirtd.dir);
      const virsh = (...args: string[]) => run('virsh', ['-c', libvirtd.uri, ...args]);
      await demoLab(bench, { runner: { libvirt: libvirtd.uri } });
      await bench.must('up', 'lab.yaml');
      expect(await bench.must('start', 'lab.yaml', '--watch')).toContain('boots=1');
      const secrets = (await virsh('secret-list')).stdout;
      const uuid = /[0-9a-f-]{36}/.exec(secrets)![0];
      expect((await virsh('secret-get-value', uuid)).code).not.toBe(0);
      await bench.must('down', 'lab.yaml');
      expect((await virsh('secret-list')).stdout).not.toContain(uuid);
    },
    180_000,
  );
});
