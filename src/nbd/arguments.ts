import { isCacheMode } from '../cli/cache-mode.ts';
import type { CliContext } from '../cli/context.ts';
import { CliFailure } from '../cli/failure.ts';
import { Getopt, type LongOption } from '../cli/getopt.ts';
import { report } from '../cli/messages.ts';
import { UserObjects } from '../cli/objects.ts';
import { snapshotArgument } from '../cli/snapshot-argument.ts';
import { TlsObjects } from '../cli/tls-objects.ts';
import { flag, valued } from '../cli/verb-options.ts';
import type { SnapshotSelector } from '../formats/driver.ts';
import { maxStringBytes } from '../storage/nbd/protocol.ts';
import { handedSecrets } from './daemon.ts';
import { parseExportOption } from './export-option.ts';
import type { ExportRecipe } from './recipe.ts';

/** What a command line of cow-nbd asks for. */
export interface NbdArguments {
  verbose: boolean;
  bind?: string;
  port?: string;
  socket?: string;
  /** Clients at once; 0: any number. */
  shared: number;
  persistent: boolean;
  list: boolean;
  connect?: string;
  disconnect: boolean;
  fork: boolean;
  pidFile?: string;
  tlsCredentials?: string;
  tlsAuthorization?: string;
  tlsHostname?: string;
  selinuxLabel?: string;
  exportName?: string;
  description?: string;
  offset: number;
  format?: string;
  readOnly: boolean;
  snapshot?: SnapshotSelector;
  overlay?: 'export' | 'session';
  imageOptions: boolean;
  untrusted: boolean;
  cache?: string;
  aio?: string;
  discard?: boolean;
  detectZeroes: 'off' | 'on' | 'unmap';
  allocationDepth: boolean;
  bitmaps: string[];
  objects: string[];
  /** Of the secrets among them, by id: each is read once. */
  secrets: ReadonlyMap<string, Uint8Array>;
  /** Exports besides FILE. */
  others: Partial<ExportRecipe>[];
  readonly tls: TlsObjects;
  files: string[];
}

/** The rest of the command line means nothing: it was answered. */
export type Answered = 'help' | 'version';

const short = 'hVb:o:p:rsnc:dvk:e:f:tl:x:T:D:AB:LP:';
const long: readonly LongOption[] = [
  letter('help', 'h'),
  letter('version', 'V'),
  letter('bind', 'b', true),
  letter('port', 'p', true),
  letter('socket', 'k', true),
  letter('offset', 'o', true),
  letter('read-only', 'r'),
  letter('allocation-depth', 'A'),
  letter('bitmap', 'B', true),
  letter('connect', 'c', true),
  letter('disconnect', 'd'),
  letter('list', 'L'),
  letter('snapshot', 's'),
  letter('load-snapshot', 'l', true),
  letter('nocache', 'n'),
  valued('cache'),
  valued('aio'),
  valued('discard'),
  valued('detect-zeroes'),
  letter('shared', 'e', true),
  letter('format', 'f', true),
  letter('persistent', 't'),
  letter('verbose', 'v'),
  valued('object'),
  letter('export-name', 'x', true),
  letter('description', 'D', true),
  valued('tls-creds'),
  valued('tls-hostname'),
  valued('tls-authz'),
  flag('image-opts'),
  letter('trace', 'T', true),
  flag('fork'),
  valued('pid-file'),
  valued('selinux-label'),
  letter('partition', 'P', true),
  // Ours.
  flag('copy-on-write'),
  flag('untrusted'),
  valued('export'),
];

function letter(name: string, key: string, argument = false): LongOption {
  return { name, key, argument: argument ? 'required' : 'none' };
}

/** Reads a command line, in qemu-nbd's order and words. Throws CliFailure. */
export function readArguments(args: readonly string[], context: CliContext): NbdArguments | Answered {
  const getopt = new Getopt([context.program, ...args], short, long);
  const objects = new UserObjects();
  objects.know(handedSecrets(context.env));
  const found: NbdArguments = {
    verbose: false,
    shared: 1,
    persistent: false,
    list: false,
    disconnect: false,
    fork: false,
    offset: 0,
    readOnly: false,
    imageOptions: false,
    untrusted: false,
    detectZeroes: 'off',
    allocationDepth: false,
    bitmaps: [],
    objects: [],
    secrets: new Map(),
    others: [],
    tls: new TlsObjects(),
    files: [],
  };
  for (let option = getopt.next(); option; option = getopt.next()) {
    const { key, value = '' } = option;
    if (key === '?' || key === ':') {
      report(context, whatIsWrong(key, getopt));
      throw new CliFailure(`Try \`${context.program} --help' for more information.`);
    }
    if (key === 'h') return 'help';
    if (key === 'V') return 'version';
    if (key === 'object') {
      if (!found.tls.take(value)) {
        objects.add(value);
        found.objects.push(value);
      }
    } else takers[key](found, value, context);
  }
  // Whoever opens the images makes them again, of what was read here.
  found.secrets = objects.shared();
  objects.wipe();
  found.files = getopt.operands();
  return found;
}

type Taker = (found: NbdArguments, value: string, context: CliContext) => void;

