import { dirname } from 'node:path';
import { humanSize } from '../../cli/sizes.ts';
import { readImageHead } from '../disks/overlay.ts';
import type { Lab } from '../lab.ts';
import { nextNumber } from '../masters/library.ts';
import { versionLabel } from '../masters/name.ts';
import {
  assertCommittable,
  assertPlainWanted,
  promoteMethods,
  promoteSeat,
  promoteTarget,
} from '../masters/promote.ts';
import type { Runner } from '../runner/runner.ts';
import { type LintReport, lintImage } from '../seal/lint.ts';
import { openSeatDisk, type SeatDiskFile, seatDiskFile } from '../seats/seat-disk.ts';
import { assertKeyOfDisk } from '../seats/seat-key.ts';
import { type LabCommand, lazyProgress, say, sayJson, shown, wantsJson, warn } from './command.ts';
import { oneSeatFrom, whileOff } from './one-seat.ts';
import { clonesWouldClash, describeFindings } from './seal.ts';

/**
 * `cowherd promote`: a seat's disk becomes a new version of the master. Exit code 1 where its clones would clash, and nothing was
 * made then unless `--anyway` was said.
 */
export const run: LabCommand = async (input, context) => {
  const one = oneSeatFrom(input, context, 0, 'promote classroom.yaml student-03');
  const { seat, file } = one;
  const name = typeof input.options.as === 'string' ? input.options.as : undefined;
  const method = promoteMethods.find((known) => known === input.options.method) ?? 'flatten';
  const plain = input.options.plain === true;
  const bar = lazyProgress(context, 'copying', 'bytes');
  try {
    const check = async (lab: Lab) => {
      const disk = await seatDiskFile(lab, seat);
      assertPlainWanted(disk, plain);
      if (method === 'commit') await assertCommittable(lab, disk, context.signal);
      await assertKeyOfDisk(seat, disk);
      return { disk, target: promoteTarget(lab, seat, name) };
    };
    const work = async (lab: Lab, _: Runner, found: Awaited<ReturnType<typeof check>>, isUp: boolean) => {
      const { disk, target } = found;
      const report = isUp ? undefined : await lintSeat(disk);
      const refused = report && clonesWouldClash(report) && input.options.anyway !== true;
      const known = report && report.findings.length + report.notes.length > 0;
      if (!wantsJson(input) && known) describeFindings(report, context);
      if (refused) {
        if (wantsJson(input)) sayJson(context, { lab: lab.name, seat, master: null, ...report });
        else say(context, `Not promoted: clones would clash. Do the above in ${seat}, or say --anyway`);
        return 1;
      }
      if (input.options.dryRun === true) {
        const label = versionLabel(target.name, nextNumber(target.folder, target.name));
        const answer = { lab: lab.name, seat, master: label, method, dryRun: true, ...report };
        if (wantsJson(input)) sayJson(context, answer);
        else {
          say(context, `${seat} would become ${label} in ${shown(context, target.folder)} (${method})`);
          if (isUp) say(context, 'Whether its clones would clash is seen when it is off');
        }
        return 0;
      }
      const { signal, now } = context;
      const version = await promoteSeat(lab, seat, {
        ...{ method, name, plain, now, signal, onProgress: bar.update },
        digest: { signal },
      });
      const { label, path, record } = version;
      bar.end();
      if (disk.encryption)
        warn(
          context,
          `${label} is not encrypted: who may enter ${shown(context, dirname(path))} can read it`,
        );
      if (wantsJson(input)) {
        const { content } = record!;
        sayJson(context, { lab: lab.name, seat, master: label, path, method, content, ...report });
        return 0;
      }
      const size = humanSize(readImageHead(path)?.allocated ?? 0);
      say(context, `${seat} is ${label} now: ${shown(context, path)}, ${size} by du`);
      say(context, `'${context.program} roll ${file} ${label}' lets the lab change over to it.`);
      return 0;
    };
    return await whileOff(one, 'promote', input, context, { check, work });
  } finally {
    bar.end();
  }
};

async function lintSeat(disk: SeatDiskFile): Promise<LintReport> {
  await using image = await openSeatDisk(disk);
  return await lintImage(image);
}
