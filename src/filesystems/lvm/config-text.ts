import { DiskError } from '../../errors.ts';

/** What stands behind a name in LVM's text: a section, a list, a text or a number. */
export type Value = Section | readonly Value[] | string | number;
export type Section = ReadonlyMap<string, Value>;

/** Sections within sections; LVM writes five deep. */
const mostDepth = 16;

const token = /\s+|#[^\n]*|([A-Za-z0-9_.+/-]+)|"((?:[^"\\]|\\[\s\S])*)"|([{}[\],=])/y;

interface Token {
  readonly kind: 'word' | 'text' | 'mark' | 'end';
  readonly text: string;
  /** Characters from the start. */
  readonly at: number;
}

/**
 * Reads the language of lvm.conf(5), in which LVM keeps its metadata too: `name { … }`, `name = value`, lists in brackets, texts in
 * quotes, remarks from `#` on. Throws `corrupt` with the place, in characters.
 */
export function parseConfig(text: string): Section {
  const tokens = tokensOf(text);
  let next = tokens.next();
  const peek = (): Token => (next.done ? { kind: 'end', text: 'the end', at: text.length } : next.value);
  const take = (): Token => {
    const taken = peek();
    next = tokens.next();
    return taken;
  };
  const expect = (mark: string) => {
    const taken = take();
    if (taken.kind !== 'mark' || taken.text !== mark) throw unexpected(taken, `'${mark}'`);
  };

  const section = (depth: number): Section => {
    const entries = new Map<string, Value>();
    for (;;) {
      const name = peek();
      if (name.kind === 'end' && depth === 0) return entries;
      if (name.kind === 'mark' && name.text === '}' && depth > 0) {
        take();
        return entries;
      }
      if (name.kind !== 'word' && name.kind !== 'text') throw unexpected(name, 'a name');
      take();
      if (entries.has(name.text)) throw unexpected(name, 'another name: it was given already');
      const sign = peek();
      if (sign.kind === 'mark' && sign.text === '{') {
        if (depth >= mostDepth) throw unexpected(sign, `fewer than ${mostDepth} sections within each other`);
        take();
        entries.set(name.text, section(depth + 1));
      } else {
        expect('=');
        entries.set(name.text, value());
      }
    }
  };
  const value = (): Value => {
    const first = take();
    if (first.kind === 'text') return first.text;
    if (first.kind === 'word') return /^-?\d+(\.\d+)?$/.test(first.text) ? Number(first.text) : first.text;
    if (first.text !== '[') throw unexpected(first, 'a value');
    const list: Value[] = [];
    while (!(peek().kind === 'mark' && peek().text === ']')) {
      if (list.length > 0) expect(',');
      const one = take();
      if (one.kind === 'text') list.push(one.text);
      else if (one.kind === 'word' && /^-?\d+$/.test(one.text)) list.push(Number(one.text));
      else throw unexpected(one, 'a text or a number');
    }
    take();
    return list;
  };
  return section(0);
}

function* tokensOf(text: string): Generator<Token, undefined> {
  const next = new RegExp(token);
  while (next.lastIndex < text.length) {
    const at = next.lastIndex;
    const found = next.exec(text);
    if (!found) throw unexpected({ kind: 'mark', text: text[at], at }, 'a name or a value');
    const [, word, quoted, mark] = found;
    if (word !== undefined) yield { kind: 'word', text: word, at };
    else if (quoted !== undefined) yield { kind: 'text', text: quoted.replace(/\\([\s\S])/g, '$1'), at };
    else if (mark !== undefined) yield { kind: 'mark', text: mark, at };
  }
  return undefined;
}

function unexpected({ text, at }: Token, wanted: string): DiskError {
  return new DiskError('corrupt', `LVM's metadata has '${text.slice(0, 20)}' in place of ${wanted}`, {
    field: 'metadata',
    detail: { character: at },
  });
}
