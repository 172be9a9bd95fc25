import { dirname, join } from 'node:path';
import type { CliContext } from '../../../cli/context.ts';
import { recordFolder } from '../../../platform/dependents.ts';
import { describeSeats } from '../../describe.ts';
import { lockPool } from '../../pool/pool-lock.ts';
import { RemoteLab, type RemoteView } from '../../remote/lab.ts';
import { selectSeats } from '../../selection.ts';
import { removeEmptyRecords } from '../../state.ts';
import { type Input, lazyProgress, specFrom, warn } from '../command.ts';

/** The lab of a command line, with the operands after it: as `labFrom`. */
export function remoteLabFrom(
  input: Input,
  context: CliContext,
  after?: number,
): { readonly lab: RemoteLab; readonly file: string; readonly rest: readonly string[] } {
  const { spec, file, rest } = specFrom(input, context, after);
  return { lab: new RemoteLab(spec), file, rest };
}

/** Asks the hosts; the master of this machine is read where its digest is not known. Tells of hosts that do not answer. */
export async function lookAt(lab: RemoteLab, context: CliContext): Promise<RemoteView> {
  const bar = lazyProgress(context, 'reading the master', 'bytes');
  try {
    const view = await lab.look({ signal: context.signal, onProgress: bar.update });
    warnOfDown(view, context);
    return view;
  } finally {
    bar.end();
  }
}

export function warnOfDown({ hosts }: Pick<RemoteView, 'hosts'>, context: CliContext): void {
  for (const { host, down } of hosts)
    if (down !== undefined) warn(context, `the host ${host.name} is not there, its seats wait: ${down}`);
}

/** The seats that operands select; all of them where there is none. */
export function selected(lab: RemoteLab, selections: readonly string[]): readonly string[] {
  return selections.length === 0 ? lab.spec.seats : selectSeats(selections, lab.spec.seats);
}

/** The same without seats of hosts that do not answer, or that the lab file does not name: these are told of. */
export function answering(
  view: RemoteView,
  names: readonly string[],
  context: CliContext,
): readonly string[] {
  const down = new Set(view.hosts.flatMap(({ host, down }) => (down === undefined ? [] : [host.name])));
  const known = new Set(view.hosts.map(({ host }) => host.name));
  const away = new Set(view.replaced.flatMap(({ seats }) => seats));
  const hidden = names.filter((name) => {
    if (away.has(name)) return true;
    const host = view.placement?.seats[name];
    return !view.found.has(name) && host !== undefined && (down.has(host) || !known.has(host));
  });
  if (hidden.length > 0) warn(context, `nobody knows what these do, left alone: ${describeSeats(hidden)}`);
  return names.filter((name) => !hidden.includes(name));
}

/** Does the work while no other command of this machine changes the lab. */
export async function lockedRemote<T>({ spec }: RemoteLab, work: () => Promise<T>): Promise<T> {
  const folder = dirname(spec.file);
  try {
    using _lock = await lockPool(
      join(folder, recordFolder, `hosts-${spec.name}.lock`),
      `the lab "${spec.name}"`,
    );
    return await work();
  } finally {
    removeEmptyRecords(folder);
  }
}
