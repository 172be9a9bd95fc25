import { homedir } from 'node:os';
import { dirname, isAbsolute, join, resolve } from 'node:path';
import { type Document, isMap, isScalar, LineCounter, type Node, parseDocument, visit } from 'yaml';
import { assertText } from '../../bytes/byte-text.ts';
import { DiskError } from '../../errors.ts';
import { placeTold } from '../../platform/host-names.ts';
import { readSmallText } from '../../platform/json-file.ts';
import type { DiskBus, Firmware, Graphics, Preallocation, SeatNetwork } from '../seats/seat.ts';
import { explain, rangeOf } from './explain.ts';
import type { LabHost } from './hosts.ts';
import { labFileError, type Mistake, type SourceText } from './mistakes.ts';
import { type LabDocument, labSchema, type ServeDocument, sizePattern } from './schema.ts';
import { seatNames } from './seats.ts';
import type { SeedDocument } from './seed-schema.ts';

/** What a lab shall be: every default filled in, every path absolute. */
export interface LabSpec {
  /** The lab file's absolute path. */
  readonly file: string;
  readonly name: string;
  readonly master: { readonly path: string; readonly format?: 'qcow2' | 'raw' };
  /** Absolute path of the folder of the seats' files. */
  readonly pool: string;
  /** The same as the lab file writes it; `~` leads elsewhere for everybody. */
  readonly poolText: string;
  /** In the lab file's order; at least one. */
  readonly seats: readonly string[];
  readonly runner: 'qemu' | 'libvirt' | 'files';
  /** libvirt's connection URI, where the lab file names one. */
  readonly uri?: string;
  /** Several libvirts, over which the seats are spread. */
  readonly hosts?: readonly LabHost[];
  /** What the seats' domains are made like: a domain's name, or a file's absolute path. */
  readonly template?: { readonly domain: string } | { readonly file: string };
  /** The keys that the lab file has; the others have their defaults. */
  readonly given: ReadonlySet<string>;
  readonly memoryMiB: number;
  readonly cpus: number;
  readonly network: SeatNetwork;
  readonly cdrom?: string;
  readonly disk: {
    /** Guest bytes; undefined: the master's. */
    readonly size?: number;
    /** Path of the block device of each seat, with {seat}, {n} or {lab} in it; undefined: files in the pool. */
    readonly device?: string;
    readonly bus: DiskBus;
    readonly preallocation: Preallocation;
  };
  /** Undefined: 'up' warns where the seats may come to need more than is free. */
  readonly overcommit?: number;
  /** More disks of each seat; names differ. */
  readonly disks: readonly { readonly name: string; readonly size: number; readonly bus: DiskBus }[];
  /** Absolute path of the passphrase that new disks of seats are encrypted by. */
  readonly encrypt?: { readonly passphraseFile: string };
  /** With an absolute path for `user-data`. */
  readonly seed?: SeedDocument;
  readonly graphics: Graphics;
  readonly firmware: Firmware;
  readonly tpm: boolean;
  readonly guard: 'read-only' | 'immutable';
  readonly guest: 'any' | 'demo';
  /** With absolute paths. */
  readonly serve?: ServeDocument;
  /** Why no seat is made or started as the file says (`assertMakeable`); what only takes away does without. */
  readonly doubt?: DiskError;
  /** An error about the value at `path` of the lab file, with its line. */
  mistake(path: readonly (string | number)[], message: string, fix?: string): DiskError;
}

/** Who writes a number below this, without a unit, means gigabytes. MiB. */
const leastBareMiB = 64;

/** A lab file of more than this many bytes is something else. */
const largestFile = 4 * 1024 * 1024;

/**
 * Reads a lab file. Throws `bad-argument` where there is none, or with every mistake in the file (see `labFileError`).
 * `name` is the path as the user gave it, relative to `cwd`.
 */
