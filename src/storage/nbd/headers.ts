import { HeaderBytes, Magic } from './protocol.ts';

/*
 * Headers of the transmission phase over a DataView, without allocation: what is read goes into an object that the
 * caller keeps. Cookies are opaque; they are kept as two halves.
 */

/** A request's header. A length or offset that no number can hold exactly comes out as one beyond 2^53. */
export interface RequestHeader {
  flags: number;
  command: number;
  cookieHigh: number;
  cookieLow: number;
  offset: number;
  length: number;
}

export function emptyRequest(): RequestHeader {
  return { flags: 0, command: 0, cookieHigh: 0, cookieLow: 0, offset: 0, length: 0 };
}

/** False where the magic number is another. */
export function decodeRequest(view: DataView, at: number, extended: boolean, into: RequestHeader): boolean {
  if (view.getUint32(at) !== (extended ? Magic.extendedRequest : Magic.request)) return false;
  into.flags = view.getUint16(at + 4);
  into.command = view.getUint16(at + 6);
  into.cookieHigh = view.getUint32(at + 8);
  into.cookieLow = view.getUint32(at + 12);
  into.offset = readUint64(view, at + 16);
  into.length = extended ? readUint64(view, at + 24) : view.getUint32(at + 24);
  return true;
}

/** Answers how many bytes that took. */
export function encodeRequest(
  view: DataView,
  at: number,
  extended: boolean,
  { flags, command, cookieHigh, cookieLow, offset, length }: Readonly<RequestHeader>,
): number {
  view.setUint32(at, extended ? Magic.extendedRequest : Magic.request);
  view.setUint16(at + 4, flags);
  view.setUint16(at + 6, command);
  view.setUint32(at + 8, cookieHigh);
  view.setUint32(at + 12, cookieLow);
  writeUint64(view, at + 16, offset);
  if (extended) writeUint64(view, at + 24, length);
  else view.setUint32(at + 24, length);
  return extended ? HeaderBytes.extendedRequest : HeaderBytes.request;
}

type Cookie = Pick<RequestHeader, 'cookieHigh' | 'cookieLow'>;

export function encodeSimpleReply(view: DataView, at: number, error: number, cookie: Cookie): number {
  view.setUint32(at, Magic.simpleReply);
  view.setUint32(at + 4, error);
  view.setUint32(at + 8, cookie.cookieHigh);
  view.setUint32(at + 12, cookie.cookieLow);
  return HeaderBytes.simpleReply;
}

/** The header of one chunk of a structured reply; `length`: payload bytes that follow. */
export function encodeStructuredReply(
  view: DataView,
  at: number,
  flags: number,
  type: number,
  cookie: Cookie,
  length: number,
): number {
  view.setUint32(at, Magic.structuredReply);
  view.setUint16(at + 4, flags);
  view.setUint16(at + 6, type);
  view.setUint32(at + 8, cookie.cookieHigh);
  view.setUint32(at + 12, cookie.cookieLow);
  view.setUint32(at + 16, length);
  return HeaderBytes.structuredReply;
}

/** The same with extended headers; `offset` is the request's. */
export function encodeExtendedReply(
  view: DataView,
  at: number,
  flags: number,
  type: number,
  cookie: Cookie,
  offset: number,
  length: number,
): number {
  view.setUint32(at, Magic.extendedReply);
  view.setUint16(at + 4, flags);
  view.setUint16(at + 6, type);
  view.setUint32(at + 8, cookie.cookieHigh);
  view.setUint32(at + 12, cookie.cookieLow);
  writeUint64(view, at + 16, offset);
  writeUint64(view, at + 24, length);
  return HeaderBytes.extendedReply;
}

/** A reply's header, of any of the three kinds. A simple one has `error`, the others `flags`, `type`, `length`. */
export interface ReplyHeader {
  kind: 'simple' | 'structured' | 'extended';
  /** Bytes of the header itself. */
  bytes: number;
  error: number;
  flags: number;
  type: number;
  cookieHigh: number;
  cookieLow: number;
  offset: number;
  /** Payload bytes that follow (not of a simple reply, where the request decides that). */
  length: number;
}

export function emptyReply(): ReplyHeader {
  return {
    kind: 'simple',
    bytes: 0,
    error: 0,
    flags: 0,
    type: 0,
    cookieHigh: 0,
    cookieLow: 0,
    offset: 0,
    length: 0,
  };
}

/** Bytes of the reply header that begins with `magic`; 0 for none that there is. */
export function replyHeaderBytes(magic: number): number {
  if (magic === Magic.simpleReply) return HeaderBytes.simpleReply;
  if (magic === Magic.structuredReply) return HeaderBytes.structuredReply;
  return magic === Magic.extendedReply ? HeaderBytes.extendedReply : 0;
}

/** Reads the whole header at `at` (`replyHeaderBytes` says how long it is); false for an unknown magic number. */
export function decodeReply(view: DataView, at: number, into: ReplyHeader): boolean {
  const magic = view.getUint32(at);
  into.bytes = replyHeaderBytes(magic);
  if (into.bytes === 0) return false;
  into.cookieHigh = view.getUint32(at + 8);
  into.cookieLow = view.getUint32(at + 12);
  into.offset = 0;
  if (magic === Magic.simpleReply) {
    into.kind = 'simple';
    into.error = view.getUint32(at + 4);
    into.flags = 0;
    into.type = 0;
    into.length = 0;
    return true;
  }
  into.error = 0;
  into.flags = view.getUint16(at + 4);
  into.type = view.getUint16(at + 6);
  if (magic === Magic.structuredReply) {
    into.kind = 'structured';
    into.length = view.getUint32(at + 16);
  } else {
    into.kind = 'extended';
    into.offset = readUint64(view, at + 16);
    into.length = readUint64(view, at + 24);
  }
  return true;
}

/** Exact up to 2^53; above, near enough to be found too large. */
export function readUint64(view: DataView, at: number): number {
  return view.getUint32(at) * 0x1_0000_0000 + view.getUint32(at + 4);
}

export function writeUint64(view: DataView, at: number, value: number): void {
  view.setUint32(at, Math.floor(value / 0x1_0000_0000));
  view.setUint32(at + 4, value % 0x1_0000_0000);
}
