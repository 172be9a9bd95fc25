import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { cowImg } from '../../src/cli/cow-img.ts';
import { cowNbd } from '../../src/nbd/cow-nbd.ts';
import { testContext } from '../support/cli-context.ts';
import { have, mustRun, run, type TempDir, tempDir } from '../support/programs.ts';

const config = `[ca]\ndefault_ca=d\n[d]\ndatabase=index\nserial=serial\nnew_certs_dir=.\ndefault_md=sha256
policy=p\nunique_subject=no\n[p]\ncommonName=supplied\n[leaf]\nbasicConstraints=CA:FALSE
[authority]\nbasicConstraints=critical,CA:TRUE
[no-signer]\nbasicConstraints=critical,CA:TRUE\nkeyUsage=digitalSignature
[never-signer]\nbasicConstraints=critical,CA:TRUE\nkeyUsage=critical,digitalSignature\n`;
const future = ['20400101000000Z', '20410101000000Z'] as const;
const past = ['20200101000000Z', '20210101000000Z'] as const;
const now = ['20200101000000Z', '20490101000000Z'] as const;

describe.skipIf(!['qemu-nbd', 'qemu-img', 'openssl'].every(have))(
  'what is wrong with own credentials',
  () => {
    let folder: TempDir;
    let image: string;

    const openssl = (...args: string[]) => mustRun('openssl', args, { cwd: folder.file('pki') });

    /** `name`.pem, signed by `issuer` (which may be itself), with the key of all. */
    async function certificate(
      name: string,
      issuer: string,
      [from, to]: readonly [string, string],
      kind = 'leaf',
    ) {
      await openssl('req', '-new', '-key', 'key.pem', '-subj', `/CN=${name}`, '-out', `${name}.csr`);
      const times = ['-startdate', from, '-enddate', to];
      const by = issuer === name ? ['-selfsign'] : ['-cert', `${issuer}.pem`];
      const how = ['-batch', '-notext', '-config', 'config', '-create_serial', '-extensions', kind];
      await openssl(
        'ca',
        ...how,
        ...times,
        ...by,
        '-keyfile',
        'key.pem',
        '-in',
        `${name}.csr`,
        '-out',
        `${name}.pem`,
      );
    }

    /** A folder of credentials for either end; contents by names of files in `pki`. */
    function credentials(name: string, authority: string, own: readonly string[], key = 'key'): void {
      const dir = folder.file(name);
      mkdirSync(dir);
      const pem = (file: string) => readFileSync(folder.file(`pki/${file}.pem`));
      writeFileSync(`${dir}/ca-cert.pem`, pem(authority));
      for (const end of ['server', 'client']) {
        writeFileSync(`${dir}/${end}-cert.pem`, Buffer.concat(own.map(pem)));
        copyFileSync(folder.file(`pki/${key}.pem`), `${dir}/${end}-key.pem`);
      }
    }

    const info = (dir: string, more = '') => [
      ...['info', '--object', `tls-creds-x509,id=t,endpoint=client,dir=${folder.file(dir)}${more}`],
      image,
    ];
    const serve = (dir: string) => [
      ...['-k', folder.file('s'), '--object', `tls-creds-x509,id=t,endpoint=server,dir=${folder.file(dir)}`],
      ...['--tls-creds', 't', '-f', 'raw', image],
    ];
    const cow = async (program: typeof cowImg, args: readonly string[]) => {
      const context = testContext({ program: program === cowImg ? 'qemu-img' : 'qemu-nbd' });
      const code = await program([...args], context);
      return { code, stdout: context.out(), stderr: context.err() };
    };

    beforeAll(async () => {
      folder = await tempDir();
      image = folder.file('disk.raw');
      writeFileSync(image, Buffer.alloc(65536));
      mkdirSync(folder.file('pki'));
      writeFileSync(folder.file('pki/config'), config);
      writeFileSync(folder.file('pki/index'), '');
      writeFileSync(folder.file('pki/nonsense.pem'), 'nonsense\n');
      for (const key of ['key', 'other-key']) await openssl('genrsa', '-out', `${key}.pem`, '2048');
      await certificate('ca', 'ca', now, 'authority');
      await certificate('other-ca', 'other-ca', now, 'authority');
      await certificate('old-ca', 'old-ca', past, 'authority');
      for (const kind of ['no-signer', 'never-signer']) {
        await certificate(kind, kind, now, kind);
        await certificate(`by-${kind}`, kind, now);
      }
      const pem = (name: string) => folder.file(`pki/${name}.pem`);
      writeFileSync(pem('two'), Buffer.concat([readFileSync(pem('ca')), readFileSync(pem('no-signer'))]));
      writeFileSync(pem('empty'), '');
      const locked = ['-topk8', '-in', 'key.pem', '-out', 'locked-key.pem', '-passout', 'pass:secret'];
      await openssl('pkcs8', ...locked);
      await certificate('between', 'ca', now, 'authority');
      await certificate('good', 'ca', now);
      await certificate('expired', 'ca', past);
      await certificate('early', 'ca', future);
      await certificate('stranger', 'other-ca', now);
      await certificate('far', 'between', now);
      await certificate('by-old', 'old-ca', now);
      for (const own of ['expired', 'early', 'stranger']) credentials(own, 'ca', [own]);
      credentials('authority-as-own', 'ca', ['ca']);
      credentials('own-as-authority', 'good', ['good']);
      credentials('old-authority', 'old-ca', ['by-old']);
      credentials('key', 'ca', ['good'], 'other-key');
      credentials('nonsense', 'ca', ['nonsense']);
      credentials('nonsense-authority', 'nonsense', ['good']);
      credentials('chain', 'ca', ['far', 'between']);
      credentials('good', 'ca', ['good']);
      for (const kind of ['no-signer', 'never-signer']) credentials(kind, kind, [`by-${kind}`]);
      credentials('two', 'two', ['good']);
      for (const key of ['empty', 'locked-key']) credentials(key, 'ca', ['good'], key);
      credentials('no-signer-as-own', 'no-signer', ['no-signer']);
    });
    afterAll(() => folder?.remove());

    it.each([
      ['expired', 'has expired'],
      ['early', 'is not yet active'],
      ['stranger', "The certificate hasn't got a known issuer"],
      ['authority-as-own', 'basic constraints show a CA'],
      ['own-as-authority', 'basic constraints do not show a CA'],
      ['old-authority', 'The CA certificate'],
      ['key', 'do not match'],
      ['empty', 'The requested data were not available'],
      ['locked-key', 'Decryption has failed'],
      ['no-signer', 'The certificate is not trusted'],
      ['never-signer', 'usage does not permit certificate signing'],
      ['no-signer-as-own', 'basic constraints show a CA'],
      ['nonsense', 'Unable to import'],
      ['nonsense-authority', 'Unable to import CA certificate list'],
    ])('is said before anybody is met, as QEMU says it: %s', async (dir, says) => {
      for (const [program, name, args] of [
        [cowImg, 'qemu-img', info(dir)],
        [cowNbd, 'qemu-nbd', serve(dir)],
      ] as const) {
        const ours = await cow(program, args);
        expect(ours).toEqual(await run(name, args));
        expect(ours).toMatchObject({ code: 1, stderr: expect.stringContaining(says) });
      }
    });

    it('is left to the peers where the check is switched off, but for a key that is another one', async () => {
      for (const dir of ['expired', 'stranger', 'key']) {
        const args = info(dir, ',sanity-check=off');
        const ours = await cow(cowImg, args);
        expect(ours).toEqual(await run('qemu-img', args));
        expect(ours.code).toBe(dir === 'key' ? 1 : 0);
      }
    });

    it('is a list of revoked certificates that is none, to a server', async () => {
      credentials('crl', 'ca', ['good']);
      writeFileSync(folder.file('crl/ca-crl.pem'), 'nonsense');
      const ours = await cow(cowNbd, serve('crl'));
      expect(ours).toEqual(await run('qemu-nbd', serve('crl')));
      expect(ours).toMatchObject({ code: 1, stderr: expect.stringContaining('Cannot load CRL') });
      expect(await cow(cowImg, info('crl'))).toEqual(await run('qemu-img', info('crl')));
    });

    it('is nothing where they are good, or an authority in between stands in the same file', async () => {
      // The second authority of 'two' may sign nothing, which is all the same to those whom the first one has signed.
      for (const dir of ['good', 'two'])
        expect(await cow(cowImg, info(dir))).toEqual(await run('qemu-img', info(dir)));
      expect(await cow(cowImg, info('chain'))).toMatchObject({ code: 0, stderr: '' });
    });
  },
);
