import { describe, expect, it } from 'vitest';
import { identities, labUuid, seatMac, seatUuid, uuidV5 } from './identity.ts';

const names = (count: number) => Array.from({ length: count }, (_, i) => `student-${i + 1}`);

describe('identity', () => {
  it('derives UUIDs as RFC 9562 does', () => {
    // The example of the RFC's appendix A.4: the DNS namespace and www.example.com.
    expect(uuidV5('www.example.com', '6ba7b810-9dad-11d1-80b4-00c04fd430c8')).toBe(
      '2ed6657d-e927-568b-95e1-2665a8aea6a2',
    );
  });

  it('is the same for ever', () => {
    // Computed by Python's uuid5 and hashlib.
    expect(seatUuid('networking-101', 'student-07')).toBe('41e7b46c-aa6d-5705-a14e-ef0ce052b045');
    expect(seatMac('networking-101', 'student-07')).toBe('52:54:00:85:1b:1d');
    expect(labUuid('networking-101')).not.toBe(labUuid('networking-102'));
  });

  it('gives every seat its own MAC address, whatever the order', () => {
    const seats = names(10_000);
    const forward = identities('big', seats);
    expect(new Set([...forward.values()].map((one) => one.mac)).size).toBe(10_000);
    // Ten thousand of 16.8 million: some did collide, or this proves nothing.
    expect(seats.some((seat) => forward.get(seat)!.mac !== seatMac('big', seat))).toBe(true);
    const backward = identities('big', [...seats].reverse());
    for (const seat of seats) expect(backward.get(seat)).toEqual(forward.get(seat));
  });

  it('keeps what was given, and what belongs to others', () => {
    const mac = seatMac('lab', 'b');
    expect(identities('lab', ['a', 'b'], new Map([['a', mac]])).get('a')!.mac).toBe(mac);
    expect(identities('lab', ['a', 'b'], new Map([['a', mac]])).get('b')!.mac).toBe(seatMac('lab', 'b', 1));
    expect(identities('lab', ['b'], new Map([['b', mac]]), [mac]).get('b')!.mac).toBe(seatMac('lab', 'b', 1));
  });
});
