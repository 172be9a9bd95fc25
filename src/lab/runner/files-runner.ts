import { DiskError } from '../../errors.ts';
import type { Seat } from '../seats/seat.ts';
import { noDomains, type Runner, type SeatEnd, type SeatState } from './runner.ts';

const bootsNothing =
  "This lab's runner is 'files': it makes images and domain XML and boots nothing. To boot its seats, write 'runner: qemu' in the lab file";

/** Images and XML only, for labs whose guests another program runs. */
export class FilesRunner implements Runner {
  readonly name = 'files';
  readonly boots = false;

  async unavailable(): Promise<string | undefined> {
    return bootsNothing;
  }

  async domainType(): Promise<undefined> {
    // Definitions are for others to read.
  }

  async domainXml(name: string): Promise<string> {
    throw noDomains(name);
  }

  async pending(): Promise<readonly Seat[]> {
    return [];
  }

  async define(_seat: Seat): Promise<void> {
    // The images and the XML are all there is.
  }

  async undefine(_seat: Seat): Promise<void> {
    // Nothing was made.
  }

  async renew(_seat: Seat): Promise<void> {
    // Nothing is kept.
  }

  async start(seat: Seat): Promise<void> {
    throw new DiskError('unsupported', bootsNothing, { path: seat.disk.path, field: 'runner' });
  }

  async stop(_seat: Seat): Promise<void> {
    // This runner's seats are always off; another program's guests are not ours to stop.
  }

  async state(_seat: Seat): Promise<SeatState> {
    return 'off';
  }

  async waitOff(_seat: Seat): Promise<SeatEnd> {
    return 'powered-off';
  }

  async *console(_seat: Seat): AsyncIterable<Uint8Array> {
    // Nobody writes to a serial port here.
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // Nothing is held.
  }
}
