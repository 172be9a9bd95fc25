import { Duplex } from 'node:stream';
import { isDiskError } from '../../../src/errors.ts';
import type { Image } from '../../../src/image/image.ts';
import { createImage, openImage } from '../../../src/image/open.ts';
import { contextsOf } from '../../../src/nbd/contexts.ts';
import { ServedDisk } from '../../../src/nbd/disk.ts';
import { serveStream } from '../../../src/nbd/host.ts';
import { negotiate } from '../../../src/nbd/negotiation.ts';
import { ThreadBuffers } from '../../../src/nbd/page-pool.ts';
import type { ReplyMode } from '../../../src/nbd/replies.ts';
import { MemoryStore } from '../../../src/storage/memory.ts';
import { encodeInfoRequest, encodeOption } from '../../../src/storage/nbd/options.ts';
import { Option } from '../../../src/storage/nbd/protocol.ts';
import type { Random } from '../../crash/random.ts';
import { Broken, type Target } from '../target.ts';

/** Bytes of the disk that is served. */
export const served = 1024 * 1024;
export const mostKept = 64 * 1024 * 1024;

/** What the fuzzed client sends, hex, cut into pieces by `cuts`, to a server of an image in `format`. */
interface Client {
  readonly format: 'raw' | 'qcow2';
  readonly readOnly: boolean;
  readonly tls: boolean;
  readonly bytes: string;
  readonly cuts: readonly number[];
}

const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex');
const number = (value: number, bytes: number) =>
  Math.floor(value)
    .toString(16)
    .padStart(bytes * 2, '0')
    .slice(-bytes * 2);

function option(random: Random, name: string): string {
  const queries = random.pick([
    [],
    ['base:allocation'],
    ['base:'],
    ['qemu:'],
    ['base:allocation', 'x:y'],
    [''],
  ]);
  const text = Buffer.from(name);
  const names = queries.map((query) => number(query.length, 4) + hex(Buffer.from(query))).join('');
  const metaQuery = `${number(text.length, 4)}${hex(text)}${number(queries.length, 4)}${names}`;
  const info = encodeInfoRequest({ name, infos: random.pick([[], [3], [0, 1, 2, 3], [77]]) });
  const data: readonly [number, Uint8Array][] = [
    [Option.list, new Uint8Array(0)],
    [Option.info, info],
    [Option.structuredReply, new Uint8Array(0)],
    [Option.extendedHeaders, new Uint8Array(0)],
    [Option.listMetaContext, Buffer.from(metaQuery, 'hex')],
    [Option.setMetaContext, Buffer.from(metaQuery, 'hex')],
    [Option.startTls, new Uint8Array(0)],
    [random.below(100), new Uint8Array(random.below(100))],
    [Option.list, new Uint8Array(random.pick([1, 70_000]))],
  ];
  const [code, content] = random.pick(data);
  return hex(encodeOption(code, content));
}

/** A request that may be right. */
function request(random: Random, extended: boolean): string {
  const command = random.pick([0, 0, 0, 1, 1, 1, 3, 4, 5, 6, 6, 7, 7, 2, 8, 99]);
  const flags =
    random.pick([0, 0, 0, 1, 2, 4, 8, 16, extended ? 32 : 0, 0xffff]) | (extended && command === 1 ? 32 : 0);
  const offset = random.pick([0, 0, 512, 65536, 65537, served - 512, served, 2 ** 52, 2 ** 63]);
  const sizes = [
    0,
    1,
    512,
    4096,
    65536,
    70_000,
    300_000,
    served,
    served + 1,
    2 ** 25,
    2 ** 25 + 1,
    2 ** 32 - 1,
  ];
  const length = random.pick(extended ? [...sizes, 2 ** 40, 2 ** 63] : sizes);
  const payload = command === 1 && length <= served ? 'c3'.repeat(length) : '';
  const head = `${extended ? '21e41c71' : '25609513'}${number(flags, 2)}${number(command, 2)}`;
  const cookie = number(random.below(2 ** 32), 8);
  return `${head}${cookie}${number(offset, 8)}${number(length, extended ? 8 : 4)}${payload}`;
}

/** A client that says what it was told to, takes all that it is answered, and goes. */
class LyingClient extends Duplex {
  readonly heard: Buffer[] = [];
  #kept = 0;

  constructor({ bytes, cuts }: Client) {
    super();
    const all = Buffer.from(bytes, 'hex');
    const edges = [...cuts.map((cut) => cut % (all.length + 1)), 0, all.length].sort((a, b) => a - b);
    const pieces = edges.slice(1).map((edge, index) => all.subarray(edges[index], edge));
    const go = () => {
      if (this.destroyed) return;
      const piece = pieces.shift();
      if (piece && piece.length > 0) this.push(piece);
      if (piece) setImmediate(go);
      // What was asked last is still being done.
      else setTimeout(() => this.push(null), 2);
    };
    setImmediate(go);
  }

  override _read(): void {
    // It speaks of itself.
  }

  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    // Of a large answer only its beginning is looked at.
    if (this.#kept < mostKept) this.heard.push(Buffer.from(chunk));
    this.#kept += chunk.length;
    done();
  }
}

/** Notes what an image throws that is no typed error: the server answers EIO to either. */
export function watched(image: Image, note: (error: unknown) => void): Image {
  const look = (error: unknown): never => {
    if (!isDiskError(error)) note(error);
    throw error;
  };
  return new Proxy(image, {
    get(target, key) {
      const value = Reflect.get(target, key, target);
      if (typeof value !== 'function') return value;
      return (...args: unknown[]) => {
        try {
          const answer = value.apply(target, args);
          return answer instanceof Promise ? answer.catch(look) : answer;
        } catch (error) {
          return look(error);
        }
      };
    },
  });
}

