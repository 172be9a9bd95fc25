import { rmSync, writeFileSync } from 'node:fs';
import { wipe } from '../../crypto/bytes.ts';
import { asSystemError } from '../../platform/errno.ts';
import type { Seat } from '../seats/seat.ts';
import { disksOf, seatPassphrase } from '../seats/seat-key.ts';

/**
 * Writes the passphrase of the seat's disks to `path`, for its owner's eyes only; disposed, the file is gone. Without encryption it does
 * nothing. Throws as `seatPassphrase` does.
 */
export async function layOutPassphrase(seat: Seat, path: string): Promise<Disposable> {
  const encryption = disksOf(seat).find((disk) => disk.encryption)?.encryption;
  const remove = () => rmSync(path, { force: true });
  if (!encryption) return { [Symbol.dispose]: () => undefined };
  const passphrase = await seatPassphrase(encryption);
  try {
    remove();
    writeFileSync(path, passphrase, { flag: 'wx', mode: 0o600 });
  } catch (cause) {
    remove();
    throw asSystemError(cause, 'write', path);
  } finally {
    wipe(passphrase);
  }
  return { [Symbol.dispose]: remove };
}
