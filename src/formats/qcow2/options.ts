import { type LuksPlan, planHeader } from '../../crypto/luks/create.ts';
import { DiskError } from '../../errors.ts';
import type { OptionSpec, OptionValues } from '../driver.ts';
import { luksOptions } from '../encryption.ts';
import { CompressionType, maxClusterBits, minClusterBits } from './constants.ts';

/** Creation options, named and worded as QEMU's `-o help` does. */
export const createOptions: readonly OptionSpec[] = [
  { name: 'backing_file', type: 'string', help: 'File name of a base image' },
  { name: 'backing_fmt', type: 'string', help: 'Image format of the base image' },
  { name: 'cluster_size', type: 'size', help: 'qcow2 cluster size', default: 65536 },
  { name: 'compat', type: 'string', help: 'Compatibility level (v2 [0.10] or v3 [1.1])' },
  {
    name: 'compression_type',
    type: 'string',
    help: 'Compression method used for image cluster compression',
    default: 'zlib',
  },
  { name: 'data_file', type: 'string', help: 'File name of an external data file' },
  { name: 'data_file_raw', type: 'boolean', help: 'The external data file must stay valid as a raw image' },
  { name: 'encrypt.cipher-alg', type: 'string', help: 'Name of encryption cipher algorithm' },
  { name: 'encrypt.cipher-mode', type: 'string', help: 'Name of encryption cipher mode' },
  { name: 'encrypt.format', type: 'string', help: "Encrypt the image, format choices: 'aes', 'luks'" },
  { name: 'encrypt.hash-alg', type: 'string', help: 'Name of encryption hash algorithm' },
  { name: 'encrypt.iter-time', type: 'number', help: 'Time to spend in PBKDF in milliseconds' },
  { name: 'encrypt.ivgen-alg', type: 'string', help: 'Name of IV generator algorithm' },
  { name: 'encrypt.ivgen-hash-alg', type: 'string', help: 'Name of IV generator hash algorithm' },
  {
    name: 'encrypt.key-secret',
    type: 'string',
    help: 'ID of secret providing qcow AES key or LUKS passphrase',
  },
  {
    name: 'encryption',
    type: 'boolean',
    help: "Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)",
  },
  { name: 'extended_l2', type: 'boolean', help: 'Extended L2 tables', default: false },
  { name: 'lazy_refcounts', type: 'boolean', help: 'Postpone refcount updates', default: false },
  {
    name: 'preallocation',
    type: 'string',
    help: 'Preallocation mode (allowed values: off, metadata, falloc, full)',
  },
  { name: 'refcount_bits', type: 'number', help: 'Width of a reference count entry in bits', default: 16 },
  { name: 'size', type: 'size', help: 'Virtual disk size' },
];

export type PreallocationMode = 'off' | 'metadata' | 'falloc' | 'full';

/** The options of a new image, checked and with their defaults. */
export interface Qcow2CreateOptions {
  readonly version: 2 | 3;
  readonly clusterSize: number;
  readonly clusterBits: number;
  readonly refcountOrder: number;
  readonly lazyRefcounts: boolean;
  readonly preallocation: PreallocationMode;
  readonly compressionType: number;
  readonly extendedL2: boolean;
  /** The name of an external data file. */
  readonly dataFile?: string;
  readonly dataFileRaw: boolean;
  /** LUKS: the header to be, and the id of its passphrase. */
  readonly encryption?: { readonly plan: LuksPlan; readonly keySecret: unknown };
}

const versions: Readonly<Record<string, 2 | 3>> = { '0.10': 2, v2: 2, '1.1': 3, v3: 3 };
const preallocations = ['off', 'metadata', 'falloc', 'full'] as const;
const compressions: Readonly<Record<string, number>> = CompressionType;

/**
 * Checks creation options in QEMU's order and with its sentences. `hasBacking`: a backing file is given, by
 * option or by the caller. Throws `bad-argument` naming the option, `unsupported` for what is not built.
 */