/** What each option does, by its letter or, where it has none, its name. */
const takers: Readonly<Record<string, Taker>> = {
  s: (found) => (found.overlay = 'export'),
  'copy-on-write': (found) => (found.overlay = 'session'),
  n: (found) => takeCache(found, 'none'),
  cache: takeCache,
  aio: takeAio,
  discard: takeDiscard,
  'detect-zeroes': takeDetectZeroes,
  b: (found, value) => (found.bind = value),
  p: (found, value) => (found.port = value),
  o: (found, value) => (found.offset = unsigned(value) ?? fail(`Invalid offset '${value}'`)),
  l: takeSnapshot,
  r: (found) => (found.readOnly = true),
  A: (found) => (found.allocationDepth = true),
  // QEMU puts each before those that came earlier.
  B: (found, value) => found.bitmaps.unshift(value),
  k: (found, value) => {
    if (!value.startsWith('/')) throw new CliFailure('socket path must be absolute');
    found.socket = value;
  },
  d: (found) => (found.disconnect = true),
  c: (found, value) => (found.connect = value),
  e: (found, value) => {
    const count = unsigned(value);
    if (count === undefined || count > 0x7fffffff)
      throw new CliFailure(`Invalid shared device number '${value}'`);
    found.shared = count;
  },
  f: (found, value) => (found.format = value),
  t: (found) => (found.persistent = true),
  x: (found, value) => (found.exportName = wireString('export name', value)),
  D: (found, value) => (found.description = wireString('export description', value)),
  v: (found) => (found.verbose = true),
  'tls-creds': (found, value) => (found.tlsCredentials = value),
  'tls-hostname': (found, value) => (found.tlsHostname = value),
  'tls-authz': (found, value) => (found.tlsAuthorization = value),
  'image-opts': (found) => (found.imageOptions = true),
  untrusted: (found) => (found.untrusted = true),
  T: () => {
    // Trace points are QEMU's own: accepted, as by cow-img, and without effect.
  },
  P: () =>
    fail(
      'Partitions are not served (qemu-nbd dropped -P as well): use --offset, or nbdkit --filter=partition',
    ),
  fork: (found) => (found.fork = true),
  L: (found) => (found.list = true),
  'pid-file': (found, value) => (found.pidFile = value),
  'selinux-label': (found, value) => (found.selinuxLabel = value),
  export: (found, value) => found.others.push(parseExportOption(value)),
};

/** A text that the protocol has room for. */
function wireString(what: string, text: string): string {
  return Buffer.byteLength(text) > maxStringBytes ? fail(`${what} '${text}' too long`) : text;
}

function takeSnapshot(found: NbdArguments, value: string, context: CliContext): void {
  try {
    found.snapshot = snapshotArgument(context, value);
  } catch (error) {
    if (!(error instanceof CliFailure)) throw error;
    throw new CliFailure(`Failed in parsing snapshot param \`${value}'`, { cause: error });
  }
  found.readOnly = true;
}

function takeAio(found: NbdArguments, mode: string): void {
  if (found.aio !== undefined) throw new CliFailure('--aio can only be specified once');
  if (!['threads', 'native', 'io_uring'].includes(mode)) throw new CliFailure(`Invalid aio mode '${mode}'`);
  found.aio = mode;
}

function takeDiscard(found: NbdArguments, mode: string): void {
  if (found.discard !== undefined) throw new CliFailure('--discard can only be specified once');
  if (!['off', 'ignore', 'on', 'unmap'].includes(mode))
    throw new CliFailure(`Invalid discard mode \`${mode}'`);
  found.discard = mode === 'on' || mode === 'unmap';
}

function takeCache(found: NbdArguments, mode: string): void {
  if (found.cache !== undefined) throw new CliFailure('-n and --cache can only be specified once');
  if (!isCacheMode(mode)) throw new CliFailure(`Invalid cache mode \`${mode}'`);
  found.cache = mode;
}

function takeDetectZeroes(found: NbdArguments, mode: string): void {
  if (mode !== 'off' && mode !== 'on' && mode !== 'unmap') {
    throw new CliFailure(`Failed to parse detect_zeroes mode: invalid parameter value: ${mode}`);
  }
  if (mode === 'unmap' && !found.discard) {
    throw new CliFailure(
      'setting detect-zeroes to unmap is not allowed without setting discard operation to unmap',
    );
  }
  found.detectZeroes = mode;
}

/** A number as strtoull reads one with base 0: decimal, 0x hexadecimal, 0 octal; undefined for anything else. */
function unsigned(text: string): number | undefined {
  const match = /^[ \t\n\v\f\r]*\+?(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)$/.exec(text);
  if (!match) return undefined;
  const [, digits] = match;
  const value = /^0[0-7]+$/.test(digits) ? Number.parseInt(digits, 8) : Number(digits);
  return Number.isSafeInteger(value) ? value : undefined;
}

function fail(message: string): never {
  throw new CliFailure(message);
}

/** glibc's words for an option that cannot be. */
function whatIsWrong(key: string, { shown, argv, optind }: Getopt): string {
  if (shown.startsWith('--')) {
    const [name] = shown.slice(2).split('=');
    if (key === ':') return `option '--${fullName(name)}' requires an argument`;
    const candidates = long.filter((option) => option.name.startsWith(name));
    if (long.some((option) => option.name === name) || candidates.length === 1) {
      return `option '--${fullName(name)}' doesn't allow an argument`;
    }
    if (candidates.length === 0) return `unrecognized option '${shown}'`;
    const possible = candidates.map((option) => `'--${option.name}'`).join(' ');
    return `option '${shown}' is ambiguous; possibilities: ${possible}`;
  }
  if (key === ':') return `option requires an argument -- '${shown.slice(-1)}'`;
  // In a cluster that goes on, the word has not been left yet.
  const word = shown.startsWith('-') && !shown.startsWith('--') ? shown : (argv[optind] ?? shown);
  const unknown = [...word.slice(1)].find((character) => !short.replaceAll(':', '').includes(character));
  return `invalid option -- '${unknown ?? word.slice(1)}'`;
}

function fullName(name: string): string {
  return long.find((option) => option.name.startsWith(name))?.name ?? name;
}
