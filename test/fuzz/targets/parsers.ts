import { posix } from 'node:path';
import { constants, deflateRawSync, inflateRawSync } from 'node:zlib';
import { CliFailure } from '../../../src/cli/failure.ts';
import { Getopt } from '../../../src/cli/getopt.ts';
import { joinOptionLists, parseOptions, splitOptions, wantsHelp } from '../../../src/cli/options.ts';
import { humanSize, parseSize, sizeArgument } from '../../../src/cli/sizes.ts';
import { findCodec } from '../../../src/codecs/codec.ts';
import { inflate } from '../../../src/codecs/inflate.ts';
import { DiskError, isDiskError } from '../../../src/errors.ts';
import { qcow2 } from '../../../src/formats/qcow2/index.ts';
import { assertAllowed, untrustedImages } from '../../../src/image/policy.ts';
import { combineReference, parseReference, requireFile } from '../../../src/image/reference.ts';
import { assemble } from '../../../src/lab/guest/assembler/assemble.ts';
import { seatListing } from '../../../src/lab/guest/seat-asm.ts';
import { selectSeats } from '../../../src/lab/selection.ts';
import { parseLab } from '../../../src/lab/spec/load.ts';
import { registerZlibCodec } from '../../../src/platform/zlib-codec.ts';
import type { Random } from '../../crash/random.ts';
import { stamped } from '../../crash/session.ts';
import { testContext } from '../../support/cli-context.ts';
import { Broken, type Input, type Target } from '../target.ts';
import { mutateText } from './text.ts';

/** A parser of one text, which may throw DiskError or the command line's own CliFailure. */
export function textTarget(
  name: string,
  share: number,
  samples: readonly string[],
  tokens: readonly string[],
  parse: (text: string) => unknown,
): Target {
  return {
    name,
    share,
    draw: (random) => mutateText(random, samples, tokens),
    async run(input) {
      try {
        await parse(input as string);
        return 'accepted';
      } catch (error) {
        if (isDiskError(error) || error instanceof CliFailure) return 'refused';
        throw error;
      }
    },
  };
}

const labSamples = [
  'lab: networking-101\nmaster: masters/debian-12.qcow2\nseats: 40\n',
  'lab: a\nmaster: {path: m.raw, format: raw}\nseats: [anna, ben, "cem-1"]\nmemory: 512M\ncpus: 2\n',
  `# class\nlab: "x"\nmaster: m\nseats: {count: 12, name: 'pc-{nn}'}\nnetwork: {bridge: br0}\ndisk:\n  size: 40G\n  bus: ide\n`,
  'lab: &a x\nmaster: *a\nseats:\n  - one\n  - two\nguard: immutable\nguest: demo\ngraphics: vnc\ncdrom: a.iso\n',
];
const labTokens = [
  ': ',
  '\n',
  '- ',
  '[',
  ']',
  '{',
  '}',
  '"',
  "'",
  '&a ',
  '*a',
  '!!binary ',
  '!!set',
  '? ',
  '|',
  '>',
  '---\n',
  '...\n',
  '%YAML 1.1\n',
  '<<: *a\n',
  '\t',
  '#',
  '~',
  'null',
  'true',
  'seats',
  'lab: ',
  '{nn}',
  '{n}',
  '0o17',
  '.inf',
  '.nan',
  '__proto__: ',
  'constructor: ',
  '2024-01-01',
  '\\x00',
  ', ',
];

const asmTokens = [
  'mov ',
  'ax',
  ', ',
  '[',
  ']',
  'equ ',
  'times ',
  'db ',
  'dw ',
  '$',
  '$$',
  '(',
  ')',
  '+',
  '-',
  '*',
  '/',
  '%',
  '<<',
  '>>',
  '~',
  '0x',
  "'",
  ';',
  ':',
  '.loop',
  'org ',
  'bits 16',
  'rep ',
  'word ',
  'byte ',
  '\n',
  ' ',
  'jmp ',
  'label',
  'dx',
  'es:',
  '-1',
  '1 / 0',
  '&',
  '|',
  '^',
];

