/**
 * Stable, machine-readable reasons. A face maps each to its own words and exit code; programs
 * branch on the code, never on the message.
 *
 * - `not-found`, `exists`, `denied`: as the system, a server or a policy says of a file; `not-found` and `exists` also of a snapshot or a bitmap.
 * - `locked`: another program, or another image of this one, uses the file in a way that excludes this one; `in-use`: others stand on it, or a part of it is not to be changed now.
 * - `corrupt`: what the image says of itself cannot be true.
 * - `unsupported`: neither wrong nor damaged, but not done here (a format, a feature, a codec of this runtime).
 * - `out-of-space`: the host has no room, or a device or an export ends there.
 * - `out-of-range`: no such guest byte, or byte of a source.
 * - `read-only`: it was not opened for writing, or cannot be written.
 * - `bad-argument`: the caller's mistake, such as a number that is none, an option that there is not, an image that is closed.
 * - `changed`: it is not, or no longer, what it was (another file on a server, another parent).
 * - `aborted`: because what it was on was closed meanwhile. (An `AbortSignal` rejects with its own reason, as elsewhere on the platform.)
 * - `io`: everything else that the system or a server refused; `detail.errno` has its name where there is one.
 */
export type DiskErrorCode =
  | 'not-found'
  | 'exists'
  | 'denied'
  | 'locked'
  | 'corrupt'
  | 'unsupported'
  | 'out-of-space'
  | 'out-of-range'
  | 'read-only'
  | 'bad-argument'
  | 'in-use'
  | 'changed'
  | 'aborted'
  | 'io';

/**
 * Where an error lies. `path` is the file's name as it was opened (a URL, `json:{…}`); `offset` is in bytes within it, or a guest byte where the
 * work was on what a guest reads; `field` is the format specification's name, or the option's that was wrong.
 */
export interface ErrorPlace {
  readonly path?: string;
  readonly offset?: number;
  readonly field?: string;
  /** Figures a face may put into its own sentence, e.g. the value found and the limit. */
  readonly detail?: Readonly<Record<string, string | number | boolean | undefined>>;
  readonly cause?: unknown;
}

/** The one error class of the engine: a code, a sentence, and a place. */
export class DiskError extends Error {
  readonly code: DiskErrorCode;
  readonly path?: string;
  readonly offset?: number;
  readonly field?: string;
  readonly detail: Readonly<Record<string, string | number | boolean | undefined>>;

  constructor(code: DiskErrorCode, message: string, place: ErrorPlace = {}) {
    super(message, place.cause === undefined ? undefined : { cause: place.cause });
    this.name = 'DiskError';
    this.code = code;
    this.path = place.path;
    this.offset = place.offset;
    this.field = place.field;
    this.detail = place.detail ?? {};
  }
}

/** True for a DiskError, and with `code` only for one of that code. */
export function isDiskError(error: unknown, code?: DiskErrorCode): error is DiskError {
  return error instanceof DiskError && (code === undefined || error.code === code);
}

/** The same error, and that it lies in `path`, where it does not say in what. */
export function errorIn(path: string, error: unknown): unknown {
  if (!isDiskError(error) || error.path !== undefined || error.code === 'aborted') return error;
  const { code, message, offset, field, detail, cause } = error;
  return new DiskError(code, message, { path, offset, field, detail, cause });
}

/** What went wrong first, where closing something after it failed too (`await using` throws both in one). */
export function firstError(error: unknown): unknown {
  let first = error;
  while (first instanceof Error && first.name === 'SuppressedError' && 'suppressed' in first) {
    first = first.suppressed;
  }
  return first;
}
