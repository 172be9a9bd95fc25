import { DiskError } from '../../errors.ts';

export type JsonObject = { readonly [name: string]: unknown };

/** Reads fields of a LUKS2 header's JSON, each with its place in it. What is not as it must be throws `corrupt`. */
export class Fields {
  readonly #object: JsonObject;
  readonly #place: string;
  readonly #path: string;

  constructor(value: unknown, place: string, path: string) {
    this.#place = place;
    this.#path = path;
    if (typeof value !== 'object' || value === null || Array.isArray(value)) throw this.#wrong('');
    this.#object = value as JsonObject;
  }

  get place(): string {
    return this.#place;
  }

  has(name: string): boolean {
    return Object.hasOwn(this.#object, name);
  }

  object(name: string): Fields {
    return new Fields(this.#get(name), this.#named(name), this.#path);
  }

  /** The objects in it by their names; more than `limit` of them are wrong. */
  entries(limit: number): (readonly [string, Fields])[] {
    const names = Object.keys(this.#object);
    if (names.length > limit) throw this.#wrong('');
    return names.map((name) => [name, this.object(name)]);
  }

  text(name: string): string {
    const value = this.#get(name);
    if (typeof value === 'string') return value;
    throw this.#wrong(name);
  }

  texts(name: string): readonly string[] {
    const value = this.#get(name);
    if (Array.isArray(value) && value.every((one) => typeof one === 'string')) return value;
    throw this.#wrong(name);
  }

  /** An integer from `least` to `most`. */
  number(name: string, least: number, most: number): number {
    return this.#inRange(name, this.#get(name), least, most);
  }

  /** A number of 64 bits, which LUKS2 writes as a text of digits. */
  wide(name: string): number {
    const text = this.text(name);
    return this.#inRange(
      name,
      /^\d{1,16}$/.test(text) ? Number(text) : undefined,
      0,
      Number.MAX_SAFE_INTEGER,
    );
  }

  /** Bytes in base64, from `least` to `most` of them. */
  bytes(name: string, least: number, most: number): Uint8Array {
    const text = this.text(name);
    if (text.length > most * 2 || !/^[A-Za-z0-9+/]*={0,2}$/.test(text)) throw this.#wrong(name);
    const bytes = Uint8Array.from(decodeBase64(text));
    if (bytes.length < least || bytes.length > most) throw this.#wrong(name);
    return bytes;
  }

  #get(name: string): unknown {
    return this.has(name) ? this.#object[name] : undefined;
  }

  #inRange(name: string, value: unknown, least: number, most: number): number {
    if (Number.isSafeInteger(value) && (value as number) >= least && (value as number) <= most)
      return value as number;
    throw this.#wrong(name);
  }

  #named(name: string): string {
    return this.#place === '' ? name : `${this.#place}.${name}`;
  }

  #wrong(name: string): DiskError {
    const field = this.#named(name) || 'metadata';
    return new DiskError('corrupt', `The LUKS2 header is wrong or incomplete: ${field.slice(0, 80)}`, {
      path: this.#path,
      field,
    });
  }
}

function* decodeBase64(text: string): Iterable<number> {
  let bits = 0;
  let held = 0;
  for (const letter of text.replace(/=+$/, '')) {
    held = ((held << 6) | alphabet.indexOf(letter)) & 0xffff;
    bits += 6;
    if (bits < 8) continue;
    bits -= 8;
    yield (held >> bits) & 0xff;
  }
}

const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/';
