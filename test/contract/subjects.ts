import type { FormatDriver, OptionValues } from '../../src/formats/driver.ts';
import { formats } from '../../src/formats/index.ts';

/** A way of creating images that the contract is held against. */
export interface Subject {
  readonly name: string;
  readonly driver: FormatDriver;
  readonly options: OptionValues;
  /** The format's default shape. */
  readonly plain: boolean;
  /** Nothing in the first bytes of the file tells the format. */
  readonly unprobed: boolean;
  /** Runtime options that its images are opened with. */
  readonly opening: Readonly<Record<string, unknown>>;
}

/** The passphrase of every encrypted image, by whatever id it is asked for. */
export const passphrase = 'correct horse';
export const secret = async (): Promise<Uint8Array> => new TextEncoder().encode(passphrase);

/** Options of the default shape: without them a format makes no image, or rounds the sizes that the contract asks for. */
const defaults: Readonly<Record<string, OptionValues>> = {
  vpc: { force_size: true },
  luks: { 'key-secret': 's', 'iter-time': 0, 'cipher-alg': 'aes-128' },
};

/** Creation options beyond a format's default, which change how it lays things out. */
const variants: Readonly<Record<string, readonly OptionValues[]>> = {
  raw: [{ preallocation: 'falloc' }],
  luks: [{ 'cipher-mode': 'cbc', 'ivgen-alg': 'essiv', 'hash-alg': 'sha1' }],
  vdi: [{ static: true }],
  qed: [{ cluster_size: 4096, table_size: 2 }],
  parallels: [{ cluster_size: 4096 }],
  qcow2: [
    { cluster_size: 512 },
    { cluster_size: 4096, refcount_bits: 1 },
    { cluster_size: 2 << 20 },
    { compat: '0.10' },
    { compat: '0.10', cluster_size: 1024 },
    { lazy_refcounts: true, cluster_size: 8192 },
    { preallocation: 'metadata', refcount_bits: 64 },
    { compression_type: 'zstd', cluster_size: 32768 },
    { data_file: 'guest data', cluster_size: 4096 },
    { data_file: 'guest data', data_file_raw: true },
    { data_file: 'guest data', extended_l2: true, cluster_size: 16384 },
    { extended_l2: true, cluster_size: 16384 },
    { extended_l2: true, lazy_refcounts: true, compression_type: 'zstd' },
    {
      'encrypt.format': 'luks',
      'encrypt.key-secret': 's',
      'encrypt.iter-time': 0,
      'encrypt.cipher-alg': 'aes-128',
      cluster_size: 4096,
    },
  ],
  vpc: [{ subformat: 'fixed' }],
  // A stream is written once, and packed: src/formats/vmdk/stream.test.ts.
  vmdk: [
    { zeroed_grain: true },
    { subformat: 'monolithicFlat' },
    { subformat: 'twoGbMaxExtentSparse' },
    { subformat: 'twoGbMaxExtentFlat' },
  ],
  vhdx: [{ block_size: 1 << 20, block_state_zero: false }, { subformat: 'fixed' }],
};

/** Every format that can be created, by being listed, in its default shape and in others. */
export const subjects: readonly Subject[] = formats
  .filter((driver) => driver.create)
  .flatMap((driver) =>
    [{}, ...(variants[driver.name] ?? [])].map((variant: OptionValues) => {
      const options = { ...defaults[driver.name], ...variant };
      return {
        name: [driver.name, ...Object.entries(variant).map(([key, value]) => `${key}=${value}`)].join(' '),
        driver,
        options,
        plain: Object.keys(variant).length === 0,
        unprobed: driver.name === 'vpc' && variant.subformat === 'fixed',
        opening: openingOf(options),
      };
    }),
  );

/** Subjects that need no other file than their own. */
export const singles = subjects.filter(
  ({ options: { data_file, subformat } }) =>
    data_file === undefined && !/Flat|twoGb/.test(String(subformat ?? '')),
);

/** Subjects that can stand on a backing image. */
export const overlays = subjects.filter(
  ({ driver, options }) =>
    driver.createOptions.some(({ name }) => name === 'backing_file') &&
    (options.preallocation ?? 'off') === 'off' &&
    options.data_file_raw !== true &&
    !/Flat$|^fixed$/.test(String(options.subformat ?? '')),
);

/** Formats that stand on images of their own format only. */
export const ownBackingOnly: readonly string[] = ['vmdk', 'vpc', 'vhdx'];

/** Formats whose images QEMU reads, but not those that stand on others. */
export const differencing: readonly string[] = ['vpc', 'vhdx'];

function openingOf(options: OptionValues): Readonly<Record<string, unknown>> {
  return Object.fromEntries(Object.entries(options).filter(([name]) => name.endsWith('key-secret')));
}
