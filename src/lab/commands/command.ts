import { existsSync } from 'node:fs';
import { relative, resolve } from 'node:path';
import pc from 'picocolors';
import type { CliContext } from '../../cli/context.ts';
import type { Progress } from '../../cli/progress.ts';
import { progressBar } from '../../cli/progress-bar.ts';
import { DiskError } from '../../errors.ts';
import { type Lab, labOf } from '../lab.ts';
import { withoutControls } from '../messages.ts';
import { type LockOptions, lockPool } from '../pool/pool-lock.ts';
import type { Runner } from '../runner/runner.ts';
import { selectSeats } from '../selection.ts';
import { type LabSpec, loadLab } from '../spec/load.ts';

/** A command's arguments as the program's front has read them. */
export interface Input {
  readonly operands: readonly string[];
  readonly options: Readonly<Record<string, string | boolean | undefined>>;
}

/** What a command is: a function that returns the exit code. Errors are thrown and worded by the program's front. */
export type LabCommand = (input: Input, context: CliContext) => Promise<number>;

/** The lab file that commands take where none is given. */
export const defaultLabFile = 'lab.yaml';

/**
 * The lab that the first operand names, or the one in this folder; and the operands after it. `after`: a command takes so many
 * operands after the lab, and the first of more is the lab, whatever it looks like. (With 0 nothing can be taken for a seat, which
 * would leave the command to the whole lab of this folder.)
 */
export function labFrom(
  input: Input,
  context: CliContext,
  after?: number,
): { lab: Lab; file: string; rest: readonly string[] } {
  const { spec, file, rest } = specFrom(input, context, after);
  if (isRemote(spec)) {
    throw new DiskError('unsupported', 'This is not there for labs whose hosts have pools of their own', {
      field: 'hosts',
      detail: { fix: 'plan, up, status, start, stop, reset, roll, gc and down are' },
    });
  }
  return { lab: labOf(spec), file, rest };
}

/** Whether the lab's hosts have pools of their own. */
export function isRemote({ hosts }: LabSpec): boolean {
  return hosts?.some((one) => one.pool !== undefined) ?? false;
}

/** A command that does its work otherwise for labs whose hosts have pools of their own. */
export function orRemote(
  local: LabCommand,
  remote: () => Promise<{ readonly run: LabCommand }>,
  after?: number,
): LabCommand {
  return async (input, context) => {
    if (!isRemote(specFrom(input, context, after).spec)) return await local(input, context);
    return await (await remote()).run(input, context);
  };
}

/** `labFrom` without a look at what is there. */
export function specFrom(
  input: Input,
  context: CliContext,
  after?: number,
): { spec: LabSpec; file: string; rest: readonly string[] } {
  const [first, ...rest] = input.operands;
  const looksSo = first !== undefined && (/\.(ya?ml|json)$/i.test(first) || first.includes('/'));
  const named = after === undefined ? looksSo : input.operands.length > after;
  const file = named ? first : defaultLabFile;
  if (!named && !existsSync(resolve(context.cwd, file))) {
    throw new DiskError(
      'not-found',
      first === undefined
        ? 'No lab file was named, and there is no lab.yaml here'
        : `"${first}" is no lab file, and there is no lab.yaml here`,
      { detail: { fix: `write for example: ${context.program} up classroom.yaml` } },
    );
  }
  if (after === 0 && named && !looksSo && !existsSync(resolve(context.cwd, file))) {
    throw new DiskError('bad-argument', `There is no lab file '${file}'`, {
      path: file,
      detail: { fix: "a lab is named by its file; single seats have 'reset', 'start', 'stop' and others" },
    });
  }
  return { spec: loadLab(file, context.cwd), file, rest: named ? rest : input.operands };
}

/** The seats that operands select; all of them where there is none. */
export function seatsFrom(lab: Lab, selections: readonly string[]): readonly string[] {
  const names = [...lab.seats.keys()];
  return selections.length === 0 ? names : selectSeats(selections, names);
}

