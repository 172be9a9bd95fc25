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

/** Why a request fails: an error of the protocol, and what clients of structured replies are told, in QEMU's words. */
export interface Failure {
  readonly error: number;
  /** ASCII, of at most `longestText` characters. */
  readonly text: string;
}

export const longestText = 160;

/** QEMU's names for commands, and what it says where one fails. */
const commands: ReadonlyMap<number, readonly [name: string, failed: string]> = new Map([
  [Command.read, ['read', 'reading from file failed']],
  [Command.write, ['write', 'writing to file failed']],
  [Command.flush, ['flush', 'flush failed']],
  [Command.trim, ['trim', 'discard failed']],
  [Command.cache, ['cache', 'caching data failed']],
  [Command.writeZeroes, ['write zeroes', 'writing to file failed']],
  [Command.blockStatus, ['block status', "can't get block status"]],
]);

const { fua, noHole, df, reqOne, fastZero, payloadLength } = CommandFlag;

/**
 * Why a request is refused, where it is. In QEMU's order (flags last), since clients and their tests look at the number.
 * Disconnecting is no request to check.
 */
export function refusalOf(request: RequestHeader, rules: RequestRules): Failure | undefined {
  const { command, flags, offset, length } = request;
  const structured = rules.mode !== 'simple';
  let allowed: number = fua;
  let changes = false;
  switch (command) {
    case Command.read:
      if (structured) allowed |= df;
      if (length > defaultMaxPayload) return tooLong(length);
      break;
    case Command.write:
      if (rules.mode === 'extended') allowed |= payloadLength;
      if (length > defaultMaxPayload) return tooLong(length);
      changes = true;
      break;
    case Command.flush:
      // Offset and length mean nothing.
      return (flags & ~allowed) === 0 ? undefined : wrongFlags(request);
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
      if (length === 0) return { error: NbdError.invalid, text: 'need non-zero length' };
      if (!rules.hasContexts) return { error: NbdError.invalid, text: 'CMD_BLOCK_STATUS not negotiated' };
      break;
    default:
      return { error: NbdError.invalid, text: `invalid request type (${command}) received` };
  }
  if (changes && rules.readOnly) return { error: NbdError.permission, text: 'Export is read-only' };
  if (offset > rules.size || length > rules.size - offset) {
    const writes = command === Command.write || command === Command.writeZeroes;
    const text = `operation past EOF; From: ${offset}, Len: ${length}, Size: ${rules.size}`;
    return { error: writes ? NbdError.noSpace : NbdError.invalid, text };
  }
  return (flags & ~allowed) === 0 ? undefined : wrongFlags(request);
}

function tooLong(length: number): Failure {
  return { error: NbdError.invalid, text: `len (${length} ) is larger than max len (${defaultMaxPayload})` };
}

function wrongFlags({ command, flags }: RequestHeader): Failure {
  const [name] = commands.get(command)!;
  return {
    error: NbdError.invalid,
    text: `unsupported flags for command ${name} (got 0x${flags.toString(16)})`,
  };
}

/** Of a request that the image did not carry out. */
export function failureOf(request: RequestHeader, error: unknown): Failure {
  return failed(request, errorNumber(error));
}

/** Of a request that was carried out in vain, with an error of the protocol. */
export function failed({ command }: RequestHeader, error: number): Failure {
  return { error, text: commands.get(command)?.[1] ?? '' };
}

/** A failure of the image as an error of the protocol (section "Error values"). */
function errorNumber(error: unknown): number {
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