export function loadLab(name: string, cwd: string): LabSpec {
  const file = resolve(cwd, name);
  const text = readSmallText(file, largestFile);
  if (text === undefined) {
    throw new DiskError('bad-argument', `There is no lab file '${name}'`, {
      path: name,
      detail: { fix: 'three lines make one: lab: NAME, master: IMAGE, seats: 40' },
    });
  }
  return parseLab(text, { name, file });
}

/** Throws what is doubtful in a lab file that seats are to be made or started by. */
export function assertMakeable({ doubt }: Pick<LabSpec, 'doubt'>): void {
  if (doubt) throw doubt;
}

/** `loadLab` for a text that was read already. */
export function parseLab(text: string, where: { readonly name: string; readonly file: string }): LabSpec {
  const lines = new LineCounter();
  const source: SourceText = { name: where.name, text, lines };
  // No text has a zero, but for what is written in two bytes a letter.
  if (text.includes('\0')) {
    const message = 'the lab file is no text, or is UTF-16';
    throw labFileError(source, [{ from: 0, to: 1, message, fix: 'save it as UTF-8' }]);
  }
  const document = parseYaml(source);
  if (document.errors.length > 0) {
    throw labFileError(
      source,
      document.errors
        .filter((error, i) => error.pos[0] !== document.errors[i - 1]?.pos[0])
        .map((error) => syntaxMistake(error, text)),
    );
  }
  const read = (): unknown => {
    try {
      return document.toJS({ maxAliasCount: 100 });
    } catch (cause) {
      const message = `its aliases (*name) cannot be followed: ${(cause as Error).message}`;
      throw labFileError(source, [{ from: 0, to: 1, message, fix: 'write the values out' }]);
    }
  };
  const value = read();
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw labFileError(source, [
      {
        ...rangeOf(document, []),
        message:
          value === null ? 'the lab file is empty' : 'the lab file must be a mapping of keys to values',
        fix: 'three lines are enough: lab: NAME, master: IMAGE, seats: 40',
      },
    ]);
  }
  const parsed = labSchema.safeParse(value);
  if (!parsed.success) throw labFileError(source, explain(document, parsed.error.issues));
  return resolveSpec(parsed.data, document, source, where.file);
}

function parseYaml(source: SourceText): Document.Parsed {
  const tooDeep = (from: number): DiskError =>
    labFileError(source, [
      { from, to: from + 1, message: 'values are nested too deeply', fix: 'a lab file has few levels' },
    ]);
  // The parser makes regular expressions as long as the indentation, and Node ends where one is too long.
  const indented = source.text.search(/^[ ?-]{1000}/m);
  if (indented >= 0) throw tooDeep(indented);
  try {
    const how = { lineCounter: source.lines, prettyErrors: false, version: '1.2' } as const;
    const document = parseDocument(source.text, how);
    refuseOddKeys(document, source);
    return document;
  } catch (cause) {
    // The parser calls itself at each level, and has no limit of its own.
    if (!(cause instanceof RangeError)) throw cause;
    throw tooDeep(0);
  }
}

/** YAML lets mappings and lists be keys (`? …`). They would be made texts, of a length that doubles with each level. */
function refuseOddKeys(document: Document.Parsed, source: SourceText): void {
  visit(document, {
    Pair(_, { key }) {
      if (key === null || isScalar(key)) return;
      const from = (key as Node).range?.[0] ?? 0;
      const fix = 'write KEY: VALUE';
      throw labFileError(source, [{ from, to: from + 1, message: 'a key must be a text', fix }]);
    },
  });
}

function syntaxMistake(
  error: { pos: [number, number]; code: string; message: string },
  text: string,
): Mistake {
  const [from, to] = error.pos;
  const tab = text.slice(from, to + 1).includes('\t') || error.code === 'TAB_AS_INDENT';
  const nesting = 'keys of one mapping begin in the same column; a value with ": " in it needs quotes';
  const fixes: Readonly<Record<string, string>> = {
    DUPLICATE_KEY: 'keep one of them',
    BAD_INDENT: 'close what was opened; begin keys of one mapping in the same column',
    BLOCK_AS_IMPLICIT_KEY: nesting,
    MULTILINE_IMPLICIT_KEY: nesting,
    MISSING_CHAR: 'close what was opened: a quote, a bracket or a brace',
  };
  return {
    from,
    to,
    message: `this is not YAML: ${error.message.charAt(0).toLowerCase()}${error.message.slice(1)}`,
    fix: tab ? 'indent with spaces: YAML allows no tabs' : fixes[error.code],
  };
}

