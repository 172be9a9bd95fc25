import { closeSync, existsSync, openSync, readFileSync, statSync } from 'node:fs';
import { DiskError } from '../../../errors.ts';
import { asSystemError, errnoOf } from '../../../platform/errno.ts';
import type { Seat } from '../../seats/seat.ts';
import { followLog } from '../console-log.ts';

/** Where the files are that a libvirt runner needs of a seat: its definition and its serial log. */
export interface SeatPlace {
  /** The definition's text. Throws `not-found` where there is none. */
  definition(seat: Seat): Promise<string> | string;
  /** Whether what a domain says that it was defined from is not there any more: the seat's pool may have lain there. */
  isGone(from: string): boolean;
  /** Before a start: makes room for the serial log, where it takes any. */
  prepareLog(seat: Seat): void;
  /** What changes when the serial log is written to; empty where nothing is in it. */
  logFacts(seat: Seat): Promise<string> | string;
  /** The serial log's bytes; `more` is asked at its end whether to wait for others. */
  follow(seat: Seat, more?: () => Promise<boolean>, signal?: AbortSignal): AsyncIterable<Uint8Array>;
}

/** Files of this machine. */
export const onThisMachine: SeatPlace = {
  definition(seat) {
    try {
      return readFileSync(seat.definition, 'utf8');
    } catch (cause) {
      if (errnoOf(cause) !== 'ENOENT') throw asSystemError(cause, 'read', seat.definition);
      throw new DiskError('not-found', `Seat '${seat.name}' has no definition`, {
        path: seat.definition,
        detail: { fix: "'cowherd up' writes it" },
      });
    }
  },
  isGone: (from) => !existsSync(from),
  /** virtlogd, who writes the log, would make it for the superuser's eyes only. */
  prepareLog({ serialLog }) {
    try {
      closeSync(openSync(serialLog, 'a', 0o644));
    } catch {
      // Somebody else's: libvirt can write it, and whether we can read it will be seen.
    }
  },
  logFacts({ serialLog }) {
    try {
      const { size, mtimeMs, ino } = statSync(serialLog);
      return size === 0 ? '' : `${ino} ${size} ${mtimeMs}`;
    } catch {
      return '';
    }
  },
  follow: ({ serialLog }, more, signal) => followLog(serialLog, { from: 0, more, signal }),
};
