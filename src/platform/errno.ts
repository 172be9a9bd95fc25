import { DiskError, type DiskErrorCode, type ErrorPlace } from '../errors.ts';
import { errnoTable } from './errno-table.ts';

const nameByNumber = new Map<number, string>();
const textByName = new Map<string, string>();
const numberByName = new Map<string, number>();
for (const [number, name, text] of errnoTable) {
  nameByNumber.set(number, name);
  numberByName.set(name, number);
  textByName.set(name, text);
}
textByName.set('EOPNOTSUPP', textByName.get('ENOTSUP')!);
textByName.set('EWOULDBLOCK', textByName.get('EAGAIN')!);

/** glibc's words for an error's name: `strerror('ENOENT')` is 'No such file or directory'. */
export function strerror(name: string): string {
  return textByName.get(name) ?? `Unknown error ${name}`;
}

/** The Linux error number of a name: `errnoNumber('ENOENT')` is 2. Names that are none count as EIO. */
export function errnoNumber(name: string): number {
  return numberByName.get(name) ?? numberByName.get('EIO')!;
}

/** The name of a Linux error number (positive or negated), e.g. 'ENOSPC'. */
export function errnoName(number: number): string {
  return nameByNumber.get(Math.abs(number)) ?? `E${Math.abs(number)}`;
}

/**
 * The error's name of anything that Node's file functions throw, or undefined when the system did not refuse.
 * By number first: libuv has no names for some (EUCLEAN, ESTALE …).
 */
export function errnoOf(error: unknown): string | undefined {
  if (!(error instanceof Error)) return undefined;
  const { errno, code } = error as NodeJS.ErrnoException;
  if (process.platform === 'linux' && typeof errno === 'number') {
    const name = nameByNumber.get(Math.abs(errno));
    if (name !== undefined) return name;
  }
  // What Node's own permissions (`--permission`) refuse.
  if (code === 'ERR_ACCESS_DENIED') return 'EACCES';
  return typeof code === 'string' && /^E[A-Z0-9]+$/.test(code) ? code : undefined;
}

/** The engine's code for an error's name. */
export function codeOfErrno(name: string): DiskErrorCode {
  switch (name) {
    case 'ENOENT':
    case 'ENOTDIR':
    case 'ENODEV':
      return 'not-found';
    case 'EEXIST':
      return 'exists';
    case 'EACCES':
    case 'EPERM':
      return 'denied';
    case 'EROFS':
      return 'read-only';
    case 'ENOSPC':
    case 'EDQUOT':
    case 'EFBIG':
      return 'out-of-space';
    case 'EISDIR':
    case 'EINVAL':
    case 'ENAMETOOLONG':
    case 'ELOOP':
    case 'ENXIO':
      return 'bad-argument';
    case 'EBUSY':
    case 'ETXTBSY':
      return 'in-use';
    case 'ENOTSUP':
    case 'EOPNOTSUPP':
    case 'ENOSYS':
      return 'unsupported';
    default:
      return 'io';
  }
}

/**
 * A refusal of the system as a DiskError: `doing` completes "Could not … 'path'" (`'open'`, `'read from'`), and
 * `detail.errno` holds the error's name for faces that print their own sentence with `strerror`.
 */
export function systemError(
  name: string,
  doing: string,
  path: string,
  place: Omit<ErrorPlace, 'path'> = {},
): DiskError {
  return new DiskError(codeOfErrno(name), `Could not ${doing} '${path}': ${strerror(name)}`, {
    ...place,
    path,
    detail: { ...place.detail, errno: name },
  });
}

/** `error` as a DiskError when the system refused; anything else (a bug, a DiskError) as it is. */
export function asSystemError(
  error: unknown,
  doing: string,
  path: string,
  place: Omit<ErrorPlace, 'path' | 'cause'> = {},
): unknown {
  const name = errnoOf(error);
  return name === undefined ? error : systemError(name, doing, path, { ...place, cause: error });
}