function resolveSpec(data: LabDocument, document: Document, source: SourceText, file: string): LabSpec {
  const mistakes: Mistake[] = [];
  const wrong = (path: readonly (string | number)[], message: string, fix?: string) =>
    mistakes.push({ ...rangeOf(document, path), message, fix });
  const base = dirname(file);
  const local = (path: string) => {
    assertText(path, source.name);
    const home =
      path === '~' || path.startsWith('~/') ? join(placeTold(homedir(), 'HOME'), path.slice(1)) : path;
    return isAbsolute(home) ? home : join(base, home);
  };

  const doubts: Mistake[] = [];
  const seats = seatNames(data.seats, wrong);
  const memoryMiB = typeof data.memory === 'number' ? data.memory : sizeOf(data.memory) / (1024 * 1024);
  if (!Number.isInteger(memoryMiB) || memoryMiB < 1 || memoryMiB > 16 * 1024 * 1024) {
    wrong(['memory'], 'memory must be a whole number of MiB, up to 16T', 'write for example: memory: 2G');
  } else if (typeof data.memory === 'number' && data.memory < leastBareMiB) {
    // Such files were taken once, and their labs are there.
    doubts.push({
      ...rangeOf(document, ['memory']),
      message: `memory: ${data.memory} is ${data.memory} MiB, in which hardly anything boots`,
      fix: `write its unit: memory: ${data.memory}G, or ${data.memory}M where that is meant`,
    });
  }
  const size = data.disk.size === undefined ? undefined : sizeOf(data.disk.size);
  if (size !== undefined && (!Number.isSafeInteger(size) || size % 512 !== 0 || size === 0)) {
    wrong(
      ['disk', 'size'],
      "the disk's size must be a multiple of 512 bytes",
      'write for example: size: 40G',
    );
  }
  if (data.disk.device !== undefined) {
    if (data.hosts) wrong(['disk', 'device'], 'devices are of one machine: not with hosts', 'leave it out');
    if (data.disk.preallocation !== 'off')
      wrong(
        ['disk', 'device'],
        'a device is there as a whole: preallocation is for files',
        'leave one of them out',
      );
  }
  const disks = data.disks.map((disk) => ({ ...disk, size: sizeOf(disk.size) }));
  for (const [i, { name, size: bytes }] of disks.entries()) {
    if (!Number.isSafeInteger(bytes) || bytes % 512 !== 0 || bytes === 0)
      wrong(
        ['disks', i, 'size'],
        "the disk's size must be a multiple of 512 bytes",
        'write for example: size: 10G',
      );
    if (disks.findIndex((one) => one.name.toLowerCase() === name.toLowerCase()) !== i)
      wrong(['disks', i, 'name'], `two disks are called "${name}"`, 'give each its own name');
  }
  const given = new Set(
    isMap(document.contents) ? document.contents.items.map((item) => String(item.key)) : [],
  );
  const runner =
    typeof data.runner !== 'string' || (data.hosts && !given.has('runner')) ? 'libvirt' : data.runner;
  if (data.hosts && (runner !== 'libvirt' || typeof data.runner !== 'string'))
    wrong(
      ['runner'],
      'hosts say themselves where their libvirt is',
      'leave runner out, or write: runner: libvirt',
    );
  for (const [i, { name }] of (data.hosts ?? []).entries()) {
    if (data.hosts!.findIndex((one) => one.name === name) !== i)
      wrong(['hosts', i, 'name'], `two hosts are called "${name}"`, 'give each its own name');
  }
  const apart = (data.hosts ?? []).filter((one) => one.pool !== undefined);
  if (apart.length > 0) {
    if (apart.length < data.hosts!.length)
      wrong(
        ['hosts'],
        'some hosts have a pool and some have none',
        'write pool for all of them, or for none',
      );
    for (const key of ['encrypt', 'serve', 'pool'] as const)
      if (data[key] !== undefined)
        wrong([key], `${key} is not there for hosts with pools of their own`, 'leave it out');
  }
  if (runner === 'qemu') {
    const needs = {
      firmware: data.firmware === 'uefi',
      tpm: data.tpm,
      template: data.template !== undefined,
    };
    for (const [key, wanted] of Object.entries(needs)) {
      if (wanted) wrong([key], `${key} needs libvirt here`, 'add for example: runner: libvirt');
    }
    if (data.graphics === 'spice')
      wrong(['graphics'], 'spice needs libvirt here', 'write for example: graphics: vnc');
  }
  const { serve } = data;
  if (serve?.listen !== undefined && serve.socket !== undefined)
    wrong(['serve', 'socket'], 'serve has a socket and listen', 'keep one of them');
  if (serve?.master && seats.includes('master'))
    wrong(['serve'], 'a seat is called master, as the export of the master', 'add: master: false');
  if (mistakes.length > 0) throw labFileError(source, [...mistakes, ...doubts]);

  const master = typeof data.master === 'string' ? { path: data.master } : data.master;
  return {
    file,
    name: data.lab,
    master: { ...master, path: local(master.path) },
    pool: local(data.pool ?? data.lab),
    poolText: data.pool ?? data.lab,
    seats,
    runner,
    uri: typeof data.runner === 'string' ? undefined : data.runner.libvirt,
    ...(data.hosts && { hosts: data.hosts.map(({ libvirt, ...host }) => ({ ...host, uri: libvirt })) }),
    template: data.template === undefined ? undefined : templateOf(data.template, local),
    given,
    memoryMiB,
    cpus: data.cpus,
    network: networkOf(data.network),
    cdrom: data.cdrom === undefined ? undefined : local(data.cdrom),
    disk: { ...data.disk, size },
    overcommit: data.space.overcommit,
    disks,
    ...(doubts.length > 0 && { doubt: labFileError(source, doubts) }),
    encrypt: data.encrypt && { passphraseFile: local(data.encrypt['passphrase-file']) },
    seed: seedOf(data.seed, local),
    graphics: data.graphics,
    firmware: data.firmware,
    tpm: data.tpm,
    guard: data.guard,
    guest: data.guest,
    serve: serveOf(data.serve, local),
    mistake: (path, message, fix) => labFileError(source, [{ ...rangeOf(document, path), message, fix }]),
  };
}

/** A domain's name holds no slash, and none of ours ends in .xml. */
function templateOf(text: string, local: (path: string) => string): LabSpec['template'] {
  return text.includes('/') || text.endsWith('.xml') ? { file: local(text) } : { domain: text };
}

function seedOf(seed: SeedDocument | undefined, local: (path: string) => string): SeedDocument | undefined {
  const extra = seed?.['user-data'];
  return seed && extra !== undefined ? { ...seed, 'user-data': local(extra) } : seed;
}

function serveOf(
  serve: ServeDocument | undefined,
  local: (path: string) => string,
): ServeDocument | undefined {
  if (!serve) return undefined;
  const { socket, tls } = serve;
  return { ...serve, socket: socket && local(socket), tls: tls && local(tls) };
}

function networkOf(network: LabDocument['network']): SeatNetwork {
  if (typeof network === 'string') return { kind: network };
  return 'network' in network
    ? { kind: 'network', name: network.network }
    : { kind: 'bridge', name: network.bridge };
}

/** Bytes of a text that `sizePattern` matches. */
function sizeOf(text: string): number {
  const [, number, unit] = sizePattern.exec(text)!;
  return Number(number) * 1024 ** ('KMGT'.indexOf(unit.toUpperCase()) + 1);
}
