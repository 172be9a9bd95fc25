import { spawn } from 'node:child_process';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { cowherd } from '../../src/lab/cowherd.ts';
import { makeDemoMaster } from '../../src/lab/guest/demo-master.ts';
import { freePort, nbdsh } from '../nbd/support.ts';
import { testContext } from '../support/cli-context.ts';
import { have, mustRun, run } from '../support/programs.ts';
import { type LabBench, labBench, qemuCheck } from './support.ts';

const nbd = have('nbdinfo') && have('qemu-io');

/** `cowherd serve` in the bench until it is disposed. */
async function serving(bench: LabBench, ...args: string[]) {
  const ending = new AbortController();
  const context = testContext({
    program: 'cowherd',
    cwd: bench.dir.path,
    signal: ending.signal,
    columns: 120,
  });
  let over = false;
  const code = cowherd(['serve', ...args], context).finally(() => {
    over = true;
  });
  while (!over && !context.out().includes('serving')) await sleep(10);
  return {
    said: () => context.out() + context.err(),
    code,
    async [Symbol.asyncDispose]() {
      ending.abort('SIGTERM');
      await code;
    },
  };
}

const uri = (socket: string, name: string) => `nbd+unix:///${name}?socket=${socket}`;

describe.skipIf(!nbd)('cowherd serve', () => {
  it('exports encrypted seats in the clear, and what is written stays encrypted', async () => {
    await using bench = await labBench();
    writeFileSync(bench.path('lab.key'), 'only the teacher knows', { mode: 0o600 });
    const encrypt = { 'passphrase-file': 'lab.key' };
    bench.write('lab.yaml', { seats: 2, encrypt, serve: { socket: 'here.sock' } });
    await bench.must('up');
    const socket = bench.path('here.sock');
    {
      await using _server = await serving(bench);
      const commands = ['-c', 'read -P 0x5a 0 1M', '-c', 'write -P 7 5M 64k', '-c', 'flush'];
      await mustRun('qemu-io', ['-f', 'raw', ...commands, uri(socket, 'student-02')]);
    }
    const passphrase = await bench.must('passphrase', 'lab.yaml', 'student-02');
    const disk = `driver=qcow2,file.filename=${bench.path('class/student-02.qcow2')},encrypt.key-secret=s`;
    const object = ['--object', `secret,id=s,data=${passphrase}`];
    const reading = ['-c', 'read -P 7 5M 64k', '-c', 'read -P 0x5a 0 1M'];
    expect(await mustRun('qemu-io', ['-r', ...object, ...reading, '--image-opts', disk])).not.toContain(
      'failed',
    );
    writeFileSync(bench.path('lab.key'), 'something else');
    const refused = await bench.run('serve');
    expect(refused).toMatchObject({ code: 1, err: expect.stringContaining('is not that of') });
  });

  it('exports the seats to write and the master to read, and gives them back', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml', { seats: 2, serve: { socket: 'here.sock' } });
    expect(await bench.must('up')).toContain("'cowherd serve lab.yaml'");
    const socket = bench.path('here.sock');
    const master = await mustRun('sha256sum', [bench.path('masters/m.raw')]);
    {
      await using server = await serving(bench);
      expect(server.said()).toContain('serving 2 seats at');
      const { stdout } = await run('nbdinfo', ['--list', '--json', uri(socket, '')]);
      const { exports } = JSON.parse(stdout) as { exports: Record<string, unknown>[] };
      expect(exports.map((one) => [one['export-name'], one.is_read_only])).toEqual([
        ['student-01', false],
        ['student-02', false],
        ['master', true],
      ]);
      const write = ['-f', 'raw', '-c', 'write -P 7 1M 64k', '-c', 'flush', uri(socket, 'student-01')];
      await mustRun('qemu-io', write);
      const refused = await run('qemu-io', ['-f', 'raw', '-c', 'write 0 512', uri(socket, 'master')]);
      expect(refused.code).not.toBe(0);

      const reset = await bench.run('reset', 'student-01');
      expect(reset.code).toBe(1);
      expect(reset.err).toMatch(/lock|use/);
      const down = await bench.run('down');
      expect([down.code, down.err]).toEqual([1, expect.stringMatching(/lock|use/)]);
      const second = await bench.run('serve');
      expect(second.code).toBe(1);
      const other = await run('qemu-io', [
        '-f',
        'qcow2',
        '-c',
        'read 0 512',
        bench.path('class/student-02.qcow2'),
      ]);
      expect(other.stderr).toContain('Failed to get');
      // What the two refusals left: the server goes on.
      await mustRun('qemu-io', ['-f', 'raw', '-c', 'read -P 7 1M 64k', uri(socket, 'student-01')]);
      await mustRun('qemu-io', ['-f', 'raw', '-c', 'read -P 90 1M 64k', uri(socket, 'student-02')]);
    }
    expect(existsSync(socket)).toBe(false);
    await mustRun('qemu-io', ['-f', 'qcow2', '-c', 'read -P 7 1M 64k', bench.path('class/student-01.qcow2')]);
    await qemuCheck(bench.path('class/student-01.qcow2'));
    expect(await mustRun('sha256sum', [bench.path('masters/m.raw')])).toEqual(master);
    await bench.must('reset', 'student-01');
    await mustRun('qemu-io', [
      '-f',
      'qcow2',
      '-c',
      'read -P 90 1M 64k',
      bench.path('class/student-01.qcow2'),
    ]);
  });

  it('keeps what is no socket where its socket would go', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml', { seats: 1, serve: { socket: 'precious' } });
    await bench.must('up');
    writeFileSync(bench.path('precious'), 'kept');
    const answer = await bench.run('serve');
    expect([answer.code, answer.err]).toEqual([1, expect.stringContaining('is no socket')]);
    expect(readdirSync(bench.dir.path)).toContain('precious');
  });

  it('says what is wrong in the lab file', async () => {
    await using bench = await labBench();
    const cases: [Record<string, unknown>, string][] = [
      [{ serve: { listen: 'nowhere' } }, "serve's listen must be an address and a port"],
      [{ serve: { listen: '127.0.0.1:10809', socket: 's' } }, 'serve has a socket and listen'],
      [{ seats: ['master'], serve: {} }, 'a seat is called master'],
    ];
    for (const [values, message] of cases) {
      bench.write('lab.yaml', values);
      const { code, err } = await bench.run('serve');
      expect([code, err]).toEqual([2, expect.stringContaining(message)]);
    }
  });

  it.skipIf(!have('nbdsh') || !have('openssl'))(
    'serves other hosts by TCP, under TLS if it is told to',
    async () => {
      await using bench = await labBench();
      const pki = bench.path('pki');
      mkdirSync(pki);
      const openssl = (...args: string[]) => mustRun('openssl', args, { cwd: pki });
      const fresh = ['-newkey', 'rsa:2048', '-nodes'];
      const authority = ['-subj', '/CN=CA', '-addext', 'basicConstraints=critical,CA:TRUE', '-days', '30'];
      await openssl('req', '-x509', ...fresh, ...authority, '-keyout', 'ca-key.pem', '-out', 'ca-cert.pem');
      writeFileSync(join(pki, 'names'), 'subjectAltName=DNS:localhost\n');
      for (const name of ['server', 'client']) {
        const files = ['-keyout', `${name}-key.pem`, '-out', `${name}.csr`];
        await openssl('req', ...fresh, '-subj', `/CN=${name}`, ...files);
        const signed = ['-CA', 'ca-cert.pem', '-CAkey', 'ca-key.pem', '-CAcreateserial', '-days', '30'];
        const out = ['-extfile', 'names', '-out', `${name}-cert.pem`];
        await openssl('x509', '-req', '-in', `${name}.csr`, ...signed, ...out);
      }
      const port = await freePort();
      const listen = `127.0.0.1:${port}`;
      const secure = `h.set_tls(nbd.TLS_REQUIRE)\nh.set_tls_certificates('${pki}')\n`;
      const writing =
        `h.set_export_name('student-01')\nh.connect_tcp('localhost', '${port}')\nh.pwrite(b'far', 4096, nbd.CMD_FLAG_FUA)\n` +
        `print(h.pread(3, 4096), h.get_tls_negotiated())`;
      for (const tls of [undefined, 'pki']) {
        bench.write('lab.yaml', { seats: 1, serve: { listen, tls } });
        await bench.must('up');
        await using server = await serving(bench);
        expect(server.said()).toContain('serving 1 seats at');
        const answer = await nbdsh((tls ? secure : '') + writing);
        expect(answer).toMatchObject({ stdout: `bytearray(b'far') ${tls ? 'True' : 'False'}\n`, stderr: '' });
        if (!tls) continue;
        const plain = await nbdsh(writing);
        expect([plain.code === 0, plain.stdout]).toEqual([false, '']);
        const stranger = await nbdsh(`h.set_tls(nbd.TLS_REQUIRE)\n${writing}`);
        expect([stranger.code === 0, stranger.stdout]).toEqual([false, '']);
        await expect.poll(() => server.said(), { timeout: 10_000 }).toContain('a client was not let in: ');
      }
      await qemuCheck(bench.path('class/student-01.qcow2'));
    },
  );

  it.skipIf(!have('virt-xml-validate') || !have('xmllint'))(
    'writes definitions for other hosts',
    async () => {
      await using bench = await labBench();
      for (const [serve, source] of [
        [
          { listen: '0.0.0.0:10809', host: 'herd.example.org', tls: 'pki' },
          '<source protocol="nbd" name="student-01" tls="yes">\n        <host name="herd.example.org" port="10809"/>',
        ],
        [{ socket: '/run/class.sock' }, '<host transport="unix" socket="/run/class.sock"/>'],
      ] as const) {
        bench.write('lab.yaml', { seats: 1, serve });
        await bench.must('serve', '--definitions', 'elsewhere');
        const file = bench.path('elsewhere/student-01.xml');
        expect(await mustRun('cat', [file])).toContain(source);
        const judged = await run('virt-xml-validate', [file, 'domain']);
        expect([judged.code, judged.stderr]).toEqual([0, expect.anything()]);
      }
      bench.write('lab.yaml', { seats: 1, serve: { listen: '0.0.0.0:10809' } });
      expect((await bench.run('serve', '--definitions', 'elsewhere')).err).toContain('do not find this one');
    },
  );

  it('writes definitions over nothing but such definitions, and names no file of this host in them', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml', {
      seats: 1,
      serve: { socket: '/run/class.sock' },
      disks: [{ name: 'data', size: '8M' }],
      seed: { network: 'dhcp' },
    });
    await bench.must('up');
    const before = bench.snapshot(bench.path('class'));
    const refused = async (folder: string, words: RegExp) =>
      expect(await bench.run('serve', '--definitions', folder)).toMatchObject({
        code: 1,
        err: expect.stringMatching(words),
      });
    symlinkSync('class', bench.path('link'));
    for (const folder of ['class', 'link']) await refused(folder, /is the lab's own pool/);
    expect(bench.snapshot(bench.path('class'))).toEqual(before);
    mkdirSync(bench.path('far'));
    const file = bench.path('far/student-01.xml');
    copyFileSync(bench.path('class/student-01.xml'), file);
    await refused('far', /no definition for other hosts/);
    writeFileSync(file, 'notes of the user');
    await refused('far', /no definition for other hosts/);
    expect(readFileSync(file, 'utf8')).toBe('notes of the user');
    rmSync(file);
    symlinkSync('../class/student-01.xml', file);
    await refused('far', /is a link/);
    expect(bench.snapshot(bench.path('class'))).toEqual(before);
    rmSync(file);
    await bench.must('serve', '--definitions', 'far');
    await bench.must('serve', '--definitions', 'far');
    const text = readFileSync(file, 'utf8');
    expect(text).toContain('/run/class.sock');
    for (const name of ['student-01+data.qcow2', 'student-01.seed.iso']) expect(text).not.toContain(name);
  });

  it.skipIf(!have('python3'))('leaves a server alone whose queue of clients is full', async () => {
    await using bench = await labBench();
    bench.write('lab.yaml', { seats: 1, serve: { socket: 'here.sock' } });
    await bench.must('up');
    const busy = `
import socket, sys
server = socket.socket(socket.AF_UNIX); server.bind('here.sock'); server.listen(0)
clients = []
try:
  while True:
    clients.append(socket.socket(socket.AF_UNIX)); clients[-1].setblocking(False); clients[-1].connect('here.sock')
except BlockingIOError: print('full', flush=True)
sys.stdin.read()`;
    const child = spawn('python3', ['-c', busy], { cwd: bench.dir.path, stdio: ['pipe', 'pipe', 'inherit'] });
    const ended = new Promise((resolve) => child.on('close', resolve));
    try {
      await new Promise((resolve) => child.stdout.once('data', resolve));
      const inode = statSync(bench.path('here.sock')).ino;
      // Should it serve all the same, it is to end.
      const context = testContext({
        program: 'cowherd',
        cwd: bench.dir.path,
        signal: AbortSignal.timeout(10_000),
      });
      expect(await cowherd(['serve'], context)).not.toBe(0);
      expect(context.err()).toContain('Somebody serves at');
      expect(statSync(bench.path('here.sock')).ino).toBe(inode);
    } finally {
      child.stdin.end();
      await ended;
    }
  });

  it.skipIf(!have('qemu-system-x86_64'))('boots a guest from an export, which remembers it', async () => {
    await using bench = await labBench();
    mkdirSync(bench.path('demo'));
    await makeDemoMaster(bench.path('demo/demo.raw'), { size: 8 * 1024 * 1024, payloadBytes: 0 });
    bench.write('lab.yaml', { master: 'demo/demo.raw', seats: 1, guest: 'demo', serve: {} });
    await bench.must('up');
    const socket = bench.path('class/class.nbd');
    await using _server = await serving(bench);
    const node = { 'node-name': 'disk', driver: 'raw', file: nbdNode(socket, 'student-01') };
    const boot = () =>
      mustRun('qemu-system-x86_64', [
        ...['-no-user-config', '-nodefaults', '-machine', 'pc', '-accel', 'tcg', '-m', '16M'],
        ...['-display', 'none', '-serial', 'stdio', '-no-reboot'],
        ...['-blockdev', JSON.stringify(node), '-device', 'virtio-blk-pci,drive=disk,bootindex=1'],
      ]);
    expect(await boot()).toContain('cowherd seat=student-01 boots=1');
    expect(await boot()).toContain('cowherd seat=student-01 boots=2');
  });
});

function nbdNode(socket: string, name: string) {
  return { driver: 'nbd', server: { type: 'unix', path: socket }, export: name };
}
