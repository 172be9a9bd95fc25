import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { have, type TempDir, tempDir } from '../../../test/support/programs.ts';
import {
  bootDisk,
  demoMaster,
  demoSeat,
  digestOf,
  endlessGuest,
  recordOn,
  seatOn,
} from '../../../test/support/seats.ts';
import { DiskError } from '../../errors.ts';
import type { Seat } from '../seats/seat.ts';
import { type BootEvent, bootMany, printable } from './boot-many.ts';
import { FilesRunner } from './files-runner.ts';
import { QemuRunner } from './qemu-runner.ts';
import type { Runner, SeatEnd, WaitOptions } from './runner.ts';

let folder: TempDir;

beforeEach(async () => {
  folder = await tempDir();
});
afterEach(() => folder.remove());

async function collect(events: AsyncIterable<BootEvent>): Promise<BootEvent[]> {
  const all: BootEvent[] = [];
  for await (const event of events) all.push(event);
  return all;
}

function of<K extends BootEvent['kind']>(events: readonly BootEvent[], kind: K) {
  return events.filter((event): event is Extract<BootEvent, { kind: K }> => event.kind === kind);
}

/** Boots in no time, and notes how many are up at once. */
class PretendRunner extends FilesRunner implements Runner {
  up = 0;
  most = 0;
  readonly stopped: string[] = [];

  override async start(seat: Seat): Promise<void> {
    await pause(2);
    if (seat.name === 'bad') throw new DiskError('locked', 'in use', { path: seat.disk.path });
    if (seat.name === 'worse') throw new TypeError('not ours');
    this.most = Math.max(this.most, ++this.up);
  }

  override async waitOff(seat: Seat, options: WaitOptions = {}): Promise<SeatEnd> {
    await sleep(5, undefined, { signal: options.signal }).catch(() => undefined);
    if (seat.name === 'slow') {
      while (!options.signal?.aborted) await pause(5);
      throw new DiskError('aborted', 'stopped');
    }
    this.up--;
    return seat.name === 'weak' ? 'crashed' : 'powered-off';
  }

  override async *console(seat: Seat): AsyncIterable<Uint8Array> {
    yield new TextEncoder().encode(`\u001b[31mhello\u001b[0m from\r\n${seat.name}`);
  }

