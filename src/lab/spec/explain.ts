import { type Document, isMap, isNode, isPair, isSeq } from 'yaml';
import type * as z from 'zod';
import type { Mistake } from './mistakes.ts';
import { nearest } from './nearest.ts';
import { labSchema } from './schema.ts';
import { seedSchema } from './seed-schema.ts';

type Issue = z.core.$ZodIssue;
type Path = readonly PropertyKey[];

/** What to write, by key: shown below a mistake in it. */
const examples: Readonly<Record<string, string>> = {
  lab: 'lab: networking-101',
  master: 'master: masters/debian-12.qcow2',
  seats: 'seats: 40',
  pool: 'pool: ./networking-101',
  runner: 'runner: qemu',
  memory: 'memory: 2G',
  cpus: 'cpus: 2',
  network: 'network: user',
  template: 'template: my-domain',
  firmware: 'firmware: uefi',
  tpm: 'tpm: true',
  disks: 'disks: [{name: data, size: 10G}]',
  seed: 'seed: {hostname: "{seat}", users: [{name: student}]}',
  cdrom: 'cdrom: tools.iso',
  disk: 'disk: {size: 40G, bus: virtio}',
  graphics: 'graphics: vnc',
  guard: 'guard: read-only',
  guest: 'guest: demo',
};

/** The same for values inside. */
const innerExamples: Readonly<Record<string, string>> = {
  'master.path': 'master: {path: masters/debian-12.qcow2, format: qcow2}',
  'master.format': 'master: {path: masters/debian-12.qcow2, format: qcow2}',
  'seats.count': 'seats: {count: 40, name: "student-{nn}"}',
  'seats.name': 'seats: {count: 40, name: "student-{nn}"}',
  'seats.first': 'seats: {count: 40, first: 1}',
  'runner.libvirt': 'runner: {libvirt: qemu:///system}',
  'seed.network': 'network: {address: 10.0.0.{n}/24}',
  'network.network': 'network: {network: default}',
  'network.bridge': 'network: {bridge: br0}',
};

function exampleFor(path: Path): string | undefined {
  if (path[0] === 'seats' && typeof path[1] === 'number') return 'seats: [ann, pc-7, "8"]';
  return innerExamples[path.map(String).join('.')] ?? examples[String(path[0] ?? '')];
}

const missingKeys: Readonly<Record<string, string>> = {
  lab: "the lab's name is missing",
  master: 'the master is missing: the image that all seats share',
  seats: 'the seats are missing: how many, or their names',
};

/** The keys that a mapping at `path` may have. */
function keysAt(path: Path): readonly string[] {
  if (path.length === 0) return Object.keys(labSchema.shape);
  const known: Readonly<Record<string, readonly string[]>> = {
    master: ['path', 'format'],
    seats: ['count', 'name', 'first'],
    disk: ['size', 'device', 'bus', 'preallocation'],
    network: ['network', 'bridge'],
    runner: ['libvirt'],
    seed: path.length === 1 ? Object.keys(seedSchema().shape) : [],
    disks: ['name', 'size', 'bus'],
  };
  return known[String(path[0])] ?? [];
}

/** What zod found, as mistakes with places in the text. */
export function explain(document: Document, issues: readonly Issue[]): Mistake[] {
  const mistakes = issues.flatMap((issue) => explainOne(document, issue, issue.path));
  // A key that is only misspelt is not missing as well.
  const meant = mistakes.flatMap((one) => (one.meant === undefined ? [] : [one.meant]));
  const misspelt = (key: string) =>
    meant.some((one) => one === key || (key.includes('.') && parentOf(one) === parentOf(key)));
  return mistakes.filter((one) => one.missing === undefined || !misspelt(one.missing));
}

/** A mistake that knows which key (dotted path) is absent, or which one an unknown key was meant for. */
interface KeyMistake extends Mistake {
  readonly missing?: string;
  readonly meant?: string;
}

function parentOf(dottedPath: string): string {
  return dottedPath.slice(0, dottedPath.lastIndexOf('.') + 1);
}

function dotted(path: Path, key: PropertyKey): string {
  return [...path, key].map(String).join('.');
}

