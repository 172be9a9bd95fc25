import type { Socket } from 'node:net';
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
  const waiting = new Map<string, { resolve(stream: Duplex): void; reject(error: unknown): void }>();
  const names = new WeakMap<TLSSocket, string>();
  const server = createServer({ ...optionsOf(credentials, names), handshakeTimeout: 10_000 }, (secured) => {
    const key = keyOf(secured);
    const waiter = waiting.get(key);
    waiting.delete(key);
    secured.on('error', () => undefined);
    const allowed = authorize === undefined || authorize(identityOf(secured, names));
    if (waiter && allowed) waiter.resolve(secured);
    else {
      secured.destroy();
      waiter?.reject(new Error('The peer may not come in'));
    }
  });
  server.on('tlsClientError', (_error, secured) => secured.destroy());
  return (stream) =>
    new Promise((resolve, reject) => {
      const socket = stream as Socket;
      const key = keyOf(socket);
      waiting.set(key, { resolve, reject });
      socket.once('close', () => {
        if (waiting.get(key)?.reject !== reject) return;
        waiting.delete(key);
        reject(new Error('The peer has gone'));
      });
      server.emit('connection', socket);
    });
}

/** Client and server of one TCP connection know each other by this as long as it is up. */
function keyOf({ remoteAddress, remotePort, localPort }: Socket): string {
  return `${remoteAddress} ${remotePort} ${localPort}`;
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