  override async stop(seat: Seat): Promise<void> {
    this.stopped.push(seat.name);
    this.up--;
  }
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

function named(...names: readonly string[]): Seat[] {
  return names.map((name) => seatOn(folder, name));
}

describe('bootMany', () => {
  it('boots no more than so many at once, in order, and every seat ends once', async () => {
    const runner = new PretendRunner();
    const seats = named(...Array.from({ length: 20 }, (_, i) => `seat-${i}`));
    const events = await collect(bootMany(runner, seats, { until: 'off', parallel: 3 }));
    expect(runner.most).toBe(3);
    expect(
      of(events, 'done')
        .map(({ seat }) => seat.name)
        .sort(),
    ).toEqual(seats.map(({ name }) => name).sort());
    expect(of(events, 'started').map(({ seat }) => seat)).toEqual(seats);
    expect(
      of(events, 'line')
        .filter(({ seat }) => seat === seats[7])
        .map(({ text }) => text),
    ).toEqual(['hello from', 'seat-7']);
    expect(runner.stopped).toEqual([]);
  });

  it('goes on when a seat fails, whatever it throws', async () => {
    const runner = new PretendRunner();
    const events = await collect(
      bootMany(runner, named('a', 'bad', 'b', 'worse', 'weak', 'c'), { until: 'off', parallel: 2 }),
    );
    expect(
      of(events, 'done')
        .map(({ seat, end }) => [seat.name, end])
        .sort(),
    ).toEqual([
      ['a', 'powered-off'],
      ['b', 'powered-off'],
      ['c', 'powered-off'],
      ['weak', 'crashed'],
    ]);
    expect(of(events, 'failed').map(({ seat, error }) => [seat.name, error.code])).toEqual([
      ['bad', 'locked'],
      ['worse', 'io'],
    ]);
  });

  it('stops what it started when told to, and starts nothing more', async () => {
    const runner = new PretendRunner();
    const controller = new AbortController();
    const seats = named('slow', 'a', 'b');
    const events: BootEvent[] = [];
    for await (const event of bootMany(runner, seats, {
      until: 'off',
      parallel: 1,
      signal: controller.signal,
    })) {
      events.push(event);
      if (event.kind === 'started') controller.abort();
    }
    expect(runner.stopped).toContain('slow');
    expect(of(events, 'failed').map(({ seat, error }) => [seat.name, error.code])).toEqual([
      ['slow', 'aborted'],
      ['a', 'aborted'],
      ['b', 'aborted'],
    ]);
  });

  it('leaves seats up that were to stay up, unless the caller turns away', async () => {
    const runner = new PretendRunner();
    const events = await collect(bootMany(runner, named('a', 'b'), { until: 'up' }));
    expect(of(events, 'done').map(({ end }) => end)).toEqual(['up', 'up']);
    expect(runner.stopped).toEqual([]);
    for await (const event of bootMany(runner, named('c', 'd', 'e'), { until: 'up', parallel: 1 })) {
      if (event.kind === 'done') break;
    }
    expect(runner.stopped).toContain('c');
    expect(runner.stopped).not.toContain('e');
  });

  it('does not alarm Node by the number of seats that wait', async () => {
    const warnings: Error[] = [];
    const listener = (warning: Error) => warnings.push(warning);
    process.on('warning', listener);
    try {
      const seats = named(...Array.from({ length: 30 }, (_, i) => `seat-${i}`));
      for await (const event of bootMany(new PretendRunner(), seats, { until: 'off', parallel: 30 })) {
        expect(event.kind).not.toBe('failed');
      }
      await pause(0);
    } finally {
      process.off('warning', listener);
    }
    expect(warnings).toEqual([]);
  });

  it('has nothing to say about no seats', async () => {
    expect(await collect(bootMany(new PretendRunner(), [], { until: 'off' }))).toEqual([]);
  });

  it('says, with the files runner, how to choose another', async () => {
    const events = await collect(bootMany(new FilesRunner(), named('a'), { until: 'off' }));
    expect(of(events, 'failed')[0].error).toMatchObject({ code: 'unsupported', field: 'runner' });
    expect(of(events, 'failed')[0].error.message).toContain("'runner: qemu'");
  });
});

describe('printable', () => {
  it('takes the means to command a terminal out of a line', () => {
    expect(printable('\u001b[2J\u001b[1;31mred\u001b[0m\ttab \u0007\u009b5nüß🐄')).toBe('red\ttab 5nüß🐄');
  });
});

describe.skipIf(!have('qemu-system-x86_64') || !have('qemu-img'))('bootMany with real guests', () => {
  it('boots a class, one of whose disks is missing and one of whose guests never ends', async () => {
    const master = await demoMaster(folder);
    const digest = digestOf(master);
    const names = Array.from({ length: 6 }, (_, i) => `student-0${i + 1}`);
    const sound = await Promise.all(names.map((name) => demoSeat(folder, name)));
    const missing = seatOn(folder, 'missing');
    const endless = seatOn(folder, 'endless', bootDisk(folder, 'endless', endlessGuest));
    await using runner = new QemuRunner({ accelerator: 'tcg', runtimeDir: folder.file('run') });
    for (const boots of [1, 2]) {
      const seats = [endless, missing, ...sound];
      const events = await collect(
        bootMany(runner, seats, { until: 'off', parallel: 4, timeLimitMs: 4_000 }),
      );
      const lines = of(events, 'line').filter(({ seat }) => seat !== endless);
      expect(lines.map(({ text }) => text).sort()).toEqual(
        names.map((name) => `cowherd seat=${name} boots=${boots} master=demo`),
      );
      expect(of(events, 'done').map(({ end }) => end)).toEqual(names.map(() => 'powered-off'));
      const failed = new Map(of(events, 'failed').map(({ seat, error }) => [seat.name, error]));
      expect([...failed.keys()].sort()).toEqual(['endless', 'missing']);
      expect(failed.get('endless')).toMatchObject({ code: 'aborted', field: 'timeout' });
      expect(failed.get('endless')?.message).toContain('after 4 s');
      expect(await runner.state(endless)).toBe('off');
    }
    for (const seat of sound) expect((await recordOn(folder, seat))?.boots).toBe(2);
    expect(digestOf(master)).toBe(digest);
  });

  it('stops the guests it started when told to', async () => {
    const seats = ['a', 'b', 'c'].map((name) => seatOn(folder, name, bootDisk(folder, name, endlessGuest)));
    await using runner = new QemuRunner({ accelerator: 'tcg', runtimeDir: folder.file('run') });
    const controller = new AbortController();
    const events: BootEvent[] = [];
    for await (const event of bootMany(runner, seats, {
      until: 'off',
      parallel: 2,
      signal: controller.signal,
    })) {
      events.push(event);
      if (of(events, 'line').length === 2) controller.abort();
    }
    expect(of(events, 'failed').map(({ error }) => error.code)).toEqual(['aborted', 'aborted', 'aborted']);
    for (const seat of seats) expect(await runner.state(seat)).toBe('off');
  });
});
