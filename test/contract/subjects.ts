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
}

/** Options of the default shape, where a format without any would round the sizes that the contract asks for. */
const defaults: Readonly<Record<string, OptionValues>> = { vpc: { force_size: true } };

/** Creation options beyond a format's default, which change how it lays things out. */
const variants: Readonly<Record<string, readonly OptionValues[]>> = {
  raw: [{ preallocation: 'falloc' }],
  vdi: [{ static: true }],
  qcow2: [
    { cluster_size: 512 },
    { cluster_size: 4096, refcount_bits: 1 },
    { cluster_size: 2 << 20 },
    { compat: '0.10' },
    { compat: '0.10', cluster_size: 1024 },
    { lazy_refcounts: true, cluster_size: 8192 },
    { preallocation: 'metadata', refcount_bits: 64 },
  ],
  vpc: [{ subformat: 'fixed' }],
};

/** Every format that can be created, by being listed, in its default shape and in others. */
export const subjects: readonly Subject[] = formats
  .filter((driver) => driver.create)
  .flatMap((driver) =>
    [{}, ...(variants[driver.name] ?? [])].map((variant: OptionValues) => ({
      name: [driver.name, ...Object.entries(variant).map(([key, value]) => `${key}=${value}`)].join(' '),
      driver,
      options: { ...defaults[driver.name], ...variant },
      plain: Object.keys(variant).length === 0,
      unprobed: driver.name === 'vpc' && variant.subformat === 'fixed',
    })),
  );

/** Subjects that can stand on a backing image. */
export const overlays = subjects.filter(
  ({ driver, options }) =>
    driver.createOptions.some(({ name }) => name === 'backing_file') &&
    (options.preallocation ?? 'off') === 'off',
);
