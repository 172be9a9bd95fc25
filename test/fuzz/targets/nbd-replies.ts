import { isDiskError } from '../../../src/errors.ts';
import {
  encodeInfoReply,
  encodeMetaContextReply,
  encodeOptionReply,
} from '../../../src/storage/nbd/options.ts';
import { Info, Magic, Option, OptionReply } from '../../../src/storage/nbd/protocol.ts';
import { openNbdStore } from '../../../src/storage/nbd/store.ts';
import type { ByteStream, StreamSink } from '../../../src/storage/nbd/stream.ts';
import type { Random } from '../../crash/random.ts';
import type { Target } from '../target.ts';

const size = 64 * 1024;

/** What the fuzzed server sends, hex, after a sound handshake or (`bare`) instead of it; cut into pieces by `cuts`. */
interface Wire {
  readonly bare: boolean;
  readonly bytes: string;
  readonly cuts: readonly number[];
}

function number(value: number, bytes: number): string {
  return Math.floor(value)
    .toString(16)
    .padStart(bytes * 2, '0')
    .slice(-bytes * 2);
}

function handshake(): string {
  const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex');
  const magic = [Magic.initHigh, Magic.initLow, Magic.optionHigh, Magic.optionLow];
  return (
    magic.map((part) => number(part, 4)).join('') +
    '0003' +
    hex(encodeOptionReply(Option.structuredReply, OptionReply.ack)) +
    hex(
      encodeOptionReply(
        Option.setMetaContext,
        OptionReply.metaContext,
        encodeMetaContextReply(1, 'base:allocation'),
      ),
    ) +
    hex(encodeOptionReply(Option.setMetaContext, OptionReply.ack)) +
    hex(
      encodeOptionReply(
        Option.go,
        OptionReply.info,
        encodeInfoReply({ type: Info.export, size, flags: 0x5ed }),
      ),
    ) +
    hex(encodeOptionReply(Option.go, OptionReply.ack))
  );
}

/** A chunk that may be right: cookies of the first requests are small. */
function chunk(random: Random): string {
  const cookie =
    number(random.pick([0, 1, 1, 1, 2]), 4) + number(random.pick([15, 15, 14, 13, 0, 16, 2 ** 32 - 1]), 4);
  if (random.below(4) === 0) return `67446698${number(random.pick([0, 0, 5, 22, 99]), 4)}${cookie}`;
  const type = random.pick([0, 1, 1, 1, 2, 2, 5, 5, 6, 0x8001, 0x8002, 77]);
  const count = random.pick([0, 1, 512, 4096, 4096, size]);
  const payload =
    type === 1
      ? number(random.pick([0, 0, 512, 4096, size, 2 ** 52]), 8) + 'ab'.repeat(count)
      : type === 2
        ? number(random.pick([0, 0, 512, 4096, size]), 8) + number(random.pick([0, 512, 4096, size]), 4)
        : type === 5
          ? number(random.pick([1, 1, 1, 2]), 4) +
            Array.from(
              { length: random.pick([0, 1, 2, 20]) },
              () => number(random.pick([0, 1, 512, size, 2 ** 32 - 1]), 4) + number(random.below(5), 4),
            ).join('')
          : type >= 0x8000
            ? `${number(random.pick([0, 5, 22]), 4)}0002${'6869'}`
            : '';
  const lie = random.below(6) === 0 ? random.pick([1, 8, 2 ** 31, 2 ** 32 - 1]) : payload.length / 2;
  return `668e33ef${number(random.pick([0, 1, 1, 1]), 2)}${number(type, 2)}${cookie}${number(lie, 4)}${payload}`;
}

/** What a sound server answers to the requests below. */
function soundReplies(): string {
  const cookie = (index: number) => number(1, 4) + number(index, 4);
  const data = (index: number, at: number, bytes: number) =>
    `668e33ef00010001${cookie(index)}${number(bytes + 8, 4)}${number(at, 8)}${'ab'.repeat(bytes)}`;
  const status = `668e33ef00010005${cookie(14)}${number(12, 4)}${number(1, 4)}${number(size, 4)}${number(3, 4)}`;
  const done = (index: number) => `6744669800000000${cookie(index)}`;
  return data(13, 4096, 512) + status + data(15, 0, 4096) + done(12) + done(11);
}

/** A server that says what it was told to, and goes. */
class LyingStream implements ByteStream {
  #sink: StreamSink | undefined;
  readonly #pieces: Uint8Array[];
  #closed = false;

  constructor({ bytes, cuts }: Wire) {
    const all = Uint8Array.from(Buffer.from(bytes, 'hex'));
    const edges = [...cuts.map((cut) => cut % (all.length + 1)), 0, all.length].sort((a, b) => a - b);
    this.#pieces = edges.slice(1).map((edge, index) => all.subarray(edges[index], edge));
    setTimeout(() => this.#go(), 0);
  }

  attach(sink: StreamSink): void {
    this.#sink = sink;
  }

  send(): void {
    // What it is asked is nothing to it.
  }

  async secure(): Promise<void> {
    throw new Error('There is no TLS here');
  }

  close(): void {
    this.#closed = true;
  }

  end(): void {
    this.#closed = true;
  }

  #go(): void {
    if (this.#closed) return;
    const piece = this.#pieces.shift();
    if (!piece) {
      this.#sink?.ended();
      return;
    }
    for (let at = 0; at < piece.length && !this.#closed; ) {
      const target = this.#sink!.target();
      if (target) {
        const part = piece.subarray(at, at + target.length);
        target.set(part);
        at += part.length;
        this.#sink!.laid(part.length);
      } else {
        const part = piece.subarray(at);
        const step = Math.min(part.length, 4096);
        at += step;
        this.#sink!.take(part, step);
      }
    }
    setTimeout(() => this.#go(), 0);
  }
}

/** Replies of an NBD server to the client: all that it asks ends, with what came or a typed error. */
export const nbdReplies: Target = {
  name: 'NBD replies',
  share: 0.5,
  draw(random): Wire {
    const bare = random.below(4) === 0;
    let bytes = handshake();
    const opened = bytes.length / 2;
    const sound = random.below(3) === 0;
    if (!bare && sound) bytes += soundReplies();
    else if (!bare) bytes += Array.from({ length: random.between(1, 8) }, () => chunk(random)).join('');
    for (let left = bare ? random.between(1, 5) : random.pick([0, 0, 1]); left > 0; left--) {
      const at = 2 * random.below(bytes.length / 2);
      bytes =
        bytes.slice(0, at) + number(random.below(256), 1) + bytes.slice(at + random.pick([0, 2, 2, 2, 4]));
    }
    // What comes before it was asked for is refused whatever it is.
    const cuts = [opened, ...Array.from({ length: random.below(6) }, () => random.below(1_000_000))];
    return { bare, bytes, cuts };
  },
  async run(input) {
    try {
      await using store = await openNbdStore({
        connect: async () => new LyingStream(input as Wire),
        address: { kind: 'unix', path: 'liar' },
        exportName: '',
        name: 'liar',
        writable: true,
        connections: 1,
      });
      const work = [
        store.read(0, new Uint8Array(4096)),
        store.extent(0),
        store.read(4096, new Uint8Array(512)),
        store.write(0, new Uint8Array(512)),
        store.flush(),
      ];
      const ends = await Promise.allSettled(work);
      const refusal = ends.find((end) => end.status === 'rejected');
      if (refusal) throw refusal.reason;
      return 'accepted';
    } catch (error) {
      if (isDiskError(error)) return 'refused';
      throw error;
    }
  },
};
