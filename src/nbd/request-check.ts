import { isDiskError } from '../errors.ts';
import type { RequestHeader } from '../storage/nbd/headers.ts';
import { Command, CommandFlag, defaultMaxPayload, NbdError } from '../storage/nbd/protocol.ts';
import type { ReplyMode } from './replies.ts';

/** What a request may be, by its export and what was agreed on. */
export interface RequestRules {
  readonly size: number;
  readonly readOnly: boolean;
  readonly mode: ReplyMode;
  readonly hasContexts: boolean;
}

const { fua, noHole, df, reqOne, fastZero, payloadLength } = CommandFlag;

/**
 * Why a request is refused, as an error of the protocol; 0: it is not. In QEMU's order (flags last), since clients and
 * their tests look at the number. Disconnecting is no request to check.
 */
export function refusalOf(request: RequestHeader, rules: RequestRules): number {
  const { command, flags, offset, length } = request;
  const structured = rules.mode !== 'simple';
  let allowed: number = fua;
  let changes = false;
  switch (command) {
    case Command.read:
      if (structured) allowed |= df;
      if (length > defaultMaxPayload) return NbdError.invalid;
      break;
    case Command.write:
      if (rules.mode === 'extended') allowed |= payloadLength;
      if (length > defaultMaxPayload) return NbdError.invalid;
      changes = true;
      break;
    case Command.flush:
      // Offset and length mean nothing.
      return (flags & ~allowed) === 0 ? NbdError.none : NbdError.invalid;
    case Command.trim:
      changes = true;
      break;
    case Command.cache:
      break;
    case Command.writeZeroes:
      allowed |= noHole | fastZero;
      changes = true;
      break;
    case Command.blockStatus:
      allowed |= reqOne;
      if (!rules.hasContexts || length === 0) return NbdError.invalid;
      break;
    default:
      return NbdError.invalid;
  }
  if (changes && rules.readOnly) return NbdError.permission;
  if (offset > rules.size || length > rules.size - offset) {
    return command === Command.write || command === Command.writeZeroes ? NbdError.noSpace : NbdError.invalid;
  }
  return (flags & ~allowed) === 0 ? NbdError.none : NbdError.invalid;
}

/** A failure of the image as an error of the protocol (section "Error values"). */
export function errorNumber(error: unknown): number {
  if (!isDiskError(error)) return NbdError.io;
  switch (error.detail.errno) {
    case 'EPERM':
    case 'EROFS':
    case 'EACCES':
      return NbdError.permission;
    case 'ENOMEM':
      return NbdError.memory;
    case 'ENOSPC':
    case 'EDQUOT':
    case 'EFBIG':
      return NbdError.noSpace;
    default:
  }
  switch (error.code) {
    case 'read-only':
    case 'denied':
      return NbdError.permission;
    case 'out-of-space':
      return NbdError.noSpace;
    case 'out-of-range':
    case 'bad-argument':
    case 'unsupported':
      return NbdError.invalid;
    default:
      return NbdError.io;
  }
}
