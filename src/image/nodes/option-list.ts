import { DiskError } from '../../errors.ts';
import { NodeOptions, type NodeValue } from './node-options.ts';

/** One assignment of a list. */
export interface Assignment {
  readonly name: string;
  readonly value: string;
  /** Written without a value: `name` (on) or `noname` (off). */
  readonly flag: boolean;
}

/**
 * Takes `name=value,flag,noflag` apart; a comma in a value is written twice. With `implied` a first word without a
 * value is the value of that name.
 */
export function splitOptions(list: string, implied?: string): Assignment[] {
  const found: Assignment[] = [];
  let at = 0;
  while (at < list.length) {
    const rest = list.slice(at);
    const separator = rest.search(/[=,]/);
    const nameLength = separator < 0 ? rest.length : separator;
    let name = rest.slice(0, nameLength);
    const takesImplied = implied !== undefined && at === 0 && rest[nameLength] !== '=';
    if (takesImplied) name = implied;
    else at += nameLength;
    if (takesImplied || list[at] === '=') {
      if (!takesImplied) at++;
      let value = '';
      for (; at < list.length; at++) {
        if (list[at] === ',') {
          if (list[at + 1] !== ',') break;
          at++;
        }
        value += list[at];
      }
      found.push({ name, value, flag: false });
    } else if (name.startsWith('no')) found.push({ name: name.slice(2), value: 'off', flag: true });
    else found.push({ name, value: 'on', flag: true });
    if (list[at] === ',') at++;
  }
  return found;
}

const identifier = /^[A-Za-z][A-Za-z0-9._-]*$/;

/**
 * The argument of an image under `--image-opts`: QEMU's dotted keys. `onFlag` hears of each option without a value,
 * which QEMU warns of. Throws `bad-argument` (field `id`) for an `id` that is no identifier.
 */
export function parseImageOptions(list: string, onFlag?: (name: string, value: string) => void): NodeOptions {
  const values: [string, NodeValue][] = [];
  for (const { name, value, flag } of splitOptions(list, 'file')) {
    if (flag) onFlag?.(name, value);
    if (name === 'id' && !identifier.test(value)) {
      throw new DiskError('bad-argument', "Parameter 'id' expects an identifier", {
        field: 'id',
        detail: { expects: 'identifier' },
      });
    }
    values.push([name, value]);
  }
  return new NodeOptions(values);
}
