import { DiskError } from '../../errors.ts';
import { readUint64, writeUint64 } from './headers.ts';
import { HeaderBytes, Info, Magic, maxStringBytes } from './protocol.ts';

/*
 * Options, their data and their replies (section "Option haggling"): pure, and bounded by the bytes that are there.
 * Parsers throw DiskError `corrupt` with the part as its field.
 */

const encoder = new TextEncoder();
const decoder = new TextDecoder('utf-8', { fatal: true });

export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** A client's option: header and data. */
export function encodeOption(option: number, data: Uint8Array = new Uint8Array(0)): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(HeaderBytes.option + data.length);
  const view = viewOf(bytes);
  view.setUint32(0, Magic.optionHigh);
  view.setUint32(4, Magic.optionLow);
  view.setUint32(8, option);
  view.setUint32(12, data.length);
  bytes.set(data, HeaderBytes.option);
  return bytes;
}

/** The option's number and its data's length; undefined where the magic number is another. */
export function decodeOption(header: Uint8Array): { option: number; length: number } | undefined {
  const view = viewOf(header);
  if (view.getUint32(0) !== Magic.optionHigh || view.getUint32(4) !== Magic.optionLow) return undefined;
  return { option: view.getUint32(8), length: view.getUint32(12) };
}

/** A server's reply to an option: header and data. */
export function encodeOptionReply(
  option: number,
  type: number,
  data: Uint8Array = new Uint8Array(0),
): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(HeaderBytes.optionReply + data.length);
  const view = viewOf(bytes);
  view.setUint32(0, Magic.optionReplyHigh);
  view.setUint32(4, Magic.optionReplyLow);
  view.setUint32(8, option);
  view.setUint32(12, type);
  view.setUint32(16, data.length);
  bytes.set(data, HeaderBytes.optionReply);
  return bytes;
}

/** Undefined where the magic number is another. */
export function decodeOptionReply(
  header: Uint8Array,
): { option: number; type: number; length: number } | undefined {
  const view = viewOf(header);
  if (view.getUint32(0) !== Magic.optionReplyHigh || view.getUint32(4) !== Magic.optionReplyLow) {
    return undefined;
  }
  return { option: view.getUint32(8), type: view.getUint32(12), length: view.getUint32(16) };
}

/** Reads a message from its start, never past its end. */
class Reader {
  at = 0;
  readonly #bytes: Uint8Array;
  readonly #view: DataView;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#view = viewOf(bytes);
  }

  get left(): number {
    return this.#bytes.length - this.at;
  }

  uint16(field: string): number {
    return this.#view.getUint16(this.#take(2, field));
  }

  uint32(field: string): number {
    return this.#view.getUint32(this.#take(4, field));
  }

  uint64(field: string): number {
    return readUint64(this.#view, this.#take(8, field));
  }

  string(length: number, field: string): string {
    if (length > maxStringBytes) throw wrong(field, `A string of ${length} bytes is too long`);
    const start = this.#take(length, field);
    const part = this.#bytes.subarray(start, start + length);
    if (part.includes(0)) throw wrong(field, 'A string has a NUL in it');
    try {
      return decoder.decode(part);
    } catch (cause) {
      throw wrong(field, 'A string is no UTF-8', cause);
    }
  }

  end(field: string): void {
    if (this.left > 0) throw wrong(field, `${this.left} bytes are left over`);
  }

  #take(bytes: number, field: string): number {
    if (bytes > this.left) throw wrong(field, `The message ends inside '${field}'`);
    const { at } = this;
    this.at += bytes;
    return at;
  }
}

function wrong(field: string, message: string, cause?: unknown): DiskError {
  return new DiskError('corrupt', message, { field, cause });
}

/** Data of INFO and GO. */
export interface InfoRequest {
  readonly name: string;
  readonly infos: readonly number[];
}

export function encodeInfoRequest({ name, infos }: InfoRequest): Uint8Array {
  const text = encoder.encode(name);
  const bytes = new Uint8Array(4 + text.length + 2 + 2 * infos.length);
  const view = viewOf(bytes);
  view.setUint32(0, text.length);
  bytes.set(text, 4);
  view.setUint16(4 + text.length, infos.length);
  infos.forEach((info, index) => {
    view.setUint16(6 + text.length + 2 * index, info);
  });
  return bytes;
}

export function decodeInfoRequest(data: Uint8Array): InfoRequest {
  const reader = new Reader(data);
  const name = reader.string(reader.uint32('name length'), 'name');
  const count = reader.uint16('information requests');
  const infos: number[] = [];
  for (let index = 0; index < count; index++) infos.push(reader.uint16('information requests'));
  reader.end('information requests');
  return { name, infos };
}

