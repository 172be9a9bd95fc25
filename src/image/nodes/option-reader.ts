import { qdictOrder } from '../../bytes/qemu-json.ts';
import { parseSize } from '../../bytes/size-text.ts';
import { DiskError } from '../../errors.ts';
import type { NodeOptions } from './node-options.ts';

/**
 * Reads one node's options by their types and keeps account of those that nobody asked for. Values of JSON count as the
 * texts that they would be on a command line. Throws `bad-argument` with the option's name as `field`, in QEMU's words.
 */
export class OptionReader {
  readonly options: NodeOptions;
  readonly #unread: Set<string>;

  constructor(options: NodeOptions) {
    this.options = options;
    this.#unread = new Set([...options.entries()].map(([name]) => name));
  }

  string(name: string): string | undefined {
    this.#unread.delete(name);
    const value = this.options.get(name);
    if (value === undefined || value === null) return undefined;
    return typeof value === 'boolean' ? (value ? 'on' : 'off') : String(value);
  }

  boolean(name: string): boolean | undefined {
    const text = this.string(name);
    if (text === undefined) return undefined;
    if (['on', 'yes', 'true', 'y'].includes(text)) return true;
    if (['off', 'no', 'false', 'n'].includes(text)) return false;
    throw refusal(name, `Parameter '${name}' expects 'on' or 'off'`);
  }

  /** Bytes, with a suffix or without. Past 2^53 - 1 there is no such image here. */
  size(name: string): number | undefined {
    const bytes = this.budget(name);
    if (bytes !== Number.POSITIVE_INFINITY) return bytes;
    throw outOfRange(name, this.string(name)!);
  }

  /** As `size`, of what may be more than there is: Infinity past 2^53 - 1. */
  budget(name: string): number | undefined {
    const text = this.string(name);
    if (text === undefined) return undefined;
    const parsed = parseSize(text);
    if (parsed.kind === 'invalid') {
      throw new DiskError('bad-argument', `Parameter '${name}' expects a non-negative number below 2^64`, {
        field: name,
        detail: { expects: 'size', value: text },
      });
    }
    if (parsed.kind === 'too-large') throw outOfRange(name, text);
    return parsed.bytes > BigInt(Number.MAX_SAFE_INTEGER) ? Number.POSITIVE_INFINITY : Number(parsed.bytes);
  }

  number(name: string): number | undefined {
    const text = this.string(name);
    if (text === undefined) return undefined;
    if (!/^\s*[+-]?(?:0[xX][0-9a-fA-F]+|[0-9]+)$/.test(text)) {
      throw refusal(name, `Parameter '${name}' expects a number`);
    }
    if (BigInt(text.trim().replace(/^[+-]/, '')) > 0xffff_ffff_ffff_ffffn) {
      throw refusal(name, `Value '${text}' is too large for parameter '${name}'`);
    }
    return text.trim().startsWith('-') ? -Number(text.trim().slice(1)) : Number(text);
  }

  /** One of `values`; the error is the one of QEMU's enumerations unless `message` makes another. */
  choice<Value extends string>(
    name: string,
    values: readonly Value[],
    message = (text: string) => `invalid parameter value: ${text}`,
  ): Value | undefined {
    const text = this.string(name);
    if (text === undefined) return undefined;
    if (values.includes(text as Value)) return text as Value;
    throw refusal(name, message(text));
  }

  /** The options of a nested group or node, which count as read. */
  take(prefix: string): NodeOptions {
    for (const name of this.#unread) {
      if (name === prefix || name.startsWith(`${prefix}.`)) this.#unread.delete(name);
    }
    return this.options.child(prefix);
  }

  /** Marks an option as read. */
  skip(name: string): void {
    this.#unread.delete(name);
  }

  /** An option that nobody asked for: the one that QEMU finds first. */
  get unread(): string | undefined {
    return qdictOrder([...this.#unread])[0];
  }
}

function outOfRange(name: string, text: string): DiskError {
  return refusal(name, `Value '${text}' is out of range for parameter '${name}'`);
}

export function refusal(field: string, message: string): DiskError {
  return new DiskError('bad-argument', message, { field });
}
