import type { SnapshotSelector } from '../formats/driver.ts';
import { isCacheMode } from './cache-mode.ts';
import type { CliContext } from './context.ts';
import { CliFailure } from './failure.ts';
import { ImageArguments } from './image-arguments.ts';
import { joinOptionLists } from './options.ts';
import { progressStyle } from './progress.ts';
import { sizeArgument } from './sizes.ts';
import { snapshotArgument } from './snapshot-argument.ts';
import { flag, readOptions, valued } from './verb-options.ts';

const sectorBytes = 512n;
const largestSparse = 32768n * sectorBytes;
const mostRequests = 16;

/** What `convert` was asked for. */
export interface ConvertArguments {
  readonly images: ImageArguments;
  sourceFormat?: string;
  targetFormat: string;
  targetFormatGiven: boolean;
  /** The target's name is a list of options. */
  targetImageOptions: boolean;
  /** `-B`, or undefined; `-o backing_file` is among the options. */
  backingFile?: string;
  backingFormat?: string;
  optionList?: string;
  snapshot?: SnapshotSelector;
  /** Bytes; undefined: the default. */
  sparseBytes?: number;
  compress: boolean;
  verbatim: boolean;
  progress: boolean;
  progressStyle?: 'json';
  quiet: boolean;
  /** `-n`: the target is there already. */
  intoExisting: boolean;
  targetIsZero: boolean;
  unordered: boolean;
  share: boolean;
  /** The sources are packed files (gzip, xz, zstd, bzip2). */
  decompress: boolean;
  salvage: boolean;
  bitmaps: boolean;
  skipBrokenBitmaps: boolean;
  force: boolean;
  requests?: number;
  bytesPerSecond?: number;
  cache: string;
  sourceCache: string;
  operands: string[];
}

/** Reads the command line of `convert` and refuses what goes ill together, in qemu-img's order and words. */
export function readConvertArguments(args: readonly string[], context: CliContext): ConvertArguments {
  const images = new ImageArguments(context);
  const wish: ConvertArguments = {
    images,
    targetFormat: 'raw',
    targetFormatGiven: false,
    targetImageOptions: false,
    compress: false,
    verbatim: false,
    progress: false,
    quiet: false,
    intoExisting: false,
    targetIsZero: false,
    unordered: false,
    share: false,
    decompress: false,
    salvage: false,
    bitmaps: false,
    skipBrokenBitmaps: false,
    force: false,
    cache: 'unsafe',
    sourceCache: 'writeback',
    operands: [],
  };
  const set: Readonly<Record<string, (value: string) => void>> = {
    f: (value) => (wish.sourceFormat = value),
    O: (value) => {
      wish.targetFormat = value;
      wish.targetFormatGiven = true;
    },
    B: (value) => (wish.backingFile = value),
    F: (value) => (wish.backingFormat = value),
    C: () => (wish.verbatim = true),
    c: () => (wish.compress = true),
    o: (value) => (wish.optionList = joinOptionLists(wish.optionList, value)),
    l: (value) => (wish.snapshot = snapshotArgument(context, value)),
    S: (value) => (wish.sparseBytes = sparseSize(context, value)),
    p: () => (wish.progress = true),
    progress: (value) => (wish.progressStyle = progressStyle(value)),
    t: (value) => (wish.cache = value),
    T: (value) => (wish.sourceCache = value),
    q: () => (wish.quiet = true),
    n: () => (wish.intoExisting = true),
    m: (value) => (wish.requests = requestCount(value)),
    W: () => (wish.unordered = true),
    U: () => (wish.share = true),
    r: (value) => (wish.bytesPerSecond = Number(sizeArgument(context, 'rate limit', value))),
    'target-image-opts': () => (wish.targetImageOptions = true),
    decompress: () => (wish.decompress = true),
    salvage: () => (wish.salvage = true),
    'target-is-zero': () => (wish.targetIsZero = true),
    bitmaps: () => (wish.bitmaps = true),
    'skip-broken-bitmaps': () => (wish.skipBrokenBitmaps = true),
    'corrupt-dependents': () => (wish.force = true),
  };
  wish.operands = readOptions(
    args,
    'f:O:B:CcF:o:l:S:pt:T:qnm:WUr:',
    [
      ...ImageArguments.options,
      valued('progress'),
      flag('force-share', 'U'),
      flag('target-image-opts'),
      flag('decompress'),
      flag('salvage'),
      flag('target-is-zero'),
      flag('bitmaps'),
      flag('skip-broken-bitmaps'),
      flag('corrupt-dependents'),
    ],
    (key, value) => images.take(key, value) || set[key](value),
  );
  refuseContradictions(wish);
  return wish;
}

function refuseContradictions(wish: ConvertArguments): void {
  const rules: readonly (readonly [boolean, string])[] = [
    [wish.skipBrokenBitmaps && !wish.bitmaps, 'Use of --skip-broken-bitmaps requires --bitmaps'],
    [wish.compress && wish.verbatim, 'Cannot enable copy offloading when -c is used'],
    [wish.sparseBytes !== undefined && wish.verbatim, 'Cannot enable copy offloading when -S is used'],
    [wish.verbatim && wish.salvage, 'Cannot use copy offloading in salvaging mode'],
    [wish.decompress && wish.verbatim, 'Cannot enable copy offloading when --decompress is used'],
    [wish.decompress && wish.images.imageOptions, 'Cannot use --image-opts with --decompress'],
    [wish.targetImageOptions && !wish.intoExisting, '--target-image-opts requires use of -n flag'],
    [wish.intoExisting && wish.optionList !== undefined, '-o has no effect when skipping image creation'],
    [wish.targetIsZero && !wish.intoExisting, '--target-is-zero requires use of -n flag'],
  ];
  for (const [broken, message] of rules) if (broken) throw new CliFailure(message);
}

/** What can be refused only after `-o help` has been looked for. */
export function checkOperands(wish: ConvertArguments): void {
  if (wish.operands.length < 2) throw new CliFailure('Must specify image file name');
  if (!isCacheMode(wish.sourceCache)) {
    throw new CliFailure(`Invalid source cache option: ${wish.sourceCache}`);
  }
}

function sparseSize(context: CliContext, text: string): number {
  const bytes = sizeArgument(context, 'buffer size for sparse output', text);
  if (bytes % sectorBytes === 0n && bytes <= largestSparse) return Number(bytes);
  throw new CliFailure(
    'Invalid buffer size for sparse output specified. Valid sizes are multiples of 512 up to ' +
      `${largestSparse}. Select 0 to disable sparse detection (fully allocates output).`,
  );
}

/** C's strtol with base 0. */
function requestCount(text: string): number {
  const match = /^[ \t\n\v\f\r]*\+?(?:(0[xX][0-9a-fA-F]+)|(0[0-7]*)|([1-9][0-9]*))$/.exec(text);
  const count = match ? Number(match[1] ?? (match[2] ? Number.parseInt(match[2], 8) : match[3])) : 0;
  if (count >= 1 && count <= mostRequests) return count;
  throw new CliFailure(
    `Invalid number of coroutines. Allowed number of coroutines is between 1 and ${mostRequests}`,
  );
}
