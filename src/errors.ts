/**
 * Stable, machine-readable reasons. A face maps each to its own words and exit code; programs
 * branch on the code, never on the message.
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

/** Where an error lies. `offset` is in bytes within `path`; `field` is the format specification's name. */
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
  if (!isDiskError(error) || error.path !== undefined) return error;
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
