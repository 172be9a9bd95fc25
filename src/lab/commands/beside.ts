import type { CliContext } from '../../cli/context.ts';
import type { Beside, Runner } from '../runner/runner.ts';
import type { Seat } from '../seats/seat.ts';
import { warn } from './command.ts';

/** Says what seats lose besides their disks when these are made new, or with `dryRun` would lose: what somebody added by virsh. */
export async function warnOfBeside(
  seats: readonly Seat[],
  runner: Pick<Runner, 'beside'>,
  { dryRun }: { readonly dryRun: boolean },
  context: CliContext,
): Promise<readonly Beside[]> {
  const found = (await runner.beside?.(seats)) ?? [];
  const verb = dryRun ? 'would be' : 'is';
  for (const { seat, disks, snapshots } of found) {
    for (const path of disks)
      warn(
        context,
        `${seat}: '${path}' ${verb} detached from its domain (the file stays; virsh attach-disk)`,
      );
    for (const name of snapshots)
      warn(context, `${seat}: the snapshot '${name}' ${dryRun ? 'would go' : 'goes'} with its disk`);
  }
  return found;
}
