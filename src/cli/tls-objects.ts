import { accessSync, constants, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { errnoOf, strerror } from '../platform/errno.ts';
import { CliFailure } from './failure.ts';
import { objectMembers } from './object-members.ts';
import { type CredentialFile, checkCredentials, checkKey, checkRevoked } from './x509-check.ts';

export interface X509Credentials {
  readonly kind: 'x509';
  readonly endpoint: 'server' | 'client';
  readonly authority: Buffer;
  readonly revoked?: Buffer;
  /** Of a client they may be missing. */
  readonly certificate?: Buffer;
  readonly key?: Buffer;
  readonly verifyPeer: boolean;
}

export interface PskCredentials {
  readonly kind: 'psk';
  readonly endpoint: 'server' | 'client';
  /** Keys by user. */
  readonly keys: ReadonlyMap<string, Buffer>;
  /** A client's own name. */
  readonly username: string;
}

export type TlsCredentials = X509Credentials | PskCredentials;

/** Says whether a peer of that name (distinguished name, or PSK user) may come in. */
export type Authorization = (identity: string) => boolean;

/** `--object tls-creds-x509`, `tls-creds-psk`, `authz-simple`, `authz-list` and `authz-list-file`, by their ids. */
export class TlsObjects {
  readonly #credentials = new Map<string, TlsCredentials>();
  readonly #authorizations = new Map<string, Authorization>();
  /** Ids of objects of other types. */
  readonly #others = new Set<string | undefined>();

  /** Makes one; false: an object of another type. Throws CliFailure. */
  take(text: string): boolean {
    const members = objectMembers(text);
    const type = members.get('qom-type');
    if (type === 'tls-creds-x509') this.#add(members, this.#credentials, x509Of);
    else if (type === 'tls-creds-psk') this.#add(members, this.#credentials, pskOf);
    else if (type === 'authz-simple') this.#add(members, this.#authorizations, simpleOf);
    else if (type === 'authz-list') this.#add(members, this.#authorizations, listOf);
    else if (type === 'authz-list-file') this.#add(members, this.#authorizations, listFileOf);
    else {
      this.#others.add(members.get('id'));
      return false;
    }
    return true;
  }

  /** Throws CliFailure where there are none, or for the other end. */
  credentials(id: string, endpoint: TlsCredentials['endpoint']): TlsCredentials {
    const found = this.#credentials.get(id);
    if (!found) {
      throw new CliFailure(
        this.#authorizations.has(id) || this.#others.has(id)
          ? `Object with id '${id}' is not TLS credentials`
          : `No TLS credentials with id '${id}'`,
      );
    }
    if (found.endpoint !== endpoint)
      throw new CliFailure(`Expected TLS credentials for a ${endpoint} endpoint`);
    return found;
  }

  /** Undefined: there is none, so that nobody is let in. */
  authorization(id: string): Authorization | undefined {
    return this.#authorizations.get(id);
  }

  #add<T>(members: Map<string, string>, into: Map<string, T>, make: (members: Members) => T): void {
    const id = members.get('id');
    if (id === undefined) throw new CliFailure("Parameter 'id' is missing");
    if (this.#credentials.has(id) || this.#authorizations.has(id)) {
      throw new CliFailure(`attempt to add duplicate property '${id}' to object (type 'container')`);
    }
    into.set(id, make(new Members(members)));
  }
}

class Members {
  readonly #members: ReadonlyMap<string, string>;

  constructor(members: ReadonlyMap<string, string>) {
    this.#members = members;
  }

  text(name: string): string | undefined {
    return this.#members.get(name);
  }

  needed(name: string): string {
    return this.#members.get(name) ?? wrong(`Parameter '${name}' is missing`);
  }

  flag(name: string, otherwise: boolean): boolean {
    const value = this.#members.get(name);
    if (value === undefined) return otherwise;
    if (['on', 'yes', 'true', 'y'].includes(value)) return true;
    if (['off', 'no', 'false', 'n'].includes(value)) return false;
    return wrong(`Parameter '${name}' expects 'on' or 'off'`);
  }

  endpoint(): TlsCredentials['endpoint'] {
    const value = this.#members.get('endpoint') ?? 'client';
    if (value === 'server' || value === 'client') return value;
    return wrong(`Parameter 'endpoint' does not accept value '${value}'`);
  }

  /** Throws for a member that the type has none of. */
  only(names: readonly string[]): void {
    for (const name of this.#members.keys()) {
      if (name !== 'qom-type' && name !== 'id' && !names.includes(name))
        wrong(`Parameter '${name}' is unexpected`);
    }
  }

  *entries(): Iterable<readonly [string, string]> {
    yield* this.#members;
  }
}

function wrong(message: string): never {
  throw new CliFailure(message);
}