/** Chunks that follow one another without a gap; the last may be cut off, as the client goes when it likes. */
export function checkChunks(bytes: Buffer, mode: ReplyMode): void {
  if (mode === 'simple') return;
  const extended = mode === 'extended';
  const header = extended ? 32 : 20;
  for (let at = 0; at + header <= bytes.length; ) {
    const magic = bytes.readUInt32BE(at);
    // Requests without data may be answered simply.
    if (!extended && magic === 0x67446698) {
      at += 16;
      continue;
    }
    if (magic !== (extended ? 0x6e8a278c : 0x668e33ef))
      throw new Broken(`no chunk begins at ${at} of the answers`);
    at += header + (extended ? Number(bytes.readBigUInt64BE(at + 24)) : bytes.readUInt32BE(at + 16));
  }
}

const buffers = new ThreadBuffers();
let empty: Uint8Array | undefined;

async function store(format: Client['format']): Promise<MemoryStore> {
  if (format === 'raw') return new MemoryStore({ size: served });
  const copy = new MemoryStore();
  await copy.write(0, await emptyQcow2());
  return copy;
}

/** An image of `served` bytes with nothing in it. */
export async function emptyQcow2(): Promise<Uint8Array> {
  if (empty) return empty;
  const made = new MemoryStore();
  await createImage(made, 'qcow2', served, {});
  empty = new Uint8Array(made.size);
  await made.read(0, empty);
  return empty;
}

/** Requests, hex, of which some bytes are not what they should be. */
export function drawRequests(random: Random, mode: ReplyMode): string {
  let bytes = '';
  for (let left = random.between(1, 12); left > 0; left--) bytes += request(random, mode === 'extended');
  for (let left = random.pick([0, 0, 1, 2, 5]); left > 0; left--)
    bytes = mutated(random, bytes, bytes.length / 2);
  return bytes;
}

/** With one byte before the `limit`th changed, put in or lost. */
function mutated(random: Random, bytes: string, limit: number): string {
  const at = 2 * random.below(limit);
  return bytes.slice(0, at) + number(random.below(256), 1) + bytes.slice(at + random.pick([0, 2, 2, 2, 4]));
}

/** What clients send to the NBD server, while haggling and after: it answers or hangs up, and the image stays sound. */
export const nbdRequests: Target = {
  name: 'NBD requests',
  share: 0.4,
  draw(random): Client {
    const mode = random.pick(['simple', 'structured', 'structured', 'extended', 'extended'] as const);
    const name = random.pick(['', '', '', 'disk', 'nowhere']);
    const go = name === 'nowhere' ? 'disk' : name;
    let bytes = number(random.pick([3, 3, 3, 1]), 4);
    for (let left = random.below(4); left > 0; left--) bytes += option(random, name);
    if (mode === 'structured') bytes += hex(encodeOption(Option.structuredReply));
    if (mode === 'extended') bytes += hex(encodeOption(Option.extendedHeaders));
    const text = Buffer.from(go);
    const context = hex(Buffer.from('base:allocation'));
    const wanted = `${number(text.length, 4)}${hex(text)}000000010000000f${context}`;
    if (mode !== 'simple') bytes += hex(encodeOption(Option.setMetaContext, Buffer.from(wanted, 'hex')));
    bytes += hex(encodeOption(Option.go, encodeInfoRequest({ name: go, infos: [3] })));
    const opened = bytes.length / 2;
    for (let left = random.between(1, 12); left > 0; left--) bytes += request(random, mode === 'extended');
    for (let left = random.pick([0, 0, 1, 2, 5]); left > 0; left--) {
      bytes = mutated(random, bytes, random.below(2) === 0 ? opened : bytes.length / 2);
    }
    const cuts = Array.from({ length: random.below(8) }, () => random.below(2_000_000));
    const format = random.pick(['raw', 'qcow2'] as const);
    return { format, readOnly: random.below(8) === 0, tls: random.below(16) === 0, bytes, cuts };
  },
  async run(input) {
    const told = input as Client;
    const client = new LyingClient(told);
    const found = { size: served, flags: told.readOnly ? 0x523 : 0xd6d, contexts: ['base:allocation'] };
    const exports = ['', 'disk'].map((name) => ({ name, ...found }));
    const refuse = async () => {
      throw new Error('There is no TLS here');
    };
    const negotiated = await negotiate(client, {
      find: (name) => exports.find((one) => one.name === name),
      list: () => exports,
      startTls: told.tls ? refuse : undefined,
    });
    if (!negotiated) {
      client.destroy();
      return 'refused';
    }
    const file = await store(told.format);
    let untyped: unknown;
    const image = watched(
      await openImage(file, { format: told.format, writable: !told.readOnly }),
      (error) => {
        untyped ??= error;
      },
    );
    {
      await using disk = await ServedDisk.of(image, { readOnly: told.readOnly, discard: true });
      const all = await contextsOf(disk, { allocationDepth: false, bitmaps: [] });
      const contexts = negotiated.contexts.map((id) => ({ id, context: all[id]! }));
      client.heard.length = 0;
      const session = { disk, contexts, mode: negotiated.mode };
      await serveStream(negotiated.stream, session, buffers, negotiated.first).gone;
    }
    if (untyped !== undefined) throw untyped;
    checkChunks(Buffer.concat(client.heard), negotiated.mode);
    await using again = await openImage(file, { format: told.format, writable: false });
    await again.read(0, new Uint8Array(served));
    return 'accepted';
  },
};
