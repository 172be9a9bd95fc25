import { parseSize } from '../bytes/size-text.ts';
import { DiskError } from '../errors.ts';
import type { OptionSpec, OptionValues } from './driver.ts';

/** What the text of an option means, or why it means nothing, in QEMU's words. */
export type ReadOption =
  | {
      readonly value: string | number | boolean;
      /** The same of a size or number, exactly. */
      readonly exact?: bigint;
      /** Deprecated: a size in hexadecimal with a suffix. */
      readonly hexSuffix?: boolean;
    }
  | { readonly refusal: string; readonly hint?: string };

const sizeHint =
  'Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n' +
  'and exabytes, respectively.\n';

/** Reads an option as the tools of QEMU read it. */
export function readOption(spec: Pick<OptionSpec, 'name' | 'type'>, text: string): ReadOption {
  switch (spec.type) {
    case 'string':
      return { value: text };
    case 'boolean':
      return readBoolean(spec.name, text);
    case 'size':
      return readSize(spec.name, text);
    case 'number':
      return readNumber(spec.name, text);
  }
}

export function unknownOption(name: string): string {
  return `Invalid parameter '${name}'`;
}

/** What `createImage` has arguments of its own for. */
const ownArguments: Readonly<Record<string, string>> = { size: 'the size', backing_file: '`backing`' };

/**
 * The options of a new image as a driver takes them: known ones, of their types. Values of other types are taken as QEMU takes them: 'on'
 * and 'off', and sizes with a suffix. Throws `bad-argument`, `field` the option's name, for what nobody would look at.
 */
export function checkOptions(specs: readonly OptionSpec[], given: OptionValues, path: string): OptionValues {
  const values: Record<string, string | number | boolean> = {};
  for (const [name, value] of Object.entries(given)) {
    if (value === undefined) continue;
    const refuse = (why: string) =>
      new DiskError('bad-argument', why, { path, field: name, detail: { value } });
    const spec = specs.find((option) => option.name === name);
    if (!spec) throw refuse(unknownOption(name));
    if (name in ownArguments)
      throw refuse(`Parameter '${name}' is no option here: give ${ownArguments[name]}`);
    const natural = spec.type === 'boolean' || spec.type === 'string' ? spec.type : 'number';
    if (natural === 'number' && typeof value === 'number' && Number.isInteger(value) && value >= 0) {
      values[name] = value;
    } else if (typeof value === natural && natural !== 'number') values[name] = value;
    else {
      const read = readOption(spec, String(value));
      if ('refusal' in read) throw refuse(read.refusal);
      values[name] = read.value;
    }
  }
  return values;
}

function readBoolean(name: string, text: string): ReadOption {
  if (['on', 'yes', 'true', 'y'].includes(text)) return { value: true };
  if (['off', 'no', 'false', 'n'].includes(text)) return { value: false };
  return { refusal: `Parameter '${name}' expects 'on' or 'off'` };
}

/** A size, below 2^64 bytes. */
function readSize(name: string, text: string): ReadOption {
  const parsed = parseSize(text);
  if (parsed.kind === 'invalid') {
    return { refusal: `Parameter '${name}' expects a non-negative number below 2^64`, hint: sizeHint };
  }
  if (parsed.kind === 'too-large')
    return { refusal: `Value '${text}' is out of range for parameter '${name}'` };
  return { value: Number(parsed.bytes), exact: parsed.bytes, hexSuffix: parsed.hexSuffix };
}

/** C's strtoull with base 0: 0x hexadecimal, a leading 0 octal, a minus wraps around 2^64. */
function readNumber(name: string, text: string): ReadOption {
  const match = /^[ \t\n\v\f\r]*([+-]?)(?:0[xX]([0-9a-fA-F]+)|(0[0-7]*)|([1-9][0-9]*))$/.exec(text);
  if (!match) return { refusal: `Parameter '${name}' expects a number` };
  const [, sign, hex, octal, decimal] = match;
  const magnitude = hex ? BigInt(`0x${hex}`) : octal ? BigInt(`0o0${octal}`) : BigInt(decimal);
  if (magnitude >= 1n << 64n) return { refusal: `Value '${text}' is too large for parameter '${name}'` };
  const exact = sign === '-' ? BigInt.asUintN(64, -magnitude) : magnitude;
  return { value: Number(exact), exact };
}
