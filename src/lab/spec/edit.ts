import { basename, dirname } from 'node:path';
import { isScalar, parseDocument } from 'yaml';
import { DiskError } from '../../errors.ts';
import { sweepAsides } from '../../platform/atomic-file.ts';
import { readSmallText, writeTextFile } from '../../platform/json-file.ts';

const largestFile = 4 * 1024 * 1024;

/**
 * The text of a lab file with another value at `path`, everything else as it was: comments, order, quotes. A key that is not
 * there is added. Pure.
 */
export function withValue(text: string, path: readonly string[], value: string): string {
  const node = parseDocument(text).getIn(path, true);
  if (isScalar(node) && node.range) {
    const [from, to] = node.range;
    const plain = /^[A-Za-z0-9./][A-Za-z0-9._/@-]*$/.test(value) && !/^['"]/.test(text.slice(from, to));
    const edited = `${text.slice(0, from)}${plain ? value : JSON.stringify(value)}${text.slice(to)}`;
    if (parseDocument(edited).getIn(path) === value) return edited;
  }
  const document = parseDocument(text);
  document.setIn(path, value);
  return document.toString({ lineWidth: 0 });
}

/** Changes a lab file in one instant, durably, and removes what runs that were killed have left of it. Throws `not-found`. */
export function editLabFile(file: string, change: (text: string) => string): void {
  const text = readSmallText(file, largestFile);
  if (text === undefined) throw new DiskError('not-found', `There is no lab file '${file}'`, { path: file });
  sweepAsides(dirname(file), { name: basename(file) });
  writeTextFile(file, change(text));
}
