import { drawOperations } from './operations.ts';
import type { Random } from './random.ts';
import { type BackingPlan, fileNames, type Scenario } from './session.ts';

const KiB = 1024;
const MiB = 1024 * KiB;

/** A kind of image that is put to the test. */
export interface Subject {
  /** For the names of tests. */
  readonly name: string;
  /** Its share of the states, against the others. */
  readonly share: number;
  /** False: QEMU cannot open such images. */
  readonly qemu?: false;
  /** Creation options, size and so on of one image; its operations are drawn by `drawScenario`. */
  draw(random: Random): Omit<Scenario, 'operations'> & { readonly grain: number };
}

/**
 * Every kind of image that we write. A new format is one more entry here, and one in abilities.ts for what its images
 * know besides being written to. A format of several files needs nothing more: all files of an image share one record,
 * and the power is cut for all of them at once. `COWHERD_CRASH_SUBJECT` picks subjects by a part of their names.
 */
export const subjects: readonly Subject[] = [
  {
    name: 'raw',
    share: 1,
    draw: (random) => ({
      format: 'raw',
      size: random.between(1, 600) * 512,
      options: random.chance(0.3) ? { preallocation: random.pick(['falloc', 'full']) } : {},
      grain: 4096,
    }),
  },
  {
    name: 'qcow2',
    share: 4,
    draw: (random) => {
      const { clusterSize, size } = drawGeometry(random);
      return { format: 'qcow2', size, options: drawQcow2(random, clusterSize), grain: clusterSize };
    },
  },
  {
    name: 'qcow2 over a backing image',
    share: 3,
    draw: (random) => {
      const { clusterSize, size } = drawGeometry(random);
      const options = { ...drawQcow2(random, clusterSize), preallocation: undefined };
      return { format: 'qcow2', size, options, grain: clusterSize, ...drawChain(random, size) };
    },
  },
  {
    name: 'qcow2 with lazy refcounts',
    share: 2,
    draw: (random) => {
      const { clusterSize, size } = drawGeometry(random);
      const chain = random.chance(0.3) ? drawChain(random, size) : {};
      const drawn = { ...drawQcow2(random, clusterSize), compat: '1.1', lazy_refcounts: true };
      const options = !('backing' in chain) ? drawn : { ...drawn, preallocation: undefined };
      return { format: 'qcow2', size, options, grain: clusterSize, ...chain };
    },
  },
  {
    name: 'vdi',
    share: 1,
    draw: (random) => ({
      format: 'vdi',
      size: random.between(1, 4500) * 512,
      options: random.chance(0.2) ? { static: true } : {},
      grain: MiB,
    }),
  },
  {
    name: 'qcow',
    share: 1,
    draw: (random) => {
      const size = random.between(1, 1500) * 512;
      const chain = random.chance(0.5) ? drawChain(random, size) : {};
      return { format: 'qcow', size, options: {}, grain: 'backing' in chain ? 512 : 4096, ...chain };
    },
  },
  {
    name: 'qed',
    share: 1,
    draw: (random) => {
      const size = random.between(1, 2000) * 512;
      const grain = random.pick([4096, 8192]);
      const options = { cluster_size: grain, table_size: random.pick([2, 4]) };
      return { format: 'qed', size, options, grain, ...(random.chance(0.5) ? drawChain(random, size) : {}) };
    },
  },
  {
    name: 'parallels',
    share: 1,
    draw: (random) => {
      const grain = random.pick([512, 4096, 10_240]);
      return {
        format: 'parallels',
        size: random.between(1, 1500) * 512,
        options: { cluster_size: grain },
        grain,
      };
    },
  },
  {
    name: 'vpc',
    share: 1,
    draw: (random) => ({
      format: 'vpc',
      size: random.between(1, 10_000) * 512,
      options: { force_size: true, subformat: random.chance(0.15) ? 'fixed' : 'dynamic' },
      grain: 2 * MiB,
    }),
  },
  {
    name: 'vhdx',
    share: 1,
    draw: (random) => ({
      format: 'vhdx',
      size: random.between(1, 8000) * 512,
      options: {
        block_size: MiB,
        block_state_zero: random.chance(0.5),
        subformat: random.chance(0.15) ? 'fixed' : 'dynamic',
      },
      grain: MiB,
    }),
  },
  {
    name: 'vpc over a parent',
    share: 1,
    qemu: false,
    draw: (random) => {
      const size = random.between(1, 10_000) * 512;
      return {
        format: 'vpc',
        size,
        options: { force_size: true },
        grain: 2 * MiB,
        backing: drawOwnBacking(random, size, 'vpc'),
      };
    },
  },
  {
    name: 'vhdx over a parent',
    share: 1,
    qemu: false,
    draw: (random) => {
      const size = random.between(1, 8000) * 512;
      return {
        format: 'vhdx',
        size,
        options: { block_size: MiB },
        grain: MiB,
        backing: drawOwnBacking(random, size, 'vhdx'),
      };
    },
  },
  {
    name: 'qcow2 with subclusters',
    share: 2,
    draw: (random) => {
      const { clusterSize, size } = drawGeometry(random, 16 * KiB);
      const drawn = { ...drawQcow2(random, clusterSize), ...drawModern(random), extended_l2: true };
      const chain = random.chance(0.5) ? drawChain(random, size) : {};
      const options =
        !('backing' in chain) || random.chance(0.2) ? drawn : { ...drawn, preallocation: undefined };
      return { format: 'qcow2', size, options, grain: clusterSize, ...chain };
    },
  },
  {
    name: 'qcow2 with a data file',
    share: 2,
    draw: (random) => {
      const extended = random.chance(0.3);
      const { clusterSize, size } = drawGeometry(random, extended ? 16 * KiB : 512);
      const raw = random.chance(0.4);
      const chain = !raw && random.chance(0.4) ? drawChain(random, size) : {};
      const drawn = { ...drawQcow2(random, clusterSize), ...drawModern(random) };
      const options = {
        ...drawn,
        extended_l2: extended,
        data_file: fileNames.data,
        data_file_raw: raw,
        preallocation: 'backing' in chain ? undefined : drawn.preallocation,
      };
      return { format: 'qcow2', size, options, grain: clusterSize, ...chain };
    },
  },
  {
    name: 'luks',
    share: 0.1,
    draw: (random) => ({
      format: 'luks',
      size: random.between(1, 600) * 512,
      options: quickLuks(''),
      layerOptions: { 'key-secret': 's' },
      grain: 512,
    }),
  },
  {
    name: 'qcow2 with LUKS',
    share: 0.1,
    draw: (random) => {
      const { clusterSize, size } = drawGeometry(random);
      const chain = random.chance(0.4) ? drawChain(random, size) : {};
      return {
        format: 'qcow2',
        size,
        options: { cluster_size: clusterSize, 'encrypt.format': 'luks', ...quickLuks('encrypt.') },
        layerOptions: { 'encrypt.key-secret': 's' },
        grain: clusterSize,
        ...chain,
      };
    },
  },
  {
    name: 'vmdk over a parent',
    share: 1,
    draw: (random) => {
      const size = random.between(1, 3000) * 512;
      return {
        format: 'vmdk',
        size,
        options: { zeroed_grain: random.chance(0.5) },
        grain: 64 * KiB,
        backing: drawOwnBacking(random, size, 'vmdk'),
      };
    },
  },
  {
    name: 'vmdk',
    share: 2,
    draw: (random) => {
      const size = random.between(1, 3000) * 512;
      const subformat = random.pick([
        'monolithicSparse',
        'monolithicFlat',
        'twoGbMaxExtentSparse',
        'twoGbMaxExtentFlat',
      ]);
      const flat = subformat.endsWith('Flat');
      const options = { subformat, zeroed_grain: !flat && random.chance(0.5) };
      return {
        format: 'vmdk',
        size,
        options,
        grain: flat ? 4096 : 64 * KiB,
      };
    },
  },
];

