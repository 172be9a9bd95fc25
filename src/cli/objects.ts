import { createDecipheriv } from 'node:crypto';
import { closeSync, openSync, readSync } from 'node:fs';
import { sharedCopy, wipe } from '../crypto/bytes.ts';
import { isDiskError } from '../errors.ts';
import { errnoOf, strerror } from '../platform/errno.ts';
import { withDefaultSignals } from '../platform/signals.ts';
import type { TlsClientCredentials } from '../storage/nbd/stream.ts';
import { ThrottleGroup, throttleLimitNames } from '../storage/throttle.ts';
import { CliFailure } from './failure.ts';
import { objectMembers } from './object-members.ts';
import { TlsObjects } from './tls-objects.ts';

const secretMembers = ['data', 'file', 'format', 'iv', 'keyid'];

/** What QEMU calls the limits at the top level of a group; an old way that it still takes. */
const oldLimitPrefix = 'x-';

/** Kinds of objects that qemu-img has and that mean nothing to us. */
const otherTypes = new Set(
  `authz-pam iothread main-loop rng-builtin rng-egd rng-random secret_keyring tls-cipher-suites
   tls-creds-anon`.split(/\s+/),
);

/** Objects made by `--object`, by their ids. They live as long as the verb. */
export class UserObjects {
  readonly #secrets = new Map<string, Uint8Array>();
  readonly #groups = new Map<string, ThrottleGroup>();
  readonly #tls = new TlsObjects();
  #read: ReadonlyMap<string, Uint8Array> = new Map();

  /**
   * Secrets that were read before, by id, whose files `add` does not read again: a pipe gives its content once, and a file may have
   * changed.
   */
  know(secrets: ReadonlyMap<string, Uint8Array>): void {
    this.#read = secrets;
  }

