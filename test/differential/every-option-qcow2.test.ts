import { findFormat } from '../../src/formats/index.ts';
import { mustRun } from '../support/programs.ts';
import { lines, type Row } from './harness.ts';
import { buildWorld } from './world.ts';

/*
 * As every-option.test.ts, for qcow2 and LUKS, whose options need each other. qemu-img needs seconds for a header of LUKS
 * (to measure one, too), so that right values of its options come with COWHERD_LONG=1 only.
 */

const long = process.env.COWHERD_LONG === '1';

const secret = '--object secret,id=s,data=x';

/** Right and wrong values. */
const values: Readonly<Record<string, readonly [right: readonly string[], wrong: readonly string[]]>> = {
  backing_file: [['raw.img'], ['gone.img']],
  backing_fmt: [['raw'], ['nonsense', 'qcow2']],
  cluster_size: [
    ['512', '16k', '2M'],
    ['256', '3000', '4M', '12q'],
  ],
  compat: [
    ['0.10', '1.1', 'v2', 'v3'],
    ['2', ''],
  ],
  compression_type: [['zlib', 'zstd'], ['lz4']],
  data_file: [['d.data'], ['']],
  data_file_raw: [['on', 'off'], ['maybe']],
  encryption: [['off'], ['maybe']],
  extended_l2: [['on', 'off'], ['maybe']],
  extent_size_hint: [
    ['0', '1M'],
    ['12q', '5G'],
  ],
  lazy_refcounts: [['on', 'off'], ['maybe']],
  nocow: [['on', 'off'], ['maybe']],
  preallocation: [['off', 'metadata', 'falloc', 'full'], ['some']],
  refcount_bits: [
    ['1', '8', '64'],
    ['0', '3', '128', 'two'],
  ],
  size: [
    ['1M', '0'],
    ['12q', '-1', '9E'],
  ],
};

/** Without their prefix. */
const cipherValues: typeof values = {
  'cipher-alg': [['aes-128', 'aes-192', 'aes-256'], ['rot13']],
  'cipher-mode': [['xts', 'cbc', 'ctr', 'ecb'], ['none']],
  'hash-alg': [['sha1', 'sha256', 'sha512', 'ripemd160'], ['crc32']],
  'iter-time': [['10'], ['ten']],
  'ivgen-alg': [['plain', 'plain64', 'essiv'], ['random']],
  'ivgen-hash-alg': [['sha256'], ['crc32']],
  'key-secret': [['s'], ['nobody']],
};

/** What an option is nothing without. */
const needs: Readonly<Record<string, string>> = {
  backing_fmt: 'backing_file=raw.img,',
  data_file_raw: 'data_file=d.data,',
};

async function world(path: string): Promise<void> {
  await buildWorld(path);
  await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', 'img.qcow2', '1M'], { cwd: path });
}

function rowsOf(option: string): Row[] {
  const [right, wrong] = values[option];
  const list = (value: string) => `${needs[option] ?? ''}${option}=${value}`;
  return [...right, ...wrong].flatMap((value): Row[] => [
    {
      line: `create -f qcow2 -o ${list(value)} new 1M`,
      files: 'contents',
      format: 'qcow2',
      filesDifferIfRefused: 'failed-create',
    },
    {
      line: `convert -O qcow2 -o ${list(value)} raw.img new`,
      files: 'contents',
      format: 'qcow2',
      filesDifferIfRefused: 'failed-create',
    },
    { line: `measure -O qcow2 -o ${list(value)} --size 1M` },
    { line: `amend -f qcow2 -o ${list(value)} img.qcow2`, files: 'contents' },
  ]);
}

/** Of LUKS by itself (`prefix` empty) and inside qcow2. */
function cipherRows(format: string, prefix: string): Row[] {
  return Object.entries(cipherValues).flatMap(([option, [right, wrong]]) => {
    const key = option === 'key-secret' ? '' : `${prefix}key-secret=s,`;
    const outer = prefix === '' ? '' : `${prefix}format=luks,`;
    const list = (value: string) => `${outer}${key}${prefix}${option}=${value}`;
    return [
      ...[...(long ? right : []), ...wrong].map((value): Row => {
        const line = `measure ${secret} --output=json -O ${format} -o ${list(value)} --size 1G`;
        if (value !== 'ctr') return { line };
        return {
          line,
          differs: 'luks-ciphers',
          ours: { code: 1, stderr: "Cipher mode 'ctr' not supported" },
        };
      }),
      ...wrong.map(
        (value): Row => ({
          line: `create ${secret} -f ${format} -o ${list(value)} new 1M`,
          filesDifferIfRefused: 'failed-create',
        }),
      ),
    ];
  });
}

const options = findFormat('qcow2')!.createOptions.map(({ name }) => name);
const plain = options.filter((name) => !name.startsWith('encrypt.'));
lines('every option of qcow2', plain.flatMap(rowsOf), { world });
lines('every option of the encryption of qcow2', cipherRows('qcow2', 'encrypt.'), { world });
lines('every option of luks', cipherRows('luks', ''), { world });