/** One NBD_REP_INFO. An unknown type is passed over by clients. */
export type InfoReply =
  | { readonly type: typeof Info.export; readonly size: number; readonly flags: number }
  | { readonly type: typeof Info.name | typeof Info.description; readonly text: string }
  | {
      readonly type: typeof Info.blockSize;
      readonly minimum: number;
      readonly preferred: number;
      readonly maximum: number;
    };

export function encodeInfoReply(info: InfoReply): Uint8Array {
  if (info.type === Info.export) {
    const bytes = new Uint8Array(12);
    const view = viewOf(bytes);
    view.setUint16(0, info.type);
    writeUint64(view, 2, info.size);
    view.setUint16(10, info.flags);
    return bytes;
  }
  if (info.type === Info.blockSize) {
    const bytes = new Uint8Array(14);
    const view = viewOf(bytes);
    view.setUint16(0, info.type);
    view.setUint32(2, info.minimum);
    view.setUint32(6, info.preferred);
    view.setUint32(10, info.maximum);
    return bytes;
  }
  const text = encoder.encode(info.text);
  const bytes = new Uint8Array(2 + text.length);
  viewOf(bytes).setUint16(0, info.type);
  bytes.set(text, 2);
  return bytes;
}

/** Undefined for a type that there is none of here. */
export function decodeInfoReply(data: Uint8Array): InfoReply | undefined {
  const reader = new Reader(data);
  const type = reader.uint16('information type');
  let info: InfoReply;
  if (type === Info.export) {
    info = { type, size: reader.uint64('size'), flags: reader.uint16('transmission flags') };
  } else if (type === Info.blockSize) {
    const minimum = reader.uint32('minimum block size');
    const preferred = reader.uint32('preferred block size');
    info = { type, minimum, preferred, maximum: reader.uint32('maximum payload') };
  } else if (type === Info.name || type === Info.description) {
    info = { type, text: reader.string(reader.left, 'text') };
  } else {
    return undefined;
  }
  reader.end('information');
  return info;
}

/** Data of LIST_META_CONTEXT and SET_META_CONTEXT. */
export interface MetaContextRequest {
  readonly name: string;
  readonly queries: readonly string[];
}

export function encodeMetaContextRequest({ name, queries }: MetaContextRequest): Uint8Array {
  const texts = [name, ...queries].map((text) => encoder.encode(text));
  const bytes = new Uint8Array(4 + texts.reduce((sum, text) => sum + 4 + text.length, 0));
  const view = viewOf(bytes);
  let at = 0;
  texts.forEach((text, index) => {
    view.setUint32(at, text.length);
    bytes.set(text, at + 4);
    at += 4 + text.length;
    if (index > 0) return;
    view.setUint32(at, queries.length);
    at += 4;
  });
  return bytes;
}

export function decodeMetaContextRequest(data: Uint8Array): MetaContextRequest {
  const reader = new Reader(data);
  const name = reader.string(reader.uint32('name length'), 'name');
  const count = reader.uint32('number of queries');
  // Each takes four bytes at least: a count that lies is found before memory is taken.
  if (count * 4 > reader.left) throw wrong('number of queries', `${count} queries cannot be in the message`);
  const queries: string[] = [];
  for (let index = 0; index < count; index++) {
    queries.push(reader.string(reader.uint32('query length'), 'query'));
  }
  reader.end('queries');
  return { name, queries };
}

/** NBD_REP_META_CONTEXT. */
export function encodeMetaContextReply(id: number, name: string): Uint8Array {
  const text = encoder.encode(name);
  const bytes = new Uint8Array(4 + text.length);
  viewOf(bytes).setUint32(0, id);
  bytes.set(text, 4);
  return bytes;
}

export function decodeMetaContextReply(data: Uint8Array): { readonly id: number; readonly name: string } {
  const reader = new Reader(data);
  const id = reader.uint32('context id');
  return { id, name: reader.string(reader.left, 'context name') };
}

/** NBD_REP_SERVER. */
export function encodeServerReply(name: string, description = ''): Uint8Array {
  const [nameBytes, descriptionBytes] = [encoder.encode(name), encoder.encode(description)];
  const bytes = new Uint8Array(4 + nameBytes.length + descriptionBytes.length);
  viewOf(bytes).setUint32(0, nameBytes.length);
  bytes.set(nameBytes, 4);
  bytes.set(descriptionBytes, 4 + nameBytes.length);
  return bytes;
}

export function decodeServerReply(data: Uint8Array): { readonly name: string; readonly description: string } {
  const reader = new Reader(data);
  const name = reader.string(reader.uint32('name length'), 'name');
  return { name, description: reader.string(reader.left, 'description') };
}