  /** Copies of all secrets by id, in memory that threads share; whoever asks wipes them. */
  shared(): ReadonlyMap<string, Uint8Array> {
    return new Map([...this.#secrets].map(([id, secret]) => [id, sharedCopy(secret)]));
  }

  /** Makes `secret,id=…`, `throttle-group,id=…`, or an object of TLS. Throws CliFailure in qemu-img's words. */
  add(text: string): void {
    const members = objectMembers(text);
    const type = members.get('qom-type');
    if (type === undefined) throw new CliFailure("Parameter 'qom-type' is missing");
    if (this.#tls.take(text)) return;
    if (type !== 'secret' && type !== 'throttle-group') {
      throw new CliFailure(
        otherTypes.has(type)
          ? `Objects of type '${type}' are not supported`
          : `Parameter 'qom-type' does not accept value '${type}'`,
      );
    }
    const id = members.get('id');
    if (id === undefined) throw new CliFailure("Parameter 'id' is missing");
    const own = new Map([...members].filter(([name]) => name !== 'qom-type' && name !== 'id'));
    checkMembers(type, own);
    if (!/^[A-Za-z][A-Za-z0-9._-]*$/.test(id)) {
      throw new CliFailure("Parameter 'id' expects an identifier", {
        hint: "Identifiers consist of letters, digits, '-', '.', '_', starting with a letter.\n",
      });
    }
    const read = this.#read.get(id);
    const secret = () => (read ? new Uint8Array(read) : secretOf(id, own, this.#secrets));
    const made = type === 'secret' ? secret() : groupOf(own);
    if (this.#secrets.has(id) || this.#groups.has(id)) {
      throw new CliFailure(`attempt to add duplicate property '${id}' to object (type 'container')`);
    }
    if (made instanceof ThrottleGroup) this.#groups.set(id, made);
    else this.#secrets.set(id, made);
  }

  throttleGroup(id: string): ThrottleGroup | undefined {
    return this.#groups.get(id);
  }

  /** A client's credentials. Throws CliFailure where there are none of that name. */
  tlsCredentials(id: string): TlsClientCredentials {
    return this.#tls.credentials(id, 'client');
  }

  /** Keeps a passphrase that the user has typed; gives the id that it has now. */
  keep(passphrase: Uint8Array): string {
    // No id of the user's begins so.
    const id = `_typed${this.#secrets.size}`;
    this.#secrets.set(id, passphrase);
    return id;
  }

  /** Overwrites all secrets: nothing needs them any more. */
  wipe(): void {
    wipe(...this.#secrets.values());
    this.#secrets.clear();
  }

  /** Throws CliFailure where there is none. */
  async secret(id: string): Promise<Uint8Array> {
    const secret = this.#secrets.get(id);
    if (!secret) throw new CliFailure(`No secret with id '${id}'`);
    return secret;
  }
}

function checkMembers(type: 'secret' | 'throttle-group', members: ReadonlyMap<string, string>): void {
  for (const name of members.keys()) {
    const known =
      type === 'secret'
        ? secretMembers.includes(name)
        : throttleLimitNames.some((limit) => name === `limits.${limit}` || name === oldLimitPrefix + limit);
    if (!known) throw new CliFailure(`Parameter '${name}' is unexpected`);
  }
  const format = members.get('format');
  if (type === 'secret' && format !== undefined && format !== 'raw' && format !== 'base64') {
    throw new CliFailure(`Parameter 'format' does not accept value '${format}'`);
  }
}

function groupOf(members: ReadonlyMap<string, string>): ThrottleGroup {
  const limits: Record<string, number> = {};
  for (const [name, text] of members) {
    if (!/^\d+$/.test(text)) throw new CliFailure(`Parameter '${name}' expects integer`);
    limits[name.replace(/^(?:limits\.|x-)/, '')] = Number(text);
  }
  try {
    return new ThrottleGroup(limits);
  } catch (error) {
    if (!isDiskError(error)) throw error;
    throw new CliFailure(error.message, { cause: error });
  }
}

/** The secret's bytes: given, or a file's whole content; base64 is unpacked, and `keyid` names the key of a wrapped one. */
function secretOf(
  id: string,
  members: ReadonlyMap<string, string>,
  known: ReadonlyMap<string, Uint8Array>,
): Uint8Array {
  const file = members.get('file');
  const data = members.get('data');
  if (file !== undefined && data !== undefined) {
    throw new CliFailure("'file' and 'data' are mutually exclusive");
  }
  if (file === undefined && data === undefined)
    throw new CliFailure("Either 'file' or 'data' must be provided");
  // What the runtime puts for bytes of an argument that are no text: any such passphrase would open the image.
  if (data?.includes('\ufffd')) throw new CliFailure(`Data from secret ${id} is not valid UTF-8`);
  const content = file === undefined ? new TextEncoder().encode(data) : readSecret(file);
  const isBase64 = members.get('format') === 'base64';
  const bytes = isBase64 ? fromBase64(Buffer.from(content).toString('latin1')) : content;
  const keyId = members.get('keyid');
  try {
    return keyId === undefined ? bytes : unwrap(bytes, keyId, members.get('iv'), known);
  } finally {
    if (content !== bytes) wipe(content);
    if (keyId !== undefined) wipe(bytes);
  }
}

/** As GLib does, which QEMU uses: a group that is not whole at the end counts for nothing. A disk's key must be the same. */
function fromBase64(text: string): Uint8Array {
  if (!/^[A-Za-z0-9+/=\n]*$/.test(text)) throw new CliFailure('Base64 data contains invalid characters');
  const groups = text.replaceAll('\n', '').match(/.{4}/g) ?? [];
  return new Uint8Array(Buffer.concat(groups.map((group) => Buffer.from(group, 'base64'))));
}

/** QEMU wraps secrets by AES-256-CBC, padded as PKCS #7 says. */
function unwrap(
  bytes: Uint8Array,
  keyId: string,
  ivText: string | undefined,
  known: ReadonlyMap<string, Uint8Array>,
): Uint8Array {
  const key = known.get(keyId);
  if (!key) throw new CliFailure(`No secret with id '${keyId}'`);
  if (key.length !== 32) throw new CliFailure('Key should be 32 bytes in length');
  if (ivText === undefined) throw new CliFailure('IV is required to decrypt secret');
  const iv = fromBase64(ivText);
  if (iv.length !== 16) throw new CliFailure(`IV should be 16 bytes in length not ${iv.length}`);
  if (bytes.length === 0 || bytes.length % 16 !== 0) {
    throw new CliFailure(`Length ${bytes.length} must be a multiple of block size 16`);
  }
  const decipher = createDecipheriv('aes-256-cbc', key, iv).setAutoPadding(false);
  const deciphered = decipher.update(bytes);
  const padded = new Uint8Array(deciphered);
  wipe(deciphered);
  const padding = padded[padded.length - 1];
  if (padding === 0 || padding > 16 || padded.subarray(-padding).some((byte) => byte !== padding)) {
    throw new CliFailure(`Incorrect number of padding bytes (${padding}) found on decrypted data`);
  }
  return padded.subarray(0, -padding);
}

function readSecret(file: string): Uint8Array {
  try {
    // A FIFO or terminal may never come to its end: signals end the wait.
    return withDefaultSignals(() => readWhole(file));
  } catch (error) {
    const name = errnoOf(error);
    if (name === undefined) throw error;
    const what = name === 'EISDIR' ? 'Error reading' : 'Failed to open';
    throw new CliFailure(`Unable to read ${file}: ${what} file “${file}”: ${strerror(name)}`);
  }
}

/** As `readFileSync`, but no copy of the content stays in memory. */
function readWhole(file: string): Uint8Array {
  const fd = openSync(file, 'r');
  let bytes = new Uint8Array(4096);
  let length = 0;
  try {
    for (let got = -1; got !== 0; length += got) {
      if (length === bytes.length) {
        const larger = new Uint8Array(2 * length);
        larger.set(bytes);
        wipe(bytes);
        bytes = larger;
      }
      got = readSync(fd, bytes, length, bytes.length - length, null);
    }
    return bytes.slice(0, length);
  } finally {
    wipe(bytes);
    closeSync(fd);
  }
}
