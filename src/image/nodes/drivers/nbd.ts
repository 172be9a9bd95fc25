import { maxStringBytes, nbdPort } from '../../../storage/nbd/protocol.ts';
import { openNbdStore } from '../../../storage/nbd/store.ts';
import type { ClientSecurity, NbdAddress } from '../../../storage/nbd/stream.ts';
import { type NodeDriver, type NodeHost, nodeError } from '../node-driver.ts';
import type { NodeOptions } from '../node-options.ts';
import { OptionReader } from '../option-reader.ts';

const schemes = ['nbd', 'nbd+tcp', 'nbd+unix', 'nbds', 'nbds+unix'];

/** An export of an NBD server, named as QEMU and the NBD URI specification do. */
export const nbdDriver: NodeDriver = {
  name: 'nbd',
  kind: 'protocol',
  prefixes: schemes,
  telling: ['path', 'host', 'port', 'export', 'tls', 'tls-creds', 'tls-hostname', 'server.'],
  parseName(name, options) {
    for (const option of ['host', 'port', 'path']) {
      if (options.has(option)) {
        throw nodeError(option, 'host/port/path and file names may not be specified at the same time');
      }
    }
    return name.includes('://') ? parseUri(name, options) : parseOldName(name, options);
  },
  async open({ host, writable, reader }) {
    const address = addressOf(reader);
    const exportName = reader.string('export') ?? '';
    const tls = reader.boolean('tls') ?? false;
    const security = securityOf(host, reader, address, tls);
    if (new TextEncoder().encode(exportName).length > maxStringBytes) {
      throw nodeError('export', 'export name too long to send to server');
    }
    const statusContext = reader.string('x-dirty-bitmap');
    if (statusContext !== undefined && new TextEncoder().encode(statusContext).length > maxStringBytes) {
      throw nodeError('x-dirty-bitmap', 'x-dirty-bitmap query too long to send to server');
    }
    const reconnectDelay = seconds(reader, 'reconnect-delay');
    const openTimeout = seconds(reader, 'open-timeout');
    const { connect } = host;
    if (!connect) throw nodeError('driver', 'There are no sockets here', 'unsupported');
    const exact = exactName(address, exportName, tls);
    return {
      source: await openNbdStore({
        connect,
        address,
        exportName,
        statusContext,
        security,
        reconnectDelay,
        openTimeout,
        name: exact,
        writable,
      }),
      exact,
    };
  },
};

/** `nbd://host[:port]/export`, `nbd+unix:///export?socket=path`, and the same under TLS. */
function parseUri(name: string, options: NodeOptions): NodeOptions {
  const match = /^([a-z+]+):\/\/([^/?#]*)([^?#]*)(?:\?([^#]*))?/.exec(name);
  const invalid = () => nodeError('filename', 'No valid URL specified');
  if (!match || !schemes.includes(match[1])) throw invalid();
  const [, scheme, authority, path, query] = match;
  const unescaped = (text: string) => {
    try {
      return decodeURIComponent(text);
    } catch {
      throw invalid();
    }
  };
  const parameters = query ? query.split(/[&;]/).filter((part) => part !== '') : [];
  const name0 = unescaped(path.replace(/^\/+/, ''));
  let parsed = options;
  if (name0 !== '') parsed = parsed.with('export', name0);
  if (scheme.startsWith('nbds')) parsed = parsed.with('tls', 'on');
  if (scheme.endsWith('+unix')) {
    const [, key, value] = /^([^=]*)=?(.*)$/.exec(parameters[0] ?? '')!;
    if (authority !== '' || parameters.length !== 1 || unescaped(key) !== 'socket') throw invalid();
    return parsed.with('server.type', 'unix').with('server.path', unescaped(value));
  }
  const place = /^(?:[^@]*@)?(?:\[([^\]]*)\]|([^:]*))(?::([0-9]*))?$/.exec(authority);
  const host = place && unescaped(place[1] ?? place[2]);
  if (!host || parameters.length > 0) throw invalid();
  const port = place[3] ? String(Number(place[3])) : String(nbdPort);
  return parsed.with('server.type', 'inet').with('server.host', host).with('server.port', port);
}

/** `nbd:host:port[:exportname=NAME]` and `nbd:unix:path[:exportname=NAME]`. */
function parseOldName(name: string, options: NodeOptions): NodeOptions {
  if (!name.startsWith('nbd:'))
    throw nodeError('filename', "File name string for NBD must start with 'nbd:'");
  const [, place, exportName] = /^nbd:(.*?)(?::exportname=(.*))?$/s.exec(name)!;
  let parsed = options;
  if (exportName) parsed = parsed.with('export', exportName);
  if (place === '') return parsed;
  if (place.startsWith('unix:')) {
    return parsed.with('server.type', 'unix').with('server.path', place.slice('unix:'.length));
  }
  const found = /^(?:\[([^\]]+)\]|([^:]*)):([^,]+)(,.*)?$/.exec(place);
  if (!found) throw nodeError('filename', `error parsing address '${place}'`);
  if (found[4] !== undefined) {
    throw nodeError('filename', `Options of an address are not supported: '${place}'`, 'unsupported');
  }
  return parsed
    .with('server.type', 'inet')
    .with('server.host', found[1] ?? found[2])
    .with('server.port', found[3]);
}

