import { DiskError, isDiskError } from '../../../errors.ts';
import type { Seat } from '../../seats/seat.ts';

/** What libvirt complains of a seat, with the seat's name and what keeps it. */
export function failed(seat: Seat, what: string, cause: unknown): DiskError {
  if (!isDiskError(cause)) throw cause;
  const place = { path: seat.disk.path, detail: cause.detail };
  if (cause.code === 'locked') {
    return new DiskError(
      'locked',
      `Seat '${seat.name}' cannot ${what}: another program has its disk open`,
      place,
    );
  }
  const fix =
    cause.code === 'denied'
      ? { fix: `'cowherd doctor ${seat.disk.path}' says what keeps QEMU from its files` }
      : {};
  return new DiskError(cause.code, `Seat '${seat.name}' cannot ${what}: ${cause.message}`, {
    ...place,
    detail: { ...cause.detail, ...fix },
  });
}

/** The refusal of a libvirt that does not answer, or a virsh that is not there. */
export function unreachable(uri: string, cause: unknown): DiskError {
  if (!isDiskError(cause)) throw cause;
  const missing = /ENOENT/.test(cause.message);
  return new DiskError(
    'unsupported',
    missing
      ? "No virsh was found, so libvirt cannot be reached. Install it ('apt install libvirt-clients libvirt-daemon-system', 'dnf install libvirt')"
      : `libvirt does not answer at ${uri}: ${cause.message}`,
    { path: uri, field: 'runner', detail: cause.detail },
  );
}
