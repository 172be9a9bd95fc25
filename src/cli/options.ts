import type { FormatDriver, OptionSpec, OptionValues } from '../formats/driver.ts';
import { readOption, unknownOption } from '../formats/option-values.ts';
import { splitOptions } from '../image/nodes/option-list.ts';
import type { CliContext } from './context.ts';
import { CliFailure } from './failure.ts';
import { qdictOrder } from './json.ts';
import { parseSize, warnOfHexSuffix } from './sizes.ts';

export { splitOptions };

/** What QEMU's `file` protocol can be asked at creation, whatever the format. In the order of `Formatting …`. */
const fileOptions: readonly OptionSpec[] = [
  { name: 'size', type: 'size', help: 'Virtual disk size' },
  { name: 'nocow', type: 'boolean', help: 'Turn off copy-on-write (valid only on btrfs)' },
  { name: 'preallocation', type: 'string', help: 'Preallocation mode (allowed values: off, falloc, full)' },
  { name: 'extent_size_hint', type: 'size', help: 'Extent size hint for the image file, 0 to disable' },
];

/** Options whose order in qemu-img's `Formatting` line is not the alphabetical one of its help. */
const formattingOrder: Readonly<Record<string, readonly string[]>> = {
  raw: ['size'],
  luks: [
    'size',
    'key-secret',
    'cipher-alg',
    'cipher-mode',
    'ivgen-alg',
    'ivgen-hash-alg',
    'hash-alg',
    'iter-time',
    'detached-header',
  ],
  vpc: ['size', 'backing_file', 'backing_fmt', 'subformat', 'force_size'],
  vhdx: ['size', 'backing_file', 'backing_fmt', 'log_size', 'block_size', 'subformat', 'block_state_zero'],
  qcow2: [
    'encryption',
    'encrypt.format',
    'encrypt.key-secret',
    'encrypt.cipher-alg',
    'encrypt.cipher-mode',
    'encrypt.ivgen-alg',
    'encrypt.ivgen-hash-alg',
    'encrypt.hash-alg',
    'encrypt.iter-time',
    'cluster_size',
    'extended_l2',
    'preallocation',
    'compression_type',
    'size',
    'compat',
    'backing_file',
    'backing_fmt',
    'data_file',
    'data_file_raw',
    'lazy_refcounts',
    'refcount_bits',
  ],
  vmdk: [
    'size',
    'adapter_type',
    'backing_file',
    'backing_fmt',
    'compat6',
    'hwversion',
    'toolsversion',
    'subformat',
    'zeroed_grain',
  ],
};

/** The format's own options, in `Formatting` order. */
function formatOptions(driver: FormatDriver): readonly OptionSpec[] {
  const order = formattingOrder[driver.name];
  if (!order) return driver.createOptions;
  return order.flatMap((name) => driver.createOptions.find((option) => option.name === name) ?? []);
}

/** All options that creating a file of this format accepts, in `Formatting` order. */
export function creationOptions(driver: FormatDriver): readonly OptionSpec[] {
  const own = formatOptions(driver);
  return [...own, ...fileOptions.filter((option) => !own.some((known) => known.name === option.name))];
}

/**
 * Appends the argument of one more `-o` to those before it. Throws CliFailure for a list that would not survive
 * being joined: empty, or with a comma at an end.
 */
export function joinOptionLists(before: string | undefined, list: string): string {
  const trailing = list.length - list.replace(/,*$/, '').length;
  if (list === '' || list.startsWith(',') || trailing % 2 === 1) {
    throw new CliFailure(`Invalid option list: ${list}`);
  }
  return before === undefined ? list : `${before},${list}`;
}

/** Whether `help` or `?` stands among the options. */
export function wantsHelp(list: string): boolean {
  return splitOptions(list).some(({ name, flag }) => flag && (name === 'help' || name === '?'));
}

/** A list of options understood against what may be given. */
export interface CreationOptions {
  /** For the driver: sizes and numbers as numbers where they are safe integers. */
  readonly values: OptionValues;
  /** As given, by name: what `Formatting` prints. */
  readonly shown: Map<string, string>;
  /** Sizes and numbers as they were understood. */
  readonly numbers: Map<string, bigint>;
}

