import type { IsoFile } from './iso9660.ts';

/** The two trees of names: ISO 9660's own (level 1, with Rock Ridge's beside it), and Joliet's. */
export type Naming = 'iso' | 'joliet';

export interface NamedFile {
  readonly id: readonly number[];
  readonly file: IsoFile;
}

/** UCS-2, big-endian. */
export function ucs2(text: string): number[] {
  return [...text].flatMap((c) => [c.charCodeAt(0) >> 8, c.charCodeAt(0) & 0xff]);
}

/** The files with their identifiers, in the order that ECMA-119 (9.3) asks for. */
export function filesOfTree(
  files: readonly IsoFile[],
  naming: Naming,
): { readonly naming: Naming; readonly files: readonly NamedFile[] } {
  const taken = new Set<string>();
  const named = files.map((file) => {
    const text = naming === 'iso' ? shortName(file.name, taken) : file.name;
    return { text, file };
  });
  named.sort((a, b) => (a.text < b.text ? -1 : 1));
  return {
    naming,
    files: named.map(({ text, file }) => ({
      id: naming === 'iso' ? [...text].map((c) => c.charCodeAt(0)) : ucs2(text),
      file,
    })),
  };
}

/** A name of level 1: eight and three characters of A-Z, 0-9 and `_`, and version 1. No two alike. */
function shortName(name: string, taken: Set<string>): string {
  const dot = name.lastIndexOf('.');
  const clean = (text: string) => text.toUpperCase().replace(/[^A-Z0-9_]/g, '_');
  const stem = clean(dot > 0 ? name.slice(0, dot) : name);
  const extension = dot > 0 ? clean(name.slice(dot + 1)).slice(0, 3) : '';
  for (let number = 0; ; number++) {
    const suffix = number === 0 ? '' : String(number);
    const short = `${stem.slice(0, 8 - suffix.length)}${suffix}.${extension};1`;
    if (taken.has(short)) continue;
    taken.add(short);
    return short;
  }
}
