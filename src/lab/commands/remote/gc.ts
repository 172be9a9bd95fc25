import { humanSize } from '../../../cli/sizes.ts';
import { count, table } from '../../describe.ts';
import { collectRemote, planRemoteCollection } from '../../remote/collect.ts';
import { type LabCommand, say, sayJson, wantsJson } from '../command.ts';
import { lockedRemote, lookAt, remoteLabFrom } from './lab.ts';

/** `cowherd gc` for a lab whose hosts keep its seats: copies of masters. Exit code 1 where a host does not answer. */
export const run: LabCommand = async (input, context) => {
  await using lab = remoteLabFrom(input, context, 0).lab;
  const yes = input.options.yes === true && input.options.dryRun !== true;
  const look = async () => {
    const view = await lookAt(lab, context);
    const down = view.hosts.filter((one) => one.down !== undefined).map(({ host }) => host.name);
    return { ...(await planRemoteCollection(lab, view)), down };
  };
  const collection = yes
    ? await lockedRemote(lab, async () => {
        const found = await look();
        await collectRemote(lab, found.garbage);
        return found;
      })
    : await look();
  const { garbage, kept, down } = collection;
  const code = down.length > 0 ? 1 : 0;
  const freed = garbage.reduce((sum, one) => sum + one.allocated, 0);
  if (wantsJson(input)) {
    sayJson(context, { lab: lab.spec.name, garbage, kept, down, freed, removed: yes });
    return code;
  }
  if (garbage.length > 0) {
    const rows = garbage.map((one) => [
      yes ? '-' : ' ',
      `${one.host}: ${one.files.at(-1)}`,
      humanSize(one.allocated),
      one.why,
    ]);
    say(context, table(rows, [2]));
  }
  for (const { host, file, why } of kept) say(context, `  ${host}: ${file} stays: ${why}`);
  const what = `${count(garbage.length, 'thing')}, ${humanSize(freed)}`;
  if (garbage.length === 0) say(context, 'There is nothing to remove');
  else say(context, yes ? `Removed ${what}` : `Would remove ${what}; --yes does it.`);
  return code;
};
