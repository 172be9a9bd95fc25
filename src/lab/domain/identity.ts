import { createHash } from 'node:crypto';

/** The UUID namespace of seats: an arbitrary constant, for ever the same. */
const seatNamespace = '6f1d3c52-9a0e-5b77-8e21-c0574e7d0001';

/** A version 5 UUID (RFC 9562, section 5.5) of `name` in `namespace`. */
export function uuidV5(name: string, namespace: string): string {
  const bytes = createHash('sha1')
    .update(Buffer.from(namespace.replaceAll('-', ''), 'hex'))
    .update(name, 'utf8')
    .digest()
    .subarray(0, 16);
  bytes[6] = (bytes[6] & 0x0f) | 0x50;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = bytes.toString('hex');
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join('-');
}

/** The seat's UUID: the same on every run and every machine. A lab's and a seat's names hold no slash. */
export function seatUuid(lab: string, seat: string): string {
  return uuidV5(`${lab}/${seat}`, seatNamespace);
}

/** The lab's own UUID, by which it signs records. */
export function labUuid(lab: string): string {
  return uuidV5(lab, seatNamespace);
}

/** By what a lab signs records whose pool was made in this folder (real path). */
export function poolUuid(lab: string, pool: string): string {
  return uuidV5(pool, labUuid(lab));
}

/**
 * A MAC address below QEMU's prefix 52:54:00. `attempt` gives others for the same seat, in a fixed order; there are
 * 16.8 million, so that a thousand seats collide once in thirty labs.
 */
export function seatMac(lab: string, seat: string, attempt = 0): string {
  const hash = createHash('sha256').update(`${lab}/${seat}/${attempt}`, 'utf8').digest();
  return ['52', '54', '00', ...[0, 1, 2].map((i) => hash[i].toString(16).padStart(2, '0'))].join(':');
}

/** What makes a seat that seat, on the network and to its hypervisor. */
export interface Identity {
  readonly uuid: string;
  readonly mac: string;
}

/**
 * Everyone's identity. No two seats of the pool share a MAC address: a seat keeps the one it was `given` before,
 * `taken` ones belong to other labs of the pool, and of two new seats that collide the one with the lower UUID keeps
 * the address. So the order of seats in the lab file decides nothing.
 */
export function identities(
  lab: string,
  seats: readonly string[],
  given: ReadonlyMap<string, string> = new Map(),
  taken: Iterable<string> = [],
): ReadonlyMap<string, Identity> {
  const used = new Set(taken);
  const found = new Map<string, Identity>();
  const all = seats.map((seat) => ({ seat, uuid: seatUuid(lab, seat) }));
  for (const { seat, uuid } of all) {
    const mac = given.get(seat);
    if (mac === undefined || used.has(mac)) continue;
    used.add(mac);
    found.set(seat, { uuid, mac });
  }
  for (const { seat, uuid } of all.sort((a, b) => (a.uuid < b.uuid ? -1 : 1))) {
    if (found.has(seat)) continue;
    let mac = seatMac(lab, seat);
    for (let attempt = 1; used.has(mac); attempt++) mac = seatMac(lab, seat, attempt);
    used.add(mac);
    found.set(seat, { uuid, mac });
  }
  return found;
}
