import { describeSeats } from '../../describe.ts';
import { problemError } from '../../plan.ts';
import { RemoteLab } from '../../remote/lab.ts';
import { planRemote } from '../../remote/up.ts';
import { editLabFile } from '../../spec/edit.ts';
import { type LabCommand, say, sayJson, shown, specFrom, wantsJson } from '../command.ts';
import { otherMaster } from '../roll.ts';
import { run as up } from './up.ts';

/** `cowherd roll` for a lab whose hosts keep its seats: the lab file names another master, and `up` brings a copy of it to each host. */
export const run: LabCommand = async (input, context) => {
  const { spec, file, rest } = specFrom(input, context, 1);
  const { change, next } = await otherMaster(spec, { file, wanted: rest }, context);
  let former: readonly string[];
  {
    // What cannot be done is found out before the lab file changes.
    await using lab = new RemoteLab(next);
    const { view, problems } = await planRemote(lab, { digest: { signal: context.signal } });
    if (problems.length > 0) throw problemError(problems);
    const { master, found } = view;
    former = [...found.values()].filter((seat) => seat.content !== master?.content).map(({ name }) => name);
  }
  if (input.options.dryRun === true) {
    if (wantsJson(input)) sayJson(context, { lab: spec.name, master: next.master.path, former });
    else {
      say(context, `${spec.name}: would roll to ${shown(context, next.master.path)}`);
      if (former.length > 0)
        say(context, `  seats that would change over at their next reset: ${describeSeats(former)}`);
      say(context, 'Nothing was changed (--dry-run).');
    }
    return 0;
  }
  editLabFile(spec.file, change);
  const code = await up({ operands: [file], options: { output: input.options.output } }, context);
  if (code === 0 && !wantsJson(input) && former.length > 0)
    say(context, `Seats change over at their next reset: ${describeSeats(former)}`);
  return code;
};
