import { domainName } from './domain/domain-xml.ts';
import { runtimeDir, seatFiles } from './runner/runtime-dir.ts';
import type { Seat } from './seats/seat.ts';

/**
 * What to type to see a machine's screen: under libvirt (by its URI) virt-viewer, which finds the way itself; of a QEMU of our own a viewer
 * that takes a unix socket. Undefined: it has none.
 */
export function viewerFor(seat: Seat, libvirt: string | undefined): string | undefined {
  if (seat.graphics === 'none') return undefined;
  return libvirt === undefined
    ? `vncviewer ${seatFiles(runtimeDir(), seat).vnc}`
    : `virt-viewer -c '${libvirt}' ${domainName(seat)}`;
}