const sizeSamples = ['1G', '1.5k', '0x200', '4096', '+512', ' 7', '64k', '2E'];
const optionSamples = [
  'cluster_size=64k,compat=1.1',
  'backing_file=a,,b,backing_fmt=raw,size=1G',
  'preallocation=full,lazy_refcounts,refcount_bits=16',
  'help',
  'nolazy_refcounts,?,extended_l2=on',
];
const nameSamples = [
  'a.qcow2',
  '/var/lib/images/x.img',
  'file:a:b',
  'json:{"driver":"qcow2","file":{"filename":"x"}}',
  'nbd://localhost:10809/x',
  'nbd:unix:/tmp/s:exportname=a',
  '../up/x',
  './nbd:x',
  'host_device:/dev/sda',
  'https://example.org/x.img?a=b',
  'blkdebug::x',
];
const argumentSamples = [
  'convert -f raw -Oqcow2 -o cluster_size=4k -- a b',
  '-qpc --target-format=qcow2 a',
  '--out json -U --image-opts x',
  '-S 4k -m8 -W -n a b c',
];
const argumentTokens = [
  '-',
  '--',
  ' ',
  '=',
  '-f',
  '-O',
  '--output',
  '--o',
  '-o',
  '?',
  'help',
  '--backing-chain',
  ' -- ',
  '-h',
  '-r',
  'all',
  '--force',
];

const seats = Array.from({ length: 40 }, (_, i) => `student-${String(i + 1).padStart(2, '0')}`);

/** What everyone can hand us as text. */
export const textTargets: readonly Target[] = [
  textTarget('lab file', 3, labSamples, labTokens, (text) =>
    parseLab(text, { name: 'lab.yaml', file: '/lab/lab.yaml' }),
  ),
  textTarget(
    'assembler',
    3,
    [seatListing, 'start: mov ax, [bx+si+4]\n times 510-($-$$) db 0\n'],
    asmTokens,
    (text) => {
      const { bytes } = assemble(text);
      if (bytes.length > 65_536) throw new Broken(`${bytes.length} bytes of code`);
    },
  ),
  textTarget('sizes', 2, sizeSamples, ['0', 'x', '.', 'k', 'M', 'e', '-', '+', ' '], (text) => {
    const parsed = parseSize(text);
    if (parsed.kind === 'size') {
      if (parsed.bytes < 0n || parsed.bytes >= 1n << 64n) throw new Broken(`${text} is ${parsed.bytes}`);
      humanSize(parsed.bytes);
    }
    return sizeArgument(testContext(), 'image size', text);
  }),
  textTarget(
    'creation options',
    2,
    optionSamples,
    [',', '=', ',,', 'no', 'cluster_size=', 'size=', 'on', 'off', '0x', '-1'],
    (text) => {
      splitOptions(text);
      wantsHelp(text);
      return parseOptions(testContext(), qcow2.createOptions, joinOptionLists(undefined, text));
    },
  ),
  textTarget(
    'image names',
    2,
    nameSamples,
    [':', '/', '..', '//', 'json:', 'file:', 'nbd:', '{', '?', '%00', '@'],
    async (text) => {
      const reference = parseReference(text);
      if (
        reference.kind === 'file' &&
        combineReference('/pool/a/x.qcow2', text).length === 0 &&
        text !== ''
      ) {
        throw new Broken('the name has vanished');
      }
      let allowed = true;
      try {
        await assertAllowed(text, { name: '/pool/a/x.qcow2', depth: 0, role: 'backing' }, untrustedImages);
      } catch (error) {
        if (!isDiskError(error)) throw error;
        allowed = false;
      }
      const path = requireFile(combineReference('/pool/a/x.qcow2', text));
      const resolved = posix.normalize(path);
      if (allowed && !resolved.startsWith('/pool/a/')) throw new Broken(`a stranger may name ${resolved}`);
    },
  ),
  textTarget('arguments', 2, argumentSamples, argumentTokens, (text) => {
    const words = ['cow-img', ...text.split(' ')];
    const options = new Getopt(words, ':hf:O:o:qpcS:m:WnUr:b::', [
      { name: 'help', argument: 'none', key: 'h' },
      { name: 'output', argument: 'required', key: 'output' },
      { name: 'object', argument: 'required', key: 'object' },
      { name: 'image-opts', argument: 'none', key: 'image-opts' },
      { name: 'force', argument: 'optional', key: 'force' },
    ]);
    let left = text.length + words.length + 2;
    let wrong = false;
    for (let found = options.next(); found !== undefined; found = options.next()) {
      wrong ||= found.key === '?' || found.key === ':';
      left -= 1;
      if (left < 0) throw new Broken('the options never end');
    }
    const before = [...words].sort().join('\0');
    if ([...options.argv].sort().join('\0') !== before) throw new Broken('words were lost or made up');
    if (options.optind > words.length) throw new Broken(`optind is ${options.optind} of ${words.length}`);
    options.operands();
    if (wrong) throw new DiskError('bad-argument', 'An option is unknown, or its argument is missing');
  }),
  textTarget(
    'seat selection',
    2,
    ['student-03,student-10..17', 'all', 'student-*', 'student-0?,x'],
    ['*', '?', '..', ',', '-', '0', 'student-', '(', '\\'],
    (text) => selectSeats([text], seats),
  ),
];

