import { expect, it } from 'vitest';
import { humanSnapshots } from './snapshot-table.ts';

it('prints columns as qemu-img does', () => {
  const date = new Date(2026, 10, 23, 9, 5, 7);
  const [titles, line, other] = humanSnapshots([
    {
      id: '1',
      name: 'first',
      vmStateSize: 1536,
      dateSeconds: date.getTime() / 1000,
      dateNanoseconds: 0,
      vmClockNanoseconds: 3_723_004_999_999n,
      icount: 12n,
    },
    {
      id: '2',
      name: 'a name that is longer than its column',
      vmStateSize: 0,
      dateSeconds: date.getTime() / 1000,
      dateNanoseconds: 0,
      vmClockNanoseconds: 360_000_000_000_000n,
    },
  ]);
  expect(titles).toBe('ID        TAG               VM SIZE                DATE     VM CLOCK     ICOUNT');
  expect(line).toBe('1         first             1.5 KiB 2026-11-23 09:05:07 01:02:03.004         12');
  expect(other).toBe(
    '2         a name that is longer than its column      0 B 2026-11-23 09:05:07100:00:00.000           ',
  );
});
