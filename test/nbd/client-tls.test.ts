import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { cowImg } from '../../src/cli/cow-img.ts';
import { cowNbd } from '../../src/nbd/cow-nbd.ts';
import { testContext } from '../support/cli-context.ts';
import { have, mustRun, run, type TempDir, tempDir } from '../support/programs.ts';
import { type OtherServer, qemuNbd } from './client-support.ts';

const ready = ['qemu-nbd', 'qemu-img', 'openssl'].every(have);

describe.skipIf(!ready)('the client under TLS', () => {
  let folder: TempDir;
  let server: OtherServer;
  const size = 3 * 1024 * 1024;

  const cow = async (program: typeof cowImg, ...args: string[]) => {
    const context = testContext({ program: program === cowImg ? 'qemu-img' : 'qemu-nbd' });
    const code = await program(args, context);
    return { code, stdout: context.out(), stderr: context.err() };
  };

  beforeAll(async () => {
    folder = await tempDir();
    const pki = folder.file('pki');
    const other = folder.file('other');
    for (const dir of [pki, other]) {
      mkdirSync(dir);
      const openssl = (...args: string[]) => mustRun('openssl', args, { cwd: dir });
      const fresh = ['-newkey', 'rsa:2048', '-nodes'];
      const ca = ['-subj', '/CN=CA', '-addext', 'basicConstraints=critical,CA:TRUE', '-days', '30'];
      await openssl('req', '-x509', ...fresh, ...ca, '-keyout', 'ca-key.pem', '-out', 'ca-cert.pem');
      for (const name of ['server', 'client']) {
        const files = ['-keyout', `${name}-key.pem`, '-out', `${name}.csr`];
        await openssl('req', ...fresh, '-subj', `/CN=${name}`, ...files);
        writeFileSync(`${dir}/${name}.ext`, 'subjectAltName=DNS:localhost\n');
        const signed = ['-CA', 'ca-cert.pem', '-CAkey', 'ca-key.pem', '-CAcreateserial', '-days', '30'];
        const out = ['-extfile', `${name}.ext`, '-out', `${name}-cert.pem`];
        await openssl('x509', '-req', '-in', `${name}.csr`, ...signed, ...out);
      }
    }
    const image = folder.file('disk.raw');
    writeFileSync(image, Buffer.alloc(size, 'secret'));
    const credentials = `tls-creds-x509,id=t,endpoint=server,dir=${pki},verify-peer=on`;
    server = await qemuNbd(folder.file('tls.sock'), [
      ...['-e', '8', '-r', '-f', 'raw', '--object', credentials, '--tls-creds', 't', image],
    ]);
  });
  afterAll(async () => {
    await server?.[Symbol.asyncDispose]();
    await folder?.remove();
  });

  const object = (dir: string) => ['--object', `tls-creds-x509,id=c,endpoint=client,dir=${folder.file(dir)}`];
  const options = () => [
    '--image-opts',
    `driver=nbd,path=${server.socket},tls-creds=c,tls-hostname=localhost`,
  ];

  it('reads an export, as qemu-img does', async () => {
    const copy = folder.file('copy.raw');
    expect(await cow(cowImg, 'convert', ...object('pki'), ...options(), '-O', 'raw', copy)).toEqual({
      code: 0,
      stdout: '',
      stderr: '',
    });
    await mustRun('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', copy, folder.file('disk.raw')]);
    const args = ['info', ...object('pki'), ...options()];
    expect(await cow(cowImg, ...args)).toEqual(await run('qemu-img', args));
  });

  it('lists exports, as qemu-nbd does', async () => {
    const args = [
      '-L',
      '-k',
      server.socket,
      ...object('pki'),
      '--tls-creds',
      'c',
      '--tls-hostname',
      'localhost',
    ];
    expect(await cow(cowNbd, ...args)).toEqual(await run('qemu-nbd', args));
  });

  it('is let in only under TLS, and trusts nobody else', async () => {
    const plain = ['info', server.uri];
    expect(await cow(cowImg, ...plain)).toEqual(await run('qemu-img', plain));
    const place = `driver=nbd,path=${server.socket},tls-creds=c`;
    for (const [args, says] of [
      [[...object('other'), ...options()], "The certificate hasn't got a known issuer"],
      [
        [...object('pki'), '--image-opts', `${place},tls-hostname=elsewhere`],
        'does not match the hostname elsewhere',
      ],
      [[...object('pki'), '--image-opts', place], 'No hostname for certificate validation'],
    ] as const) {
      const refused = await cow(cowImg, 'info', ...args);
      expect(refused).toEqual(await run('qemu-img', ['info', ...args]));
      expect(refused).toMatchObject({ code: 1, stderr: expect.stringContaining(says) });
    }
    // Signed by nobody that the server knows, which it finds out when the client thinks that it is in.
    const [asOther] = object('other').slice(1);
    const strange = `${asOther},sanity-check=off`;
    writeFileSync(folder.file('other/ca-cert.pem'), readFileSync(folder.file('pki/ca-cert.pem')));
    const hungUp = await cow(cowImg, 'info', '--object', strange, ...options());
    expect(hungUp).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/gone right after the TLS handshake/),
    });
    const unnamed = ['-L', '-k', server.socket, ...object('pki'), '--tls-creds', 'c'];
    expect(await cow(cowNbd, ...unnamed)).toEqual(await run('qemu-nbd', unnamed));
  });
});

