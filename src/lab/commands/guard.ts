import { DiskError } from '../../errors.ts';
import { MasterGuard } from '../guard/guard-daemon.ts';
import { guardUnit } from '../guard/guard-unit.ts';
import { type LabCommand, say, shown, warn } from './command.ts';

/** `cowherd guard`: holds locks on masters until it is ended, so that QEMU itself refuses to write to them. */
export const run: LabCommand = async (input, context) => {
  if (input.options.install === true) {
    context.stdout.write(guardUnit);
    return 0;
  }
  const { pool, interval } = input.options;
  const pools = typeof pool === 'string' ? pool.split(',') : [];
  const labs = input.operands;
  if (labs.length === 0 && pools.length === 0) {
    throw new DiskError('bad-argument', 'What shall be guarded?', {
      detail: { fix: `write for example: ${context.program} guard classroom.yaml; or --pool masters` },
    });
  }
  const pause = secondsOf(interval) * 1000;
  await using guard = new MasterGuard({ labs, pools, cwd: context.cwd });
  let told = '';
  while (!context.signal.aborted) {
    const { locked, released, troubles } = await guard.refresh();
    for (const path of locked) say(context, `guarding ${shown(context, path)}`);
    for (const path of released) say(context, `released ${shown(context, path)}`);
    const text = troubles.join('\n');
    if (text !== told) for (const trouble of troubles) warn(context, trouble);
    told = text;
    await sleep(pause, context.signal);
  }
  return 0;
};

function secondsOf(value: string | boolean | undefined): number {
  if (value === undefined) return 5;
  const seconds = Number(value);
  if (seconds >= 0.1 && seconds <= 3600) return seconds;
  throw new DiskError('bad-argument', `--interval takes seconds from 0.1 to 3600, not "${value}"`);
}

function sleep(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      signal.removeEventListener('abort', done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal.addEventListener('abort', done);
    if (signal.aborted) done();
  });
}