/** For so long who only writes down what it has seen of the master (`status`) may have the lock, on a slow disk. */
const momentMs = 1000;

/**
 * Does the work while holding the lab's lock. Throws as `assertPoolThere`, before it makes a folder for that, unless `forgetGone` gives up
 * what is not there.
 */
export async function locked<T>(
  lab: Lab,
  work: () => Promise<T>,
  { forgetGone, ...options }: LockOptions & { readonly forgetGone?: boolean } = {},
): Promise<T> {
  if (!lab.state && !forgetGone) (await import('../pool/lost-pool.ts')).assertPoolThere(lab);
  using _lock = await lockPool(lab.lockPath, `the lab "${lab.name}"`, { waitMs: momentMs, ...options });
  if (lab.state)
    (await import('../masters/master-folders.ts')).noteMasterFolders(lab.spec, lab.pool, lab.state);
  return await work();
}

/** The lab's runner; loaded when it is needed. */
export async function runnerOf(lab: Lab): Promise<Runner> {
  const { createRunner } = await import('../runner/runners.ts');
  return createRunner(lab.spec.runner, { libvirt: { uri: lab.spec.uri }, hosts: lab.spec.hosts });
}

/** One line to stdout. */
export function say(context: CliContext, line = ''): void {
  context.stdout.write(`${line}\n`);
}

/** One line to stderr: what does not belong to the result. */
export function warn(context: CliContext, line: string): void {
  context.stderr.write(`${context.program}: warning: ${line}\n`);
}

export function wantsJson(input: Input): boolean {
  return input.options.output === 'json';
}

export function sayJson(context: CliContext, value: unknown): void {
  say(context, JSON.stringify(value, undefined, 2));
}

type Colours = Pick<ReturnType<typeof pc.createColors>, 'bold' | 'cyan' | 'dim' | 'green' | 'red' | 'yellow'>;

const plain = (text: unknown) => String(text);
const noColours: Colours = { bold: plain, cyan: plain, dim: plain, green: plain, red: plain, yellow: plain };

/** Colours for stdout: none where it is no terminal, or NO_COLOR is set. */
export function colours({ stdout, env }: CliContext): Colours {
  return stdout.isTTY && !env.NO_COLOR && env.TERM !== 'dumb' ? pc.createColors(true) : noColours;
}

/** A path as short as it can be said from here, without the means to command the terminal. */
export function shown(context: CliContext, path: string): string {
  const short = relative(context.cwd, path);
  return withoutControls(short === '' ? '.' : short.length < path.length ? short : path);
}

/** A display that appears only when the work takes long enough to wonder about; later where it cannot be redrawn. */
export function lazyProgress(context: CliContext, label: string, unit: 'bytes' | string): Progress {
  const quietMs = context.stderr.isTTY ? 300 : 2000;
  const began = context.now();
  const bar = progressBar(context, { label, unit });
  let visible = false;
  return {
    update(done, total) {
      visible ||= context.now() - began >= quietMs;
      if (visible) bar.update(done, total);
    },
    end() {
      if (visible) bar.end();
    },
  };
}

/** Throws `bad-argument` for options of `startToo` that cannot be, before disks are made. */
export async function checkStartToo(input: Input): Promise<void> {
  if (input.options.start === true) (await import('./start.ts')).parallelOf(input);
}

/**
 * Goes on with `start` after a command that makes disks. With --output json both answers are one document: `own` with
 * what `start` says as its member `start`.
 */
export async function startToo(
  input: Input,
  context: CliContext,
  operands: readonly string[],
  own: Readonly<Record<string, unknown>>,
): Promise<number> {
  const { run } = await import('./start.ts');
  if (!wantsJson(input)) return run({ ...input, operands }, context);
  let heard = '';
  const stdout = {
    isTTY: false,
    columns: context.stdout.columns,
    write(text: string | Uint8Array) {
      heard += text;
    },
  };
  const code = await run({ ...input, operands }, { ...context, stdin: context.stdin, stdout });
  sayJson(context, { ...own, start: JSON.parse(heard) as unknown });
  return code;
}