describe.skipIf(!['qemu-nbd', 'qemu-img'].every(have))('the client with a key that is another one', () => {
  it('says so in the words of qemu-img', async () => {
    await using folder = await tempDir();
    for (const [dir, key] of [
      ['psk', '0123456789abcdef'],
      ['other', 'fedcba9876543210'],
    ]) {
      mkdirSync(folder.file(dir));
      writeFileSync(folder.file(`${dir}/keys.psk`), `alice:${key.repeat(2)}\n`);
    }
    const image = folder.file('disk.raw');
    writeFileSync(image, Buffer.alloc(65536));
    const credentials = `tls-creds-psk,id=t,endpoint=server,dir=${folder.file('psk')}`;
    await using server = await qemuNbd(folder.file('psk.sock'), [
      ...['-t', '-e', '8', '-f', 'raw', '--object', credentials, '--tls-creds', 't', image],
    ]);
    const mine = `tls-creds-psk,id=c,endpoint=client,username=alice,dir=${folder.file('other')}`;
    const args = ['info', '--object', mine, '--image-opts', `driver=nbd,path=${server.socket},tls-creds=c`];
    const context = testContext({ program: 'qemu-img' });
    const code = await cowImg(args, context);
    const theirs = await run('qemu-img', args);
    expect({ code, stdout: context.out(), stderr: context.err() }).toEqual(theirs);
    expect(theirs.stderr).toContain('TLS handshake failed: The TLS connection was non-properly terminated.');
  });
});

describe.skipIf(!have('qemu-nbd'))('cow-nbd -L', () => {
  it('says what qemu-nbd says', async () => {
    const folder = await tempDir();
    const image = folder.file('listed.raw');
    writeFileSync(image, Buffer.alloc(65536));
    await using server = await qemuNbd(folder.file('l.sock'), [
      '-e',
      '4',
      '-f',
      'raw',
      '-x',
      'a b',
      '-D',
      'what',
      image,
    ]);
    for (const socket of [server.socket, folder.file('none.sock')]) {
      const context = testContext({ program: 'qemu-nbd' });
      const code = await cowNbd(['-L', '-k', socket], context);
      const theirs = await run('qemu-nbd', ['-L', '-k', socket]);
      expect({ code, stdout: context.out(), stderr: context.err() }).toEqual(theirs);
    }
    await folder.remove();
  });
});
