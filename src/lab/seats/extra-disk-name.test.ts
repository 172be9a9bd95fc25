import { expect, it } from 'vitest';
import { extraDiskName, seatOfExtraDisk } from './extra-disk-name.ts';

it('tells whose extra disk a file is by its name', () => {
  for (const [seat, disk] of [
    ['student-01', 'data'],
    ['a.b_c', 'x+y'],
  ])
    expect(seatOfExtraDisk(extraDiskName(seat, disk))).toBe(seat);
  for (const other of ['s1.qcow2', 's1+.qcow2', 's1+data.raw', 's1+data', '+data.qcow2', '.s1+data.qcow2'])
    expect([other, seatOfExtraDisk(other)]).toEqual([other, undefined]);
});
