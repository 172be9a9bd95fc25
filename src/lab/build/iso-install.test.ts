import { mkdirSync } from 'node:fs';
import { expect, it } from 'vitest';
import { mustRun, tempDir } from '../../../test/support/programs.ts';
import { DiskError } from '../../errors.ts';
import { FilesRunner } from '../runner/files-runner.ts';
import type { SeatEnd } from '../runner/runner.ts';
import type { Seat } from '../seats/seat.ts';
import { installFromIso } from './iso-install.ts';

/** Its machine writes something to its disk, or not, and ends in a way of one's choice. */
class InstallerRunner extends FilesRunner {
  readonly #end: SeatEnd | 'never';
  readonly #writes: string | undefined;

  constructor(end: SeatEnd | 'never', writes?: string) {
    super();
    this.#end = end;
    this.#writes = writes;
  }

  override async unavailable(): Promise<undefined> {
    // It boots.
  }

  override async start(seat: Seat): Promise<void> {
    if (this.#writes) await mustRun('qemu-io', ['-f', 'qcow2', '-c', this.#writes, seat.disk.path]);
  }

  override async waitOff(): Promise<SeatEnd> {
    if (this.#end === 'never') throw new DiskError('aborted', 'It is still up', { field: 'timeout' });
    return this.#end;
  }

  override async stop(): Promise<void> {
    // At once.
  }
}

it('counts as installed where the guest has switched itself off, and something was written', async () => {
  await using folder = await tempDir();
  let n = 0;
  const install = async (end: SeatEnd | 'never', writes?: string): Promise<string> => {
    const scratch = folder.file(`build-${++n}`);
    mkdirSync(scratch);
    const what = {
      iso: folder.file('none.iso'),
      disk: `${scratch}/disk.qcow2`,
      size: 8 * 1024 * 1024,
      scratch,
    };
    const machine = {
      name: 'os',
      memoryMiB: 16,
      cpus: 1,
      graphics: 'none',
      network: { kind: 'none' },
    } as const;
    const runner = new InstallerRunner(end, writes);
    return await installFromIso({ ...what, ...machine, runner, timeLimitMs: 60_000 }).then(
      () => 'installed',
      (error: Error) => error.message,
    );
  };
  const something = 'write -P 1 5M 4k';
  expect(await install('powered-off', something)).toBe('installed');
  expect(await install('cut-off', something)).toContain('was torn off');
  expect(await install('crashed', something)).toContain('crashed during the installation');
  expect(await install('never', something)).toContain('had not ended after 1 minutes');
  expect(await install('powered-off')).toContain('nothing had been installed');
  expect(await install('powered-off', 'write -P 0 5M 1M')).toContain('nothing had been installed');
});