/* A stream is written once, from its start to its end, and is as whole as its last close: src/formats/vmdk/stream.test.ts. */

/** An image of the subject and what is done to it. */
export function drawScenario(random: Random, subject: Subject, operationCount: number): Scenario {
  const { grain, ...image } = subject.draw(random);
  const operations = drawOperations(
    random,
    {
      size: image.size,
      grain,
      format: image.format,
      dataFile: image.options.data_file !== undefined,
      encrypted: image.options['encrypt.format'] !== undefined,
      backingSize: image.backing?.size ?? 0,
      maxSize: 4 * MiB,
    },
    operationCount,
  );
  return { ...image, operations };
}

/** Sizes small enough to be read whole for every state, and large enough to need several tables. */
function drawGeometry(random: Random, least = 512): { clusterSize: number; size: number } {
  const drawn = random.weighted([
    [24, 512],
    [12, 1 * KiB],
    [8, 2 * KiB],
    [16, 4 * KiB],
    [8, 16 * KiB],
    [12, 64 * KiB],
    // Its tables have 262,144 entries: a state takes a hundred times longer.
    [1, 2 * MiB],
  ]);
  const clusterSize = Math.max(drawn, least);
  const limit = clusterSize === 512 && random.chance(0.3) ? 3 * MiB : clusterSize < 64 * KiB ? MiB : 2 * MiB;
  const size = clusterSize === 2 * MiB ? 4 * MiB : random.between(16, limit / 512) * 512;
  return { clusterSize, size };
}

/** A header that takes no time to open. */
function quickLuks(prefix: string): Readonly<Record<string, string | number>> {
  return {
    [`${prefix}key-secret`]: 's',
    [`${prefix}iter-time`]: 0,
    [`${prefix}cipher-alg`]: 'aes-128',
    [`${prefix}hash-alg`]: 'sha1',
  };
}

function drawQcow2(
  random: Random,
  clusterSize: number,
): Record<string, string | number | boolean | undefined> {
  const old = random.chance(0.25);
  return {
    cluster_size: clusterSize,
    compat: old ? '0.10' : '1.1',
    refcount_bits: old
      ? undefined
      : random.weighted([[4, 16] as const, ...[1, 2, 4, 8, 32, 64].map((n) => [1, n] as const)]),
    preallocation: random.weighted([
      [8, undefined],
      [1, 'metadata'],
      [1, 'falloc'],
      [1, 'full'],
    ]),
  };
}

/** What only version 3 has. */
function drawModern(random: Random): Record<string, string | number> {
  return {
    compat: '1.1',
    refcount_bits: random.pick([1, 16, 16, 64]),
    compression_type: random.pick(['zlib', 'zstd']),
  };
}

function drawChain(random: Random, size: number): { backing: BackingPlan; other: BackingPlan } {
  return { backing: drawBacking(random, size), other: drawBacking(random, size) };
}

/** For formats that stand on images of their own format only. */
function drawOwnBacking(random: Random, size: number, format: string): BackingPlan {
  return { ...drawBacking(random, size), format };
}

function drawBacking(random: Random, size: number): BackingPlan {
  const scale = random.pick([0.4, 1, 1, 1.3]);
  return {
    format: random.pick(['raw', 'qcow2']),
    size: Math.max(512, Math.round((size * scale) / 512) * 512),
    stamp: random.word(),
  };
}
