import { expect, it } from 'vitest';
import type { HostView, RemoteHost } from './host.ts';
import { seenAfter, settle } from './machines.ts';
import type { Placement, SeenHost } from './records.ts';

const content = { digest: 'sha256:00', bytes: 1 } as unknown as Placement['master']['content'];
const seats = { s1: 'a', s2: 'c' };
const at = (name: string): Pick<SeenHost, 'uri' | 'pool'> => ({
  uri: `qemu+ssh://${name}/system`,
  pool: '/p',
});
const hosts = new Map(
  ['a', 'c'].map((name) => [name, { machine: async () => undefined } as unknown as RemoteHost] as const),
);

function placementWith(known: Record<string, SeenHost>, folder: string): Placement {
  return {
    ...{ v: 1, lab: 'class', revision: 3, folder },
    ...{ master: { format: 'raw', size: 1, content }, seats, hosts: known },
  };
}

function view(name: string, more: Partial<HostView>): HostView {
  return {
    host: { name, ...at(name) } as HostView['host'],
    seats: [],
    standing: new Set(),
    standingBeside: new Set(),
    files: new Set(),
    copies: [],
    ...more,
  };
}

it('a folder that was copied to another host gets a mark of its own, and does not count as the one that it was copied from', async () => {
  const known = { a: { ...at('a'), folder: 'F' } };
  const placement = placementWith(known, 'F');
  // Both answer, with one mark.
  const seen = await seenAfter([view('c', { placement }), view('a', { placement })], hosts, known);
  expect(seen.a.folder).toBe('F');
  expect(seen.c.folder).not.toBe('F');
  const first = await seenAfter([view('a', { placement }), view('c', { placement })], hosts);
  expect([first.a.folder, first.c.folder === 'F']).toEqual(['F', false]);
  // The one that it was copied from is away: its seats wait for it.
  const views = [view('a', { down: 'no answer' }), view('c', { placement })];
  const settled = await settle(views, hosts, placement, new Set<string>());
  expect([settled.placement?.seats, settled.replaced]).toEqual([seats, []]);
  expect(settled.placement?.hosts).toEqual(known);
});
