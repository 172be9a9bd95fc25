import type { LineCounter } from 'yaml';
import { DiskError } from '../../errors.ts';

/** One thing that is wrong in a lab file, and where: offsets are UTF-16 units in its text. */
export interface Mistake {
  readonly from: number;
  readonly to: number;
  readonly message: string;
  /** What to write instead. */
  readonly fix?: string;
}

/** A text with its name, to point into. */
export interface SourceText {
  /** As the user gave it. */
  readonly name: string;
  readonly text: string;
  readonly lines: LineCounter;
}

/** More mistakes than this are only counted. */
const mostShown = 10;

/**
 * The error for a lab file that is wrong. Its message is the first mistake; `detail.report` shows all of them in the
 * form `file:line:column: what`, with the line and what to write instead.
 */
export function labFileError(source: SourceText, mistakes: readonly Mistake[]): DiskError {
  const ordered = [...mistakes].sort((a, b) => a.from - b.from);
  const shown = ordered.slice(0, mostShown).map((one) => describeMistake(source, one));
  if (ordered.length > mostShown) shown.push(`… and ${ordered.length - mostShown} more`);
  const { line, col } = position(source, ordered[0].from);
  return new DiskError('bad-argument', ordered[0].message, {
    path: source.name,
    field: 'lab file',
    detail: { line, column: col, fix: ordered[0].fix, report: shown.join('\n') },
  });
}

function position(source: SourceText, offset: number): { line: number; col: number } {
  // An empty document has no line of its own.
  return source.text.length === 0
    ? { line: 1, col: 1 }
    : source.lines.linePos(Math.min(offset, source.text.length));
}

function describeMistake(source: SourceText, mistake: Mistake): string {
  const { line, col } = position(source, mistake.from);
  const parts = [`${source.name}:${line}:${col}: ${mistake.message}`];
  const text = source.text.split('\n')[line - 1]?.trimEnd().replaceAll('\t', ' ') ?? '';
  if (text.trim() !== '') {
    const room = Math.max(1, text.length - (col - 1));
    const width = Math.max(1, Math.min(mistake.to - mistake.from, room));
    parts.push(`  ${line} | ${text}`);
    parts.push(`  ${' '.repeat(String(line).length)} | ${' '.repeat(col - 1)}${'^'.repeat(width)}`);
  }
  if (mistake.fix !== undefined) parts.push(`  ${mistake.fix}`);
  return parts.join('\n');
}
