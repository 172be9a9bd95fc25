import type { Duplex } from 'node:stream';
import { createServer, type PeerCertificate, type TLSSocket, type TlsOptions } from 'node:tls';
import type { Authorization, TlsCredentials } from '../cli/tls-objects.ts';

/**
 * Makes the server's end of TLS for streams of clients: an encrypted stream of each, or a rejection. A peer that is to
 * be verified has shown a certificate that the authority signed before anything else is read from it.
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
        if (authorize === undefined || authorize(identityOf(secured, names))) resolve(secured);
        else {
          secured.destroy();
          reject(new Error('The peer may not come in'));
        }
      });
      server.on('tlsClientError', (error, secured) => {
        secured.destroy();
        reject(error);
      });
      stream.once('close', () => reject(new Error('The peer has gone')));
      server.emit('connection', stream);
    });
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
    ciphers: 'PSK:TLS_AES_128_GCM_SHA256:@SECLEVEL=0',
    minVersion: 'TLSv1.2',
    pskCallback(socket, identity) {
      names.set(socket, identity);
      return credentials.keys.get(identity) ?? null;
    },
  };
}

/** The distinguished name in RFC 4514's order, as GnuTLS writes it; of a shared key, its user. */
function identityOf(secured: TLSSocket, names: WeakMap<TLSSocket, string>): string {
  const user = names.get(secured);
  if (user !== undefined) return user;
  const { subject } = secured.getPeerCertificate() as Partial<PeerCertificate>;
  if (!subject) return '';
  return Object.entries(subject)
    .reverse()
    .flatMap(([name, value]) => [value].flat().map((part) => `${name}=${part}`))
    .join(',');
}
