import type { OptionValues, ResizeOptions } from '../../src/formats/driver.ts';
import type { Random } from './random.ts';

type Preallocation = NonNullable<ResizeOptions['preallocation']>;

/** What a format's images know, besides reads, writes, zeroes, discards and flushes. */
export interface Abilities {
  /** The modes in which an image grows; empty: it is never resized. */
  readonly resize?: readonly Preallocation[];
  /** False: it only grows. */
  readonly shrinks?: false;
  /** The size is no field but the file's own: a cut may leave it anywhere on the way. */
  readonly sizeOfFile?: boolean;
  /** What the file grew by is ciphertext: until it is flushed, holes that a cut leaves there decrypt to anything. */
  readonly growsScrambled?: boolean;
  /** What its check can repair; default nothing. */
  readonly repairs?: readonly ('leaks' | 'all')[];
  /** It has a log, which QEMU replays only when it may write. */
  readonly log?: boolean;
  /**
   * False: a cut within a commit can leave an overlay that is refused, since its idea of its parent's content and that
   * content are in two files.
   */
  readonly commits?: false;
  readonly snapshots?: boolean;
  readonly bitmaps?: boolean;
  /** Units can be stored packed, also over what is there. */
  readonly packs?: boolean;
  /** Options that `amend` may be asked to change; what cannot be may be refused. */
  readonly amend?: (random: Random) => OptionValues;
  /** How qemu-img is told to open the file `image`; default `-f FORMAT image`. */
  readonly opening?: readonly string[];
}

/** By the driver's name. A format that is not here is only written to. */
const known: Readonly<Record<string, Abilities>> = {
  raw: { resize: ['off', 'falloc', 'full'], sizeOfFile: true },
  luks: { resize: ['off'], sizeOfFile: true, growsScrambled: true },
  qcow2: {
    resize: ['off', 'metadata', 'falloc', 'full'],
    repairs: ['leaks', 'all'],
    snapshots: true,
    bitmaps: true,
    packs: true,
    amend: (random) =>
      random.weighted<OptionValues>([
        [2, { refcount_bits: random.pick([1, 2, 4, 8, 16, 32, 64]) }],
        [1, { compat: '1.1' }],
        [1, { compat: '0.10' }],
        [1, { lazy_refcounts: random.chance(0.5) }],
      ]),
  },
  vdi: { repairs: ['leaks', 'all'] },
  vpc: { repairs: ['leaks', 'all'] },
  vhdx: { repairs: ['leaks', 'all'], log: true },
  qed: { resize: ['off'], shrinks: false, repairs: ['leaks', 'all'] },
  vmdk: { commits: false },
  parallels: { repairs: ['leaks', 'all'] },
};

export function abilitiesOf(format: string): Abilities {
  return known[format] ?? {};
}