interface Packed {
  readonly hex: string;
  readonly length: number;
}

const contents = [
  stamped(1, 4096),
  new Uint8Array(65_536),
  new TextEncoder().encode(seatListing.repeat(3)),
  Uint8Array.from({ length: 20_000 }, (_, i) => (i % 97 < 50 ? i % 7 : i % 251)),
];

/** Raw deflate data, judged by zlib. */
export const deflateTarget: Target = {
  name: 'deflate',
  share: 3,
  async prepare() {
    registerZlibCodec();
  },
  draw(random: Random): Packed {
    const content = random.pick(contents);
    const packed = new Uint8Array(
      deflateRawSync(content, {
        level: random.pick([0, 1, 6, 9]),
        windowBits: random.pick([9, 12, 15]),
        strategy: random.pick([constants.Z_DEFAULT_STRATEGY, constants.Z_FIXED, constants.Z_HUFFMAN_ONLY]),
      }),
    );
    for (let left = random.pick([0, 1, 1, 2, 8]); left > 0; left -= 1) {
      // The codes stand at the start: a mistake there does most.
      const at = random.below(random.chance(0.5) ? Math.min(80, packed.length) : packed.length);
      packed[at] = random.chance(0.5) ? packed[at]! ^ (1 << random.below(8)) : random.below(256);
    }
    const end = random.chance(0.2) ? random.below(packed.length) : packed.length;
    const length = random.chance(0.7) ? content.length : random.between(1, 70_000);
    return { hex: Buffer.from(packed.subarray(0, end)).toString('hex'), length };
  },
  async run(input: Input) {
    const { hex, length } = input as Packed;
    const packed = new Uint8Array(Buffer.from(hex, 'hex'));
    const ours = new Uint8Array(length);
    const refused = !(await isRead(() => inflate(packed, ours)));
    const theirs = byZlib(packed, length);
    if (refused !== (theirs === undefined))
      throw new Broken(refused ? 'zlib reads it, we do not' : 'we read it, zlib does not');
    if (theirs !== undefined && Buffer.compare(theirs, ours) !== 0)
      throw new Broken('zlib reads other bytes');
    // The codec hands over to other threads, which takes longer than all of the above.
    if (packed.length % 8 === 0) {
      const byCodec = new Uint8Array(length);
      const isSame = (await isRead(() => findCodec('deflate')!.unpack(packed, byCodec))) !== refused;
      if (!isSame || (!refused && Buffer.compare(byCodec, ours) !== 0))
        throw new Broken("zlib's codec gives something else");
    }
    return refused ? 'refused' : 'accepted';
  },
};

/** False: refused with a typed error. */
async function isRead(unpack: () => void | Promise<void>): Promise<boolean> {
  try {
    await unpack();
    return true;
  } catch (error) {
    if (!isDiskError(error)) throw error;
    return false;
  }
}

/**
 * The first `length` bytes; undefined when the data ends before them, or makes no sense before them. What follows
 * them does not matter: so the shortest beginning of the data that holds enough is what is judged.
 */
function byZlib(packed: Uint8Array, length: number): Uint8Array | undefined {
  let low = 0;
  let high = packed.length;
  const enough = (bytes: Uint8Array | undefined) => bytes === undefined || bytes.length >= length;
  const whole = inflated(packed);
  if (whole !== undefined) return whole.length >= length ? whole.subarray(0, length) : undefined;
  while (low < high) {
    const middle = Math.floor((low + high) / 2);
    if (enough(inflated(packed.subarray(0, middle)))) high = middle;
    else low = middle + 1;
  }
  return inflated(packed.subarray(0, high))?.subarray(0, length);
}

/** What zlib makes of the data up to its end; undefined: damaged. */
function inflated(packed: Uint8Array): Uint8Array | undefined {
  try {
    return inflateRawSync(packed, { finishFlush: constants.Z_SYNC_FLUSH, maxOutputLength: 1 << 26 });
  } catch {
    return undefined;
  }
}
