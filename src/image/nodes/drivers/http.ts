import { type HttpOptions, openHttpSource } from '../../../storage/http.ts';
import { type NodeDriver, type NodeHost, nodeError } from '../node-driver.ts';
import type { OptionReader } from '../option-reader.ts';

/** `http` and `https`: a file on a web server that serves byte ranges; by QEMU's names of curl's settings. */
export const httpDrivers: readonly NodeDriver[] = ['http', 'https'].map((name) => ({
  name,
  kind: 'protocol',
  prefixes: [name],
  telling: ['url', 'sslverify', 'cookie', 'cookie-secret', 'username', 'password-secret'],
  parseName(filename, options) {
    // `http://host/path:readahead=64k:` is how a name carries it.
    const tail = /^(.*):readahead=([^:]*):$/.exec(filename);
    return tail ? options.with('readahead', tail[2]).with('url', tail[1]) : options.with('url', filename);
  },
  async open({ host, writable, reader }) {
    const options = await settingsOf(host, reader);
    const url = reader.string('url');
    if (!url) throw nodeError('url', "curl block driver requires an 'url' option");
    if (!url.startsWith(`${name}://`)) {
      throw nodeError(
        'url',
        `${name} curl driver cannot handle the URL '${url}' (does not start with '${name}://')`,
      );
    }
    if (writable) throw nodeError('read-only', 'curl driver does not support writes', 'read-only');
    const plain = ['sslverify', 'cookie', 'cookie-secret', 'username', 'password-secret'].every(
      (option) => !reader.options.has(option),
    );
    return {
      source: await openHttpSource(url, { ...host.http, ...options }),
      exact: plain ? url : undefined,
    };
  },
}));

async function settingsOf(host: NodeHost, reader: OptionReader): Promise<HttpOptions> {
  const readahead = reader.size('readahead');
  if (readahead !== undefined && readahead % 512 !== 0) {
    throw nodeError('readahead', `HTTP_READAHEAD_SIZE ${readahead} is not a multiple of 512`);
  }
  const timeout = reader.number('timeout');
  if (timeout !== undefined && (timeout < 0 || timeout > 10_000)) {
    throw nodeError('timeout', 'timeout parameter is too large or negative');
  }
  if (reader.boolean('sslverify') === false) {
    throw nodeError(
      'sslverify',
      'A server whose certificate is not verified is not read from',
      'unsupported',
    );
  }
  for (const proxy of ['proxy-username', 'proxy-password-secret']) {
    if (reader.string(proxy) !== undefined) {
      throw nodeError(proxy, `The option '${proxy}' of http is not supported`, 'unsupported');
    }
  }
  reader.boolean('force-range');
  const cookie = reader.string('cookie');
  const cookieSecret = reader.string('cookie-secret');
  if (cookie !== undefined && cookieSecret !== undefined) {
    throw nodeError('cookie', 'curl driver cannot handle both cookie and cookie secret');
  }
  const user = reader.string('username');
  const passwordSecret = reader.string('password-secret');
  const headers: Record<string, string> = { ...host.http?.headers };
  if (cookie !== undefined) headers.cookie = cookie;
  if (cookieSecret !== undefined) headers.cookie = await secretText(host, cookieSecret);
  if (user !== undefined) {
    const password = passwordSecret === undefined ? '' : await secretText(host, passwordSecret);
    headers.authorization = `Basic ${base64(`${user}:${password}`)}`;
  }
  return {
    headers,
    ...(timeout ? { patience: timeout * 1000 } : {}),
    // What is kept must at least hold what is read ahead.
    ...(readahead ? { cacheBytes: Math.max(4 * readahead, 16 * 1024 * 1024) } : {}),
  };
}

async function secretText(host: NodeHost, id: string): Promise<string> {
  const secret = await host.secret?.(id);
  if (!secret) throw nodeError('secret', `No secret with id '${id}'`);
  return new TextDecoder().decode(secret);
}

function base64(text: string): string {
  return btoa(String.fromCharCode(...new TextEncoder().encode(text)));
}
