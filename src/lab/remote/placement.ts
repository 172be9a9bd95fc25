/** A host that seats can be put on, as it is now. */
export interface Room {
  readonly host: string;
  /** The weight that the lab file gives it. */
  readonly share: number;
  /** Seats that its free memory and disk have room for, fractions too; undefined: it does not answer. */
  readonly seats?: number;
}

/** What of a host is free, in bytes, and what a seat takes of it. */
export interface Need {
  readonly memory: number;
  readonly disk: number;
}

/** How many seats there is room for, by what is scarcer; those that run are in their places already. */
export function roomFor(free: Need, seat: Need, running: number): number {
  const memory = free.memory / seat.memory + running;
  return Math.max(0, Math.min(memory, free.disk / seat.disk));
}

/**
 * Which host each seat is put on. Seats stay where they are, while that host is listed. The others go, one by one, to the host
 * that is the least full then: seats on it by room and share. One that does not answer counts as the others do on average, and
 * gets its seats when it is there. Pure.
 */
export function spreadSeats(
  seats: readonly string[],
  rooms: readonly Room[],
  before: ReadonlyMap<string, string>,
): ReadonlyMap<string, string> {
  const placed = new Map<string, string>();
  const load = new Map(rooms.map(({ host }) => [host, 0]));
  const put = (seat: string, host: string) => {
    placed.set(seat, host);
    load.set(host, load.get(host)! + 1);
  };
  const known = rooms.flatMap((room) => room.seats ?? []);
  const average = known.reduce((sum, one) => sum + one, 0) / Math.max(1, known.length);
  // A host without any room is the last choice, not an impossible one: 'up' says by itself what it lacks.
  const least = 1e-6;
  const fullness = ({ host, share, seats: room = average }: Room) =>
    (load.get(host)! + 1) / (share * Math.max(room, least));
  for (const seat of seats) {
    const host = before.get(seat);
    if (host !== undefined && load.has(host)) put(seat, host);
  }
  for (const seat of seats) {
    if (placed.has(seat)) continue;
    const best = rooms.reduce((best, room) => (fullness(room) < fullness(best) ? room : best));
    put(seat, best.host);
  }
  return placed;
}
