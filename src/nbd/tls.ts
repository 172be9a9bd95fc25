import type { Duplex } from 'node:stream';
import { createServer, type TLSSocket, type TlsOptions } from 'node:tls';
import type { Authorization, TlsCredentials } from '../cli/tls-objects.ts';
import { pskSuites } from '../platform/psk-suites.ts';

/**
 * Makes the server's end of TLS for streams of clients: an encrypted stream of each, or a rejection that says why, in QEMU's
 * words where it has some. A peer that is to be verified has shown a certificate that the authority signed before anything
 * else is read from it.
 */
export function tlsStarter(
  credentials: TlsCredentials,
  authorize: Authorization | undefined,
): (stream: Duplex) => Promise<Duplex> {
  const names = new WeakMap<TLSSocket, string>();
  const options = { ...optionsOf(credentials, names), handshakeTimeout: 10_000 };
  return (stream) =>
    new Promise((resolve, reject) => {
      // A server for each: it says which of its streams became the encrypted one only by their being one.
      const server = createServer(options, (secured) => {
        secured.on('error', () => undefined);
        const identity = authorize && identityOf(secured, names);
        if (identity === undefined || authorize!(identity)) resolve(secured);
        else {
          secured.destroy();
          reject(new Error(`TLS x509 authz check for ${identity} is denied`));
        }
      });
      server.on('tlsClientError', (error, secured) => {
        secured.destroy();
        reject(refusal(error, secured));
      });
      // What the encrypted stream has to say of its end comes behind that.
      stream.once('close', () => setImmediate(reject, new Error(`TLS handshake failed: ${hasGone}`)));
      server.emit('connection', stream);
    });
}

const hasGone = 'The TLS connection was non-properly terminated.';

/** Why a handshake ended, as GnuTLS and QEMU word it. */
function refusal(
  error: NodeJS.ErrnoException & { readonly reason?: string },
  { authorizationError }: TLSSocket,
): Error {
  // Node then has nothing to say but that the connection is closed.
  switch (authorizationError as unknown as string | null | undefined) {
    case null:
    case undefined:
      break;
    case 'CERT_REVOKED':
      return new Error('The certificate has been revoked');
    case 'DEPTH_ZERO_SELF_SIGNED_CERT':
    case 'SELF_SIGNED_CERT_IN_CHAIN':
    case 'UNABLE_TO_GET_ISSUER_CERT':
    case 'UNABLE_TO_GET_ISSUER_CERT_LOCALLY':
    case 'UNABLE_TO_VERIFY_LEAF_SIGNATURE':
      return new Error("The certificate hasn't got a known issuer");
    default:
      return new Error('The certificate is not trusted');
  }
  if (error.code === 'ERR_SSL_PEER_DID_NOT_RETURN_A_CERTIFICATE') {
    return new Error('Verify failed: No certificate was found.');
  }
  return new Error(
    `TLS handshake failed: ${error.code === 'ECONNRESET' ? hasGone : (error.reason ?? error.message)}`,
  );
}

function optionsOf(credentials: TlsCredentials, names: WeakMap<TLSSocket, string>): TlsOptions {
  if (credentials.kind === 'x509') {
    const { authority, revoked, certificate, key, verifyPeer } = credentials;
    return {
      ca: authority,
      crl: revoked,
      cert: certificate,
      key,
      requestCert: verifyPeer,
      rejectUnauthorized: verifyPeer,
      minVersion: 'TLSv1.2',
    };
  }
  return {
    // GnuTLS offers keys that were agreed on beforehand with the older version too.
    ciphers: `TLS_AES_128_GCM_SHA256:${pskSuites}`,
    minVersion: 'TLSv1.2',
    pskCallback(socket, identity) {
      names.set(socket, identity);
      return credentials.keys.get(identity) ?? null;
    },
  };
}

/**
 * The distinguished name in the certificate's order (not RFC 4514's), with that document's escapes, as GnuTLS writes it for QEMU;
 * of a shared key, its user.
 */
function identityOf(secured: TLSSocket, names: WeakMap<TLSSocket, string>): string {
  const user = names.get(secured);
  if (user !== undefined) return user;
  const lines = secured.getPeerX509Certificate()?.subject?.split('\n') ?? [];
  return lines.map((line) => line.replace(/^emailAddress=/, 'EMAIL=')).join(',');
}
