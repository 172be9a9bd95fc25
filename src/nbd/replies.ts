import {
  encodeExtendedReply,
  encodeSimpleReply,
  encodeStructuredReply,
  type RequestHeader,
  writeUint64,
} from '../storage/nbd/headers.ts';
import { Chunk, Command, chunkDone, HeaderBytes } from '../storage/nbd/protocol.ts';
import type { Extents } from './contexts.ts';
import { type Failure, longestText } from './request-check.ts';

/** How replies are laid out, as agreed on while haggling. */
export type ReplyMode = 'simple' | 'structured' | 'extended';

/** Bytes before the data of a read's reply. */
export function dataHeaderBytes(mode: ReplyMode): number {
  if (mode === 'simple') return HeaderBytes.simpleReply;
  return (mode === 'structured' ? HeaderBytes.structuredReply : HeaderBytes.extendedReply) + 8;
}

/** Lays the header of a read's data at `at`; of a structured one, `last` says that no chunk follows. */
export function encodeDataHeader(
  view: DataView,
  at: number,
  mode: ReplyMode,
  request: RequestHeader,
  piece: { readonly offset: number; readonly length: number; readonly last: boolean },
): number {
  if (mode === 'simple') return encodeSimpleReply(view, at, 0, request);
  const flags = piece.last ? chunkDone : 0;
  const bytes = encodeChunk(view, at, mode, flags, Chunk.offsetData, request, 8 + piece.length);
  writeUint64(view, at + bytes, piece.offset);
  return bytes + 8;
}

/** A hole's chunk, whole. */
export function encodeHole(
  view: DataView,
  at: number,
  mode: ReplyMode,
  request: RequestHeader,
  piece: { readonly offset: number; readonly length: number; readonly last: boolean },
): number {
  const flags = piece.last ? chunkDone : 0;
  const bytes = encodeChunk(view, at, mode, flags, Chunk.offsetHole, request, 12);
  writeUint64(view, at + bytes, piece.offset);
  view.setUint32(at + bytes + 8, piece.length);
  return bytes + 12;
}

/** The answer to a request without data. */
export function encodeDone(view: DataView, at: number, mode: ReplyMode, request: RequestHeader): number {
  if (mode === 'simple') return encodeSimpleReply(view, at, 0, request);
  // Clients receive the simple reply in one call and a chunk in two. Only reads and BLOCK_STATUS must have chunks.
  const isPlain = request.command !== Command.read && request.command !== Command.blockStatus;
  if (mode === 'structured' && isPlain) return encodeSimpleReply(view, at, 0, request);
  return encodeChunk(view, at, mode, chunkDone, Chunk.none, request, 0);
}

/** Bytes that `encodeFailure` may lay. */
export const mostFailureBytes = HeaderBytes.extendedReply + 6 + longestText;

/** The answer to a request that failed; a simple reply has no room for the text. */
export function encodeFailure(
  view: DataView,
  at: number,
  mode: ReplyMode,
  request: RequestHeader,
  { error, text }: Failure,
): number {
  if (mode === 'simple') return encodeSimpleReply(view, at, error, request);
  let end = at + encodeChunk(view, at, mode, chunkDone, Chunk.error, request, 6 + text.length);
  view.setUint32(end, error);
  view.setUint16(end + 4, text.length);
  end += 6;
  for (let index = 0; index < text.length; index++) view.setUint8(end++, text.charCodeAt(index));
  return end - at;
}

/** Bytes of a BLOCK_STATUS chunk of so many extents. */
export function statusBytes(mode: ReplyMode, count: number): number {
  return mode === 'extended' ? HeaderBytes.extendedReply + 8 + 16 * count : 24 + 8 * count;
}

export function encodeStatus(
  view: DataView,
  at: number,
  mode: ReplyMode,
  request: RequestHeader,
  context: { readonly id: number; readonly last: boolean },
  { lengths, flags }: Extents,
): number {
  const extended = mode === 'extended';
  const payload = extended ? 8 + 16 * lengths.length : 4 + 8 * lengths.length;
  const type = extended ? Chunk.blockStatusExtended : Chunk.blockStatus;
  let end = at + encodeChunk(view, at, mode, context.last ? chunkDone : 0, type, request, payload);
  view.setUint32(end, context.id);
  end += 4;
  if (extended) {
    view.setUint32(end, lengths.length);
    end += 4;
  }
  for (let index = 0; index < lengths.length; index++) {
    if (extended) {
      writeUint64(view, end, lengths[index]);
      writeUint64(view, end + 8, flags[index]);
      end += 16;
    } else {
      view.setUint32(end, lengths[index]);
      view.setUint32(end + 4, flags[index]);
      end += 8;
    }
  }
  return end - at;
}

function encodeChunk(
  view: DataView,
  at: number,
  mode: ReplyMode,
  flags: number,
  type: number,
  request: RequestHeader,
  length: number,
): number {
  return mode === 'extended'
    ? encodeExtendedReply(view, at, flags, type, request, request.offset, length)
    : encodeStructuredReply(view, at, flags, type, request, length);
}
