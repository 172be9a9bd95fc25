import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { beforeAll, describe, expect, it } from 'vitest';
import { encodeInfoRequest, encodeOption } from '../../src/storage/nbd/options.ts';
import { Option } from '../../src/storage/nbd/protocol.ts';
import { have, mustRun, run } from '../support/programs.ts';
import { builtServer, freePort, nbdsh } from './support.ts';

describe.skipIf(!have('nbdsh') || !have('openssl'))('TLS', () => {
  const server = builtServer();
  let pki: string;
  let image: string;

  beforeAll(async () => {
    image = server.file('secret.raw');
    writeFileSync(image, Buffer.alloc(4 * 1024 * 1024, 's'));
    pki = server.file('pki');
    mkdirSync(pki);
    const openssl = (...args: string[]) => mustRun('openssl', args, { cwd: pki });
    const authority = ['-subj', '/CN=Test Authority', '-addext', 'basicConstraints=critical,CA:TRUE'];
    for (const ca of ['ca', 'other-ca']) {
      await openssl(
        'req',
        '-x509',
        '-newkey',
        'rsa:2048',
        '-nodes',
        '-days',
        '30',
        ...authority,
        '-keyout',
        `${ca}-key.pem`,
        '-out',
        `${ca}-cert.pem`,
      );
    }
    for (const [name, subject, ca] of [
      ['server', '/CN=localhost', 'ca'],
      ['client', '/C=DE/O=Herd/CN=seat-1', 'ca'],
      ['stranger', '/CN=seat-1', 'other-ca'],
      ['odd', '/C=DE/O=He, rd/OU=a/OU=b/CN=#"q" <1>;/emailAddress=a@b.c', 'ca'],
      ['purpose', '/CN=seat-1', 'ca'],
    ]) {
      await openssl(
        'req',
        '-newkey',
        'rsa:2048',
        '-nodes',
        '-subj',
        subject,
        '-keyout',
        `${name}-key.pem`,
        '-out',
        `${name}.csr`,
      );
      const purpose = name === 'purpose' ? 'extendedKeyUsage=serverAuth\n' : '';
      writeFileSync(`${pki}/${name}.ext`, `subjectAltName=DNS:localhost,IP:127.0.0.1\n${purpose}`);
      await openssl(
        'x509',
        '-req',
        '-in',
        `${name}.csr`,
        '-CA',
        `${ca}-cert.pem`,
        '-CAkey',
        `${ca}-key.pem`,
        '-CAcreateserial',
        '-days',
        '30',
        '-extfile',
        `${name}.ext`,
        '-out',
        `${name}-cert.pem`,
      );
    }
    for (const name of ['stranger', 'odd', 'purpose']) {
      mkdirSync(`${pki}/${name}`);
      for (const [from, to] of [
        ['ca-cert', 'ca-cert'],
        [`${name}-cert`, 'client-cert'],
        [`${name}-key`, 'client-key'],
      ]) {
        writeFileSync(`${pki}/${name}/${to}.pem`, readFileSync(`${pki}/${from}.pem`));
      }
    }
    writeFileSync(`${pki}/keys.psk`, `alice:${'0123456789abcdef'.repeat(2)}\n`);
  });

  const creds = () => `tls-creds-x509,id=tls0,dir=${pki},endpoint=server,verify-peer=on`;
  const reading = (port: number, how: string) =>
    nbdsh(
      `h.set_tls(nbd.TLS_REQUIRE)\n${how}\nh.connect_tcp('localhost','${port}')\nprint(h.pread(3,0), h.get_tls_negotiated())`,
    );
  const certificates = (dir: string) => `h.set_tls_certificates('${dir}')`;

  it('serves clients with a certificate, and nobody else', async () => {
    const port = await freePort();
    await using running = await server.startTcp(port, [
      '-t',
      '-e',
      '0',
      '--object',
      creds(),
      '--tls-creds',
      'tls0',
      '-f',
      'raw',
      image,
    ]);
    expect(await reading(port, certificates(pki))).toMatchObject({
      stdout: "bytearray(b'sss') True\n",
      stderr: '',
    });
    expect((await reading(port, certificates(`${pki}/stranger`))).code).not.toBe(0);
    const plain = await nbdsh(`h.connect_tcp('localhost','${port}')\nprint(h.pread(3,0))`);
    expect(plain.stdout).toBe('');
    expect(plain.stderr).toMatch(/TLS/);
    const options = `tls-creds-x509,id=tls0,dir=${pki},endpoint=client`;
    const theirs = await run('qemu-img', [
      'info',
      '--object',
      options,
      '--image-opts',
      `driver=nbd,host=localhost,port=${port},tls-creds=tls0`,
    ]);
    expect(theirs.stdout).toContain('virtual size: 4 MiB');
    const out = server.file('through-tls.raw');
    await mustRun('qemu-img', [
      'convert',
      '--object',
      options,
      '--image-opts',
      `driver=nbd,host=localhost,port=${port},tls-creds=tls0`,
      '-O',
      'raw',
      out,
    ]);
    expect(readFileSync(out).equals(readFileSync(image))).toBe(true);
    expect(await running.stop()).toBe(0);
  });

  it('tells clients on one unix socket apart', async () => {
    await using running = await server.start([
      ...['-t', '-e', '0', '--object', creds(), '--tls-creds', 'tls0', '-f', 'raw', image],
    ]);
    const reading = `h.set_tls(nbd.TLS_REQUIRE)\n${certificates(pki)}\nh.set_tls_verify_peer(False)\nh.connect_unix('${running.socket}')\nprint(h.pread(3,0), h.get_tls_negotiated())`;
    // One of them haggles for ever meanwhile.
    const stalled = connect({ path: running.socket });
    stalled.on('error', () => undefined);
    const answers = await Promise.all(Array.from({ length: 5 }, () => nbdsh(reading)));
    for (const answer of answers) {
      expect(answer).toMatchObject({ stdout: "bytearray(b'sss') True\n", stderr: '' });
    }
    stalled.destroy();
  });

  it('lets not a byte through before it', async () => {
    const port = await freePort();
    await using running = await server.startTcp(port, [
      '-t',
      '-e',
      '0',
      '--object',
      creds(),
      '--tls-creds',
      'tls0',
      '-f',
      'raw',
      image,
    ]);
    const go = encodeOption(Option.go, encodeInfoRequest({ name: '', infos: [] }));
    for (const words of [
      [encodeOption(Option.exportName)],
      [go],
      [encodeOption(Option.list)],
      // Plain words behind STARTTLS must not be taken for encrypted ones.
      [encodeOption(Option.startTls), go],
    ]) {
      const socket = connect(port, '127.0.0.1');
      socket.on('error', () => undefined);
      let got = Buffer.alloc(0);
      socket.on('data', (chunk) => {
        got = Buffer.concat([got, chunk]);
      });
      const closed = new Promise((resolve) => socket.on('close', resolve));
      socket.write(Buffer.concat([Uint8Array.from([0, 0, 0, 3]), ...words, new Uint8Array(28)]));
      setTimeout(() => socket.destroy(), 500);
      await closed;
      expect(got.includes('sss')).toBe(false);
      // Neither the size nor an acknowledgement of GO.
      expect(got.length).toBeLessThan(200);
      expect(got.includes(Buffer.from([0, 0, 0, 7, 0, 0, 0, 1]))).toBe(false);
    }
    expect(running.said()).toBe('');
  });

  it.skipIf(!have('qemu-nbd'))(
    'asks the authorization list, and says whom it refuses, as qemu-nbd does',
    async () => {
      const list = (rule: string) =>
        `authz-list,id=a,policy=deny,rules.0.match=${rule},rules.0.policy=allow,rules.0.format=glob`;
      const cases = [
        ['.', list('*,,CN=seat-*'), true],
        ['.', 'authz-simple,id=a,identity=C=DE,,O=Herd,,CN=seat-1', true],
        ['.', 'authz-simple,id=a,identity=CN=seat-1,,O=Herd,,C=DE', false],
        ['odd', list('CN=other*'), false],
        ['stranger', list('*'), false],
      ] as const;
      for (const [dir, rules, allowed] of cases) {
        const answers: unknown[] = [];
        for (const program of [undefined, 'qemu-nbd']) {
          const args = ['--object', creds(), '--object', rules, '--tls-creds', 'tls0', '--tls-authz', 'a'];
          await using running = await server.start(['-t', ...args, '-f', 'raw', image], { program });
          const { stdout } = await nbdsh(
            `h.set_tls(nbd.TLS_REQUIRE)\n${certificates(`${pki}/${dir}`)}\nh.set_tls_verify_peer(False)\n` +
              `h.connect_unix('${running.socket}')\nprint(h.pread(3,0))`,
          );
          const refusals = () => running.said().match(/option negotiation failed.*/g) ?? [];
          // It may come a moment after the client has seen the end.
          if (!allowed) await expect.poll(refusals, { timeout: 10_000 }).not.toEqual([]);
          await running.stop();
          answers.push([stdout.includes('sss'), refusals()]);
        }
        expect(answers[0], dir + rules).toEqual(answers[1]);
        expect(answers[0]).toEqual([allowed, allowed ? [] : [expect.stringMatching(/denied|certificate/)]]);
      }
    },
  );

  it.skipIf(!have('qemu-nbd'))('lets in fewer than qemu-nbd does, as docs/differences.md says', async () => {
    const authz = ['--object', 'authz-simple,id=a,identity=bob', '--tls-authz', 'a'];
    const unverified = `tls-creds-x509,id=tls0,dir=${pki},endpoint=server,verify-peer=off`;
    const psk = `tls-creds-psk,id=tls0,dir=${pki},endpoint=server`;
    const alice = `h.set_tls_psk_file('${pki}/keys.psk')\nh.set_tls_username('alice')`;
    for (const [args, how] of [
      [['--object', creds()], certificates(`${pki}/purpose`)],
      [['--object', unverified, ...authz], certificates(pki)],
      [['--object', psk, ...authz], alice],
    ] as const) {
      const served: boolean[] = [];
      for (const program of [undefined, 'qemu-nbd']) {
        const words = ['-t', ...args, '--tls-creds', 'tls0', '-f', 'raw', image];
        await using running = await server.start(words, { program });
        const { stdout } = await nbdsh(
          `h.set_tls(nbd.TLS_REQUIRE)\n${how}\nh.set_tls_verify_peer(False)\n` +
            `h.connect_unix('${running.socket}')\nprint(h.pread(3,0))`,
        );
        served.push(stdout.includes('sss'));
      }
      expect(served, args.join(' ')).toEqual([false, true]);
    }
  });

  it('takes keys that were agreed on beforehand', async () => {
    const port = await freePort();
    const psk = `tls-creds-psk,id=tls0,dir=${pki},endpoint=server`;
    await using running = await server.startTcp(port, [
      '-t',
      '-e',
      '0',
      '--object',
      psk,
      '--tls-creds',
      'tls0',
      '-f',
      'raw',
      image,
    ]);
    const key = (user: string) => `h.set_tls_psk_file('${pki}/keys.psk')\nh.set_tls_username('${user}')`;
    expect(await reading(port, key('alice'))).toMatchObject({
      stdout: "bytearray(b'sss') True\n",
      stderr: '',
    });
    expect((await reading(port, key('mallory'))).code).not.toBe(0);
    expect(await running.stop()).toBe(0);
  });
});