/** `server.type`, or `path`, or `host` and `port`, as older command lines have them. */
function addressOf(reader: OptionReader): NbdAddress {
  const server = reader.take('server');
  const path = reader.string('path');
  const host = reader.string('host');
  const port = reader.string('port');
  const old = path !== undefined || host !== undefined || port !== undefined;
  if (old && server.size > 0) {
    throw nodeError('server', "Cannot use 'server' and path/host/port at the same time");
  }
  if (path !== undefined && host !== undefined) {
    throw nodeError('path', 'path and host may not be used at the same time');
  }
  if (path !== undefined) {
    if (port !== undefined) throw nodeError('port', 'port may not be used without host');
    return { kind: 'unix', path };
  }
  if (host !== undefined) return { kind: 'tcp', host, port: port ?? String(nbdPort) };
  if (server.size === 0) throw nodeError('server', 'NBD server address missing');
  return serverOf(new OptionReader(server));
}

function serverOf(reader: OptionReader): NbdAddress {
  const needed = (name: string) => {
    const value = reader.string(name);
    if (value === undefined) throw nodeError(name, `Parameter '${name}' is missing`);
    return value;
  };
  const type = needed('type');
  if (!['inet', 'unix', 'vsock', 'fd'].includes(type)) {
    throw nodeError('type', `Parameter 'type' does not accept value '${type}'`);
  }
  if (type === 'vsock' || type === 'fd') {
    throw nodeError('type', `Servers of type '${type}' are not supported`, 'unsupported');
  }
  const address: NbdAddress =
    type === 'unix'
      ? { kind: 'unix', path: needed('path') }
      : { kind: 'tcp', host: needed('host'), port: needed('port') };
  if (reader.unread !== undefined)
    throw nodeError(reader.unread, `Parameter '${reader.unread}' is unexpected`);
  return address;
}

/** TLS by credentials that were named; a name that says no more than TLS trusts whom the host's programs trust. */
function securityOf(
  host: NodeHost,
  reader: OptionReader,
  address: NbdAddress,
  tls: boolean,
): ClientSecurity | undefined {
  const id = reader.string('tls-creds');
  const hostname = reader.string('tls-hostname') ?? (address.kind === 'tcp' ? address.host : undefined);
  if (id !== undefined) {
    const credentials = host.tlsCredentials?.(id);
    if (!credentials) throw nodeError('tls-creds', `No TLS credentials with id '${id}'`);
    return { credentials, hostname };
  }
  if (!tls) return undefined;
  if (hostname === undefined) {
    throw nodeError('tls-creds', 'TLS over a unix socket needs tls-creds, or tls-hostname');
  }
  return { credentials: { kind: 'x509', verifyPeer: true }, hostname };
}

function seconds(reader: OptionReader, name: string): number {
  const value = reader.number(name) ?? 0;
  if (value < 0 || value > 0xffff_ffff) {
    throw nodeError(name, `Parameter '${name}' expects uint32_t`);
  }
  return value * 1000;
}

/** As QEMU writes it: nothing is escaped. */
function exactName(address: NbdAddress, exportName: string, tls: boolean): string {
  const scheme = tls ? 'nbds' : 'nbd';
  const path = exportName === '' ? '' : `/${exportName}`;
  if (address.kind === 'unix') return `${scheme}+unix://${path}?socket=${address.path}`;
  return `${scheme}://${address.host}:${address.port}${path}`;
}