export function parseCreateOptions(values: OptionValues, hasBacking: boolean): Qcow2CreateOptions {
  const compat = String(values.compat ?? '1.1');
  const version = versions[compat] ?? fail('compat', notAccepted('version', compat), compat);
  const preallocation = String(values.preallocation ?? 'off') as PreallocationMode;
  if (!preallocations.includes(preallocation)) {
    fail('preallocation', notAccepted('preallocation', preallocation), preallocation);
  }
  const compression = String(values.compression_type ?? 'zlib');
  const compressionType =
    compressions[compression] ??
    fail('compression_type', notAccepted('compression-type', compression), compression);
  const encryption = readEncryption(values);

  const extendedL2 = values.extended_l2 === true;
  if (extendedL2 && version < 3) {
    fail('extended_l2', `Extended L2 entries are only supported with ${needsV3}`);
  }
  const clusterSize = checkClusterSize(Number(values.cluster_size ?? 65536), extendedL2);
  if (hasBacking && preallocation !== 'off' && !extendedL2) {
    const message = 'Backing file and preallocation can only be used at the same time if extended_l2 is on';
    fail('preallocation', message);
  }
  if (values.backing_fmt !== undefined && !hasBacking) {
    fail('backing_fmt', 'Backing format cannot be used without backing file');
  }
  if (encryption && values.data_file_raw === true) {
    throw new DiskError('unsupported', 'A raw data file cannot be encrypted', { field: 'data_file_raw' });
  }
  const lazyRefcounts = values.lazy_refcounts === true;
  if (lazyRefcounts && version < 3) fail('lazy_refcounts', `Lazy refcounts only supported with ${needsV3}`);
  const refcountOrder = checkRefcountBits(Number(values.refcount_bits ?? 16), version);
  checkDataFile(values, version, hasBacking);
  if (compressionType !== CompressionType.zlib && version < 3) {
    fail('compression_type', `Non-zlib compression type is only supported with ${needsV3}`);
  }
  return {
    version,
    clusterSize,
    clusterBits: Math.log2(clusterSize),
    refcountOrder,
    lazyRefcounts,
    preallocation,
    compressionType,
    extendedL2,
    dataFile: values.data_file === undefined ? undefined : String(values.data_file),
    dataFileRaw: values.data_file_raw === true,
    encryption,
  };
}

const needsV3 = 'compatibility level 1.1 and above (use version=v3 or greater)';

function checkClusterSize(clusterSize: number, extendedL2: boolean): number {
  const bits = Math.log2(clusterSize);
  if (!(Number.isInteger(bits) && bits >= minClusterBits && bits <= maxClusterBits)) {
    fail('cluster_size', 'Cluster size must be a power of two between 512 and 2048k', clusterSize);
  }
  if (extendedL2 && bits < 14) {
    const message = 'Extended L2 entries are only supported with cluster sizes of at least 16384 bytes';
    fail('cluster_size', message, clusterSize);
  }
  return clusterSize;
}

function checkRefcountBits(bits: number, version: 2 | 3): number {
  const order = Math.log2(bits);
  if (!(Number.isInteger(order) && order >= 0 && order <= 6)) {
    fail('refcount_bits', 'Refcount width must be a power of two and may not exceed 64 bits', bits);
  }
  if (version < 3 && bits !== 16) {
    const message =
      'Different refcount widths than 16 bits require compatibility level 1.1 or above (use version=v3 or greater)';
    fail('refcount_bits', message, bits);
  }
  return order;
}

function checkDataFile(values: OptionValues, version: 2 | 3, hasBacking: boolean): void {
  if (values.data_file_raw === true && values.data_file === undefined) {
    fail('data_file_raw', 'data-file-raw requires data-file');
  }
  if (values.data_file_raw === true && hasBacking) {
    fail('data_file_raw', 'Backing file and data-file-raw cannot be used at the same time');
  }
  if (values.data_file === undefined) return;
  if (version < 3) fail('data_file', `External data files are only supported with ${needsV3}`);
}

/** Throws `unsupported` for the legacy encryption, which is as good as none. */
export function readEncryption(values: OptionValues): Qcow2CreateOptions['encryption'] {
  const given = Object.entries(values).some(
    ([name, value]) => name.startsWith('encrypt.') && value !== undefined,
  );
  if (values.encryption !== undefined && values['encrypt.format'] !== undefined) {
    fail('encryption', "'encrypt.format' and its alias 'encryption' can't be used at the same time");
  }
  const format = values.encryption === true ? 'aes' : values['encrypt.format'];
  if (format === undefined && given) fail('encrypt.format', "Parameter 'encrypt.format' is missing");
  if (format === undefined) return undefined;
  if (format === 'aes') {
    throw new DiskError('unsupported', "The legacy encryption 'aes' is not created any more: use luks", {
      field: 'encrypt.format',
    });
  }
  if (format !== 'luks') fail('encrypt.format', notAccepted('format', String(format)));
  const keySecret = values['encrypt.key-secret'];
  return { plan: planHeader(luksOptions(values, 'encrypt.')), keySecret };
}

function notAccepted(parameter: string, value: string): string {
  return `Parameter '${parameter}' does not accept value '${value}'`;
}

function fail(option: string, message: string, value?: string | number): never {
  throw new DiskError('bad-argument', message, { field: option, detail: { value } });
}
