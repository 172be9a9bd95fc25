import { DiskError } from '../../errors.ts';
import type { OptionSpec } from '../driver.ts';
import { geometryOf } from './geometry.ts';
import type { Qcow2Header } from './header.ts';
import type { MetadataKind } from './metadata-map.ts';

/** What `overlap-check.*` switches are called, and which metadata each keeps writes off. */
const overlapSwitches = {
  'main-header': 'qcow2_header',
  'active-l1': 'active L1 table',
  'active-l2': 'active L2 table',
  'refcount-table': 'refcount table',
  'refcount-block': 'refcount block',
  'snapshot-table': 'snapshot table',
  'inactive-l1': 'inactive L1 table',
  'inactive-l2': 'inactive L2 table',
  'bitmap-directory': 'bitmap directory',
} as const satisfies Record<string, MetadataKind>;

type SwitchName = keyof typeof overlapSwitches;
const switchNames = Object.keys(overlapSwitches) as SwitchName[];
const constant: readonly SwitchName[] = [
  'main-header',
  'refcount-table',
  'snapshot-table',
  'bitmap-directory',
];
const templates: Readonly<Record<string, readonly SwitchName[]>> = {
  none: [],
  constant,
  cached: switchNames.filter((name) => name !== 'inactive-l2'),
  all: switchNames,
};

/** Runtime options by QEMU's names. */
export const openOptions: readonly Pick<OptionSpec, 'name' | 'type'>[] = [
  { name: 'lazy-refcounts', type: 'boolean' },
  { name: 'pass-discard-request', type: 'boolean' },
  { name: 'pass-discard-snapshot', type: 'boolean' },
  { name: 'pass-discard-other', type: 'boolean' },
  { name: 'overlap-check', type: 'string' },
  { name: 'overlap-check.template', type: 'string' },
  ...switchNames.map((name) => ({ name: `overlap-check.${name}`, type: 'boolean' as const })),
  { name: 'cache-size', type: 'size' },
  { name: 'l2-cache-size', type: 'size' },
  { name: 'l2-cache-entry-size', type: 'size' },
  { name: 'refcount-cache-size', type: 'size' },
  { name: 'cache-clean-interval', type: 'number' },
  { name: 'encrypt.format', type: 'string' },
  { name: 'encrypt.key-secret', type: 'string' },
];

/** Which freed space goes back to the host. */
export interface DiscardPassing {
  /** What the guest discards. */
  readonly request: boolean;
  /** What only a deleted snapshot held. */
  readonly snapshot: boolean;
  /** What is freed otherwise: clusters that were written elsewhere, tables that moved. */
  readonly other: boolean;
}

export interface RuntimeOptions {
  readonly lazyRefcounts?: boolean;
  readonly discards: DiscardPassing;
  /** Metadata that is kept from being written over. */
  readonly overlaps: ReadonlySet<MetadataKind>;
}

/**
 * What holds where no option says otherwise. QEMU passes requests on where it was opened with `discard=unmap`; here whoever
 * does not want discards does not ask for them.
 */
export const defaultRuntimeOptions: RuntimeOptions = {
  discards: { request: true, snapshot: true, other: false },
  overlaps: overlapKinds(templates.cached),
};

/**
 * Understands the options, sizes of caches aside. Throws `bad-argument` in QEMU's words. The entry size of the L2 cache
 * and the interval in which it is cleaned are looked at and change nothing: tables are loaded whole, within a budget.
 */
export function runtimeOptions(
  options: Readonly<Record<string, unknown>> = {},
  header: Qcow2Header,
  path: string,
): RuntimeOptions {
  const fail = (field: string, message: string): never => {
    throw new DiskError('bad-argument', message, { path, field, detail: { errno: 'EINVAL' } });
  };
  const { clusterSize } = geometryOf(header);
  const entrySize = options['l2-cache-entry-size'];
  if (entrySize !== undefined) {
    const bits = Math.log2(Number(entrySize));
    if (!Number.isInteger(bits) || bits < 9 || 2 ** bits > clusterSize) {
      const message = `L2 cache entry size must be a power of two between 512 and the cluster size (${clusterSize})`;
      fail('l2-cache-entry-size', message);
    }
  }
  const interval = options['cache-clean-interval'];
  if (interval !== undefined && !(Number(interval) >= 0 && Number(interval) <= 0xffff_ffff)) {
    fail('cache-clean-interval', 'Cache clean interval too big');
  }
  const short = options['overlap-check'];
  const long = options['overlap-check.template'];
  if (short !== undefined && long !== undefined && short !== long) {
    fail(
      'overlap-check',
      `Conflicting values for qcow2 options 'overlap-check' ('${short}') and 'overlap-check.template' ('${long}')`,
    );
  }
  const template = String(short ?? long ?? 'cached');
  if (!Object.hasOwn(templates, template)) {
    const message = `Unsupported value '${template}' for qcow2 option 'overlap-check'. Allowed are any of the following: none, constant, cached, all`;
    fail('overlap-check', message);
  }
  const wanted = switchNames.filter(
    (name) => booleanOption(options[`overlap-check.${name}`]) ?? templates[template].includes(name),
  );
  const { discards } = defaultRuntimeOptions;
  const lazyRefcounts = booleanOption(options['lazy-refcounts']);
  if (lazyRefcounts && header.version < 3) {
    const message = 'Lazy refcounts require a qcow2 image with at least qemu 1.1 compatibility level';
    fail('lazy-refcounts', message);
  }
  return {
    lazyRefcounts,
    discards: {
      request: booleanOption(options['pass-discard-request']) ?? discards.request,
      snapshot: booleanOption(options['pass-discard-snapshot']) ?? discards.snapshot,
      other: booleanOption(options['pass-discard-other']) ?? discards.other,
    },
    overlaps: overlapKinds(wanted),
  };
}

function overlapKinds(names: readonly SwitchName[]): ReadonlySet<MetadataKind> {
  const kinds = new Set<MetadataKind>(names.map((name) => overlapSwitches[name]));
  if (kinds.has('bitmap directory')) kinds.add('bitmap table');
  return kinds;
}

function booleanOption(value: unknown): boolean | undefined {
  if (value === true || value === 'on') return true;
  return value === false || value === 'off' ? false : undefined;
}
