import { createPrivateKey, X509Certificate } from 'node:crypto';
import { CliFailure } from './failure.ts';

/** A PEM file of credentials: its path, for messages, and its content. */
export interface CredentialFile {
  readonly path: string;
  readonly content: Buffer;
}

/** Authorities between a certificate and one that is trusted, at most. */
const longestChain = 16;

/**
 * Checks one's own credentials before anybody is met with them, as QEMU does when it makes the object: a server that
 * nobody will trust does not start, and a client is told what is wrong with its certificate, where a peer would only hang
 * up. (`sanity-check=off` leaves it out.) Throws CliFailure in QEMU's words.
 *
 * Certificates of authorities in between may follow one's own in its file (QEMU knows those beside the authority only).
 * What key usages allow is left to the handshake.
 */
export function checkCredentials(
  endpoint: 'server' | 'client',
  authority: CredentialFile,
  own: CredentialFile | undefined,
): void {
  const chain = own && certificatesOf(own, `Unable to import ${endpoint} certificate ${own.path}: `);
  const authorities = authoritiesOf(authority);
  const mine = chain?.[0];
  if (own && mine) {
    checkTimes(mine, `The ${endpoint} certificate ${own.path}`);
    if (claimsAuthority(mine))
      wrong(`The certificate ${own.path} basic constraints show a CA, but we need one for a ${endpoint}`);
  }
  for (const one of authorities) {
    checkTimes(one, `The CA certificate ${authority.path}`);
    const isAuthority = claimsAuthority(one);
    if (isAuthority && !one.ca && one.raw.includes(criticalKeyUsage))
      wrong(`Certificate ${authority.path} usage does not permit certificate signing`);
    if (isAuthority) continue;
    wrong(
      isAuthority === false
        ? `The certificate ${authority.path} basic constraints do not show a CA`
        : `The certificate ${authority.path} is missing basic constraints for a CA`,
    );
  }
  // (Others may not sign, though nobody is told so who does not need them.)
  const signing = authorities.filter(({ ca }) => ca);
  if (!chain || leadsToOne(chain, signing)) return;
  wrong(
    `Our own certificate ${own!.path} failed validation against ${authority.path}: ` +
      (leadsToOne(chain, authorities)
        ? 'The certificate is not trusted'
        : "The certificate hasn't got a known issuer"),
  );
}

/** Throws CliFailure where the key is none, or another certificate's. */
export function checkKey(certificate: CredentialFile, key: CredentialFile): void {
  const doing = `Cannot load certificate '${certificate.path}' & key '${key.path}'`;
  const [mine] = certificatesOf(certificate, `${doing}: `);
  if (!/-----BEGIN [A-Z ]*PRIVATE KEY-----/.test(key.content.toString('latin1')))
    wrong(`${doing}: The requested data were not available.`);
  let matches: boolean;
  try {
    matches = mine.checkPrivateKey(createPrivateKey(key.content));
  } catch (cause) {
    const isLocked = locked.includes((cause as NodeJS.ErrnoException).code);
    throw new CliFailure(`${doing}: ${isLocked ? 'Decryption has failed.' : reasonOf(cause)}`, { cause });
  }
  if (!matches) throw new CliFailure(`${doing}: The certificate and the given key do not match.`);
}

/** Throws CliFailure where a server's list of revoked certificates is none: it would let in nobody. */
export function checkRevoked({ path, content }: CredentialFile): void {
  if (!content.includes('-----BEGIN X509 CRL-----'))
    wrong(`Cannot load CRL '${path}': Base64 decoding error.`);
}

/** The object identifier 2.5.29.19, as it lies in a certificate. */
const basicConstraints = Buffer.from([0x06, 0x03, 0x55, 0x1d, 0x13]);
/** 2.5.29.15 and the BOOLEAN that makes an extension critical. */
const criticalKeyUsage = Buffer.from([0x06, 0x03, 0x55, 0x1d, 0x0f, 0x01, 0x01, 0xff]);
/** What is said of a key that is encrypted itself: OpenSSL would be asked for a passphrase. */
const locked: readonly unknown[] = ['ERR_MISSING_PASSPHRASE', 'ERR_OSSL_CRYPTO_INTERRUPTED_OR_CANCELLED'];

/**
 * What its basic constraints say; undefined: it has none. (`ca` of Node asks the key usage as well, so that an authority that may sign
 * no certificates counts as none.)
 */
function claimsAuthority({ raw }: X509Certificate): boolean | undefined {
  const found = raw.indexOf(basicConstraints);
  if (found < 0) return undefined;
  let at = found + basicConstraints.length;
  // A BOOLEAN, if the extension is critical; then the value, an OCTET STRING with a SEQUENCE that may begin with a BOOLEAN.
  if (raw[at] === 0x01) at += 3;
  return raw[at + 2] === 0x30 && raw[at + 3] > 0 && raw[at + 4] === 0x01 && raw[at + 6] !== 0;
}

function wrong(message: string): never {
  throw new CliFailure(message);
}

function authoritiesOf(file: CredentialFile): X509Certificate[] {
  try {
    return certificatesOf(file, '');
  } catch (cause) {
    throw new CliFailure(`Unable to import CA certificate list ${file.path}`, { cause });
  }
}

/** At least one. The reason of a failure is put behind `failure`. */
function certificatesOf({ content }: CredentialFile, failure: string): X509Certificate[] {
  const blocks = content
    .toString('latin1')
    .match(/-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----[\s\S]*?-----END [A-Z0-9 ]+-----/g);
  if (!blocks) throw new CliFailure(`${failure}Base64 unexpected header error.`);
  try {
    return blocks.map((block) => new X509Certificate(block));
  } catch (cause) {
    throw new CliFailure(`${failure}${reasonOf(cause)}`, { cause });
  }
}

function reasonOf(error: unknown): string {
  const { reason, message } = error as Error & { readonly reason?: string };
  return reason ?? message;
}

function checkTimes({ validFrom, validTo }: X509Certificate, which: string): void {
  const now = Date.now();
  if (Date.parse(validTo) < now) wrong(`${which} has expired`);
  if (Date.parse(validFrom) > now) wrong(`${which} is not yet active`);
}

/** An authority has signed the first of the chain, or one that leads to it from further on in the chain. */
function leadsToOne(chain: readonly X509Certificate[], authorities: readonly X509Certificate[]): boolean {
  let current: X509Certificate | undefined = chain[0];
  for (let steps = 0; current && steps < longestChain; steps++) {
    const certificate: X509Certificate = current;
    const isTrusted = authorities.some((one) => one.raw.equals(certificate.raw) || signed(one, certificate));
    if (isTrusted) return true;
    current = chain.find((other) => other !== certificate && signed(other, certificate));
  }
  return false;
}

function signed(issuer: X509Certificate, certificate: X509Certificate): boolean {
  if (certificate.issuer !== issuer.subject) return false;
  try {
    return certificate.verify(issuer.publicKey);
  } catch {
    // A key of another kind than the signature's.
    return false;
  }
}