/** Reads `list` against `specs`. The last one of a name wins. Throws CliFailure for the first that is wrong. */
export function parseOptions(
  context: CliContext,
  specs: readonly OptionSpec[],
  list: string,
): CreationOptions {
  const values: Record<string, string | number | boolean> = {};
  const shown = new Map<string, string>();
  const numbers = new Map<string, bigint>();
  for (const { name, value } of splitOptions(list)) {
    const spec = specs.find((option) => option.name === name);
    if (!spec) throw new CliFailure(unknownOption(name));
    shown.set(name, value);
    const read = parameter(context, spec, value);
    values[name] = read.value;
    if (read.exact !== undefined) numbers.set(name, read.exact);
  }
  return { values, shown, numbers };
}

function parameter(context: CliContext, spec: Pick<OptionSpec, 'name' | 'type'>, value: string) {
  const read = readOption(spec, value);
  if ('refusal' in read) throw new CliFailure(read.refusal, { hint: read.hint });
  if (read.hexSuffix) warnOfHexSuffix(context, value);
  return read;
}

/** A parameter that is a size, below 2^64 bytes. Throws CliFailure. */
export function sizeParameter(context: CliContext, name: string, value: string): bigint {
  return parameter(context, { name, type: 'size' }, value).exact!;
}

const typeNames = { size: 'size', string: 'str', boolean: 'bool (on/off)', number: 'num' } as const;

/**
 * The text of `-o help`: of a format alone, as it was called, or of a file in it, whose own options are then included, as
 * qemu-img does.
 */
export function optionHelp(driver: FormatDriver, alone: string | undefined): string {
  const whole = alone === undefined || alone === 'file';
  const options = whole ? creationOptions(driver) : formatOptions(driver);
  const lines = optionLines(options);
  if (alone === undefined) return `Supported options:\n${lines}`;
  return (
    `Supported ${alone} options:\n${lines}\n` +
    'The protocol level may support further options.\nSpecify the target filename to include those options.\n'
  );
}

/** The text of `amend -o help`. */
export function amendHelp(driver: FormatDriver): string {
  return `Amend options for '${driver.name}':\n${optionLines(driver.amendOptions ?? [])}`;
}

function optionLines(options: readonly OptionSpec[]): string {
  return [...options]
    .sort((a, b) => (a.name < b.name ? -1 : 1))
    .map(({ name, type, help }) => `${`  ${name}=<${typeNames[type]}>`.padEnd(24)} - ${help}\n`)
    .join('');
}

/** The options of qemu-img's line `Formatting 'x', fmt=…`, each with a blank before it. */
export function formattingLine(specs: readonly OptionSpec[], options: CreationOptions): string {
  let line = '';
  for (const { name, type, default: byDefault } of specs) {
    const given = options.shown.get(name) ?? (byDefault === undefined ? undefined : shownDefault(byDefault));
    if (given === undefined) continue;
    const number = options.numbers.get(name);
    if (type === 'string') line += ` ${name}=${given.replaceAll(',', ',,')}`;
    else line += ` ${name}=${number === undefined ? given : BigInt.asIntN(64, number)}`;
  }
  return line;
}

function shownDefault(value: string | number | boolean): string {
  return typeof value === 'boolean' ? (value ? 'on' : 'off') : String(value);
}

/**
 * Prints once more what was deprecated in the options: QEMU reads those of the file a second time when it creates
 * it, and the cluster size when it lays the image out.
 */
export function warnAgain(
  context: CliContext,
  driver: FormatDriver,
  specs: readonly OptionSpec[],
  options: CreationOptions,
): void {
  const ofFile = fileOptions.filter(({ name }) => options.shown.has(name)).map(({ name }) => name);
  const names = [...qdictOrder(ofFile), ...(driver.name === 'raw' ? [] : ['cluster_size'])];
  for (const name of names) {
    const text = options.shown.get(name);
    if (text === undefined || specs.find((spec) => spec.name === name)?.type !== 'size') continue;
    const parsed = parseSize(text);
    if (parsed.kind === 'size' && parsed.hexSuffix) warnOfHexSuffix(context, text);
  }
}