function x509Of(members: Members): X509Credentials {
  members.only(['dir', 'endpoint', 'verify-peer', 'priority', 'sanity-check', 'passwordid']);
  if (members.text('passwordid') !== undefined) wrong('Keys that are encrypted themselves are not supported');
  if (members.text('priority') !== undefined) wrong("The parameter 'priority' (GnuTLS) is not supported");
  const dir = members.text('dir') ?? wrong("Missing 'dir' property value");
  const endpoint = members.endpoint();
  const required = endpoint === 'server';
  const authority = credentialFile(dir, 'ca-cert.pem', true)!;
  const revoked = credentialFile(dir, 'ca-crl.pem', false);
  const certificate = credentialFile(dir, `${endpoint}-cert.pem`, required);
  const key = credentialFile(dir, `${endpoint}-key.pem`, required);
  const verifyPeer = members.flag('verify-peer', true);
  if (members.flag('sanity-check', true)) checkCredentials(endpoint, authority, certificate);
  if (certificate && key) checkKey(certificate, key);
  if (revoked && required) checkRevoked(revoked);
  return {
    kind: 'x509',
    endpoint,
    authority: authority.content,
    revoked: revoked?.content,
    certificate: certificate?.content,
    key: key?.content,
    verifyPeer,
  };
}

function pskOf(members: Members): PskCredentials {
  members.only(['dir', 'endpoint', 'verify-peer', 'priority', 'username']);
  const dir = members.text('dir') ?? wrong("Missing 'dir' property value");
  const text = credentialFile(dir, 'keys.psk', true)!.content.toString('utf8');
  const keys = new Map<string, Buffer>();
  for (const line of text.split('\n')) {
    const match = /^([^:#]+):([0-9a-fA-F]+)\s*$/.exec(line);
    if (match) keys.set(match[1], Buffer.from(match[2], 'hex'));
  }
  const endpoint = members.endpoint();
  const given = members.text('username');
  if (endpoint === 'server' && given !== undefined) wrong('username should not be set when endpoint=server');
  const username = given ?? 'qemu';
  if (endpoint === 'client' && !keys.has(username))
    wrong(`Username ${username} not found in PSK file ${join(dir, 'keys.psk')}`);
  return { kind: 'psk', endpoint, keys, username };
}

function credentialFile(dir: string, name: string, required: boolean): CredentialFile | undefined {
  const path = join(dir, name);
  try {
    accessSync(path, constants.R_OK);
    return { path, content: readFileSync(path) };
  } catch (error) {
    const errno = errnoOf(error) ?? 'EIO';
    if (errno === 'ENOENT' && !required) return undefined;
    return wrong(`Unable to access credentials ${path}: ${strerror(errno)}`);
  }
}

function simpleOf(members: Members): Authorization {
  members.only(['identity']);
  const wanted = members.needed('identity');
  return (identity) => identity === wanted;
}

interface Rule {
  match?: string;
  policy?: string;
  format?: string;
}

function listOf(members: Members): Authorization {
  const rules: Rule[] = [];
  for (const [name, value] of members.entries()) {
    const match = /^rules\.(\d{1,4})\.(match|policy|format)$/.exec(name);
    if (match) {
      rules[Number(match[1])] ??= {};
      rules[Number(match[1])][match[2] as keyof Rule] = value;
    } else if (!['qom-type', 'id', 'policy'].includes(name)) wrong(`Parameter '${name}' is unexpected`);
  }
  return byRules(rules, members.text('policy') ?? 'deny');
}

function listFileOf(members: Members): Authorization {
  members.only(['filename', 'refresh']);
  const filename = members.needed('filename');
  let content: { policy?: string; rules?: Rule[] };
  try {
    content = JSON.parse(readFileSync(filename, 'utf8'));
  } catch (cause) {
    const errno = errnoOf(cause);
    return wrong(
      errno === undefined
        ? `The rules in '${filename}' are no JSON`
        : `Unable to open '${filename}': ${strerror(errno)}`,
    );
  }
  return byRules(content.rules ?? [], content.policy ?? 'deny');
}

/** The first rule that matches decides, then the policy. */
function byRules(rules: readonly (Rule | undefined)[], policy: string): Authorization {
  const known = rules.map((rule) => {
    const { match, policy: decides = 'deny', format = 'exact' } = rule ?? {};
    if (match === undefined) return wrong("Parameter 'rules.match' is missing");
    if (!['allow', 'deny'].includes(decides)) wrong(`Parameter 'policy' does not accept value '${decides}'`);
    if (!['exact', 'glob'].includes(format)) wrong(`Parameter 'format' does not accept value '${format}'`);
    const matches = format === 'glob' ? globMatcher(match) : (identity: string) => identity === match;
    return { matches, allow: decides === 'allow' };
  });
  if (!['allow', 'deny'].includes(policy)) wrong(`Parameter 'policy' does not accept value '${policy}'`);
  return (identity) => known.find(({ matches }) => matches(identity))?.allow ?? policy === 'allow';
}

/** `*` and `?`, as fnmatch(3) has them. */
function globMatcher(glob: string): (identity: string) => boolean {
  const source = glob.replace(/[.*+?^${}()|[\]\\]/g, (character) => {
    if (character === '*') return '[^]*';
    return character === '?' ? '[^]' : `\\${character}`;
  });
  const pattern = new RegExp(`^${source}$`);
  return (identity) => pattern.test(identity);
}