function explainOne(document: Document, issue: Issue, path: Path): KeyMistake[] {
  if (issue.code === 'invalid_union') {
    // The alternative that the value is of the right kind for, where there is one: its complaint is the useful one.
    const value = document.getIn(path.map(toKey));
    const kind = value === undefined ? undefined : isMap(value) ? 'map' : isSeq(value) ? 'seq' : typeof value;
    const alternative = issue.errors.find((inner) => inner.length > 0 && wants(inner) === kind);
    if (alternative)
      return alternative.flatMap((inner) => explainOne(document, inner, [...path, ...inner.path]));
  }
  if (issue.code === 'unrecognized_keys') {
    return issue.keys.map((key) => unknownKey(document, path, key));
  }
  const parent = document.getIn(path.slice(0, -1).map(toKey), true);
  const example = exampleFor(path);
  const fix = example === undefined ? undefined : `write for example: ${example}`;
  if (path.length > 0 && isMap(parent) && !parent.has(toKey(path[path.length - 1]))) {
    const last = String(path[path.length - 1]);
    const message =
      path.length === 1 && missingKeys[last] ? missingKeys[last] : `${path.map(String).join('.')} is missing`;
    return [
      {
        ...startOf(document, path.slice(0, -1)),
        message,
        missing: path.map(String).join('.'),
        fix: fix?.replace('write for example', 'add for example'),
      },
    ];
  }
  return [{ ...rangeOf(document, path), message: `${issue.message}${found(document, path)}`, fix }];
}

/** The kind of value that an alternative complains about the inside of, or is. */
function wants(issues: readonly Issue[]): 'map' | 'seq' | 'string' | 'number' | undefined {
  const whole = issues.find((issue) => issue.path.length === 0 && issue.code !== 'unrecognized_keys');
  if (whole === undefined) {
    const inner = issues.find((issue) => issue.path.length > 0);
    return inner === undefined || typeof inner.path[0] === 'string' ? 'map' : 'seq';
  }
  if (whole.code === 'too_big' || whole.code === 'too_small') {
    if (whole.origin === 'number' || whole.origin === 'int') return 'number';
    return whole.origin === 'array' ? 'seq' : 'string';
  }
  if (whole.code === 'invalid_format') return 'string';
  // Of two kinds of number: 1.5 is one, but no whole one.
  if (whole.code === 'invalid_type' && whole.expected === 'int') return 'number';
  return undefined;
}

function unknownKey(document: Document, path: Path, key: string): KeyMistake {
  const known = keysAt(path);
  const meant = nearest(key, known);
  const fix = meant === undefined ? `it may be one of: ${known.join(', ')}` : `did you mean "${meant}"?`;
  const where = path.length === 0 ? '' : ` in ${path.map(String).join('.')}`;
  const map = document.getIn(path.map(toKey), true) ?? document.contents;
  const pair = isMap(map) ? map.items.find((item) => isPair(item) && String(item.key) === key) : undefined;
  const range = isNode(pair?.key) ? pair.key.range : undefined;
  const [from, to] = range ?? [0, 1];
  return { from, to, meant: meant && dotted(path, meant), message: `unknown key "${key}"${where}`, fix };
}

function toKey(key: PropertyKey): string | number {
  return typeof key === 'number' ? key : String(key);
}

/** Where the value at `path` stands, or the nearest thing around it. */
export function rangeOf(document: Document, path: Path): { from: number; to: number } {
  for (let depth = path.length; depth >= 0; depth--) {
    const node = depth === 0 ? document.contents : document.getIn(path.slice(0, depth).map(toKey), true);
    if (isNode(node) && node.range) return { from: node.range[0], to: node.range[1] };
  }
  return { from: 0, to: 1 };
}

function startOf(document: Document, path: Path): { from: number; to: number } {
  const { from } = rangeOf(document, path);
  return { from, to: from + 1 };
}

/** `; found "lots"`, for values short enough to show. */
function found(document: Document, path: Path): string {
  const value: unknown = document.getIn(path.map(toKey));
  if (value === undefined || typeof value === 'object') return value === null ? '; found nothing' : '';
  const text = JSON.stringify(value);
  return text.length > 40 ? '' : `; found ${text}`;
}
