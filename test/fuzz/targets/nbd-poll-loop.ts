import { closeSync, mkdtempSync, readSync, rmSync, truncateSync, writeFileSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate as turn } from 'node:timers/promises';
import { openImage } from '../../../src/image/open.ts';
import { Connection } from '../../../src/nbd/connection.ts';
import { contextsOf } from '../../../src/nbd/contexts.ts';
import { ServedDisk } from '../../../src/nbd/disk.ts';
import { type PageBuffer, pageBuffer, ThreadBuffers } from '../../../src/nbd/page-pool.ts';
import { PollLoop } from '../../../src/nbd/poll-loop.ts';
import type { ReplyMode } from '../../../src/nbd/replies.ts';
import { SocketWire } from '../../../src/nbd/wire.ts';
import { type RawIo, rawIo, socketFlag } from '../../../src/platform/raw-io.ts';
import { openFileStore } from '../../../src/storage/file.ts';
import type { Random } from '../../crash/random.ts';
import type { Target } from '../target.ts';
import { checkChunks, drawRequests, emptyQcow2, mostKept, served, watched } from './nbd-requests.ts';

/** What clients send to one thread of the server, each over a socket of its own, cut into pieces by `cuts`. */
interface Clients {
  readonly format: 'raw' | 'qcow2';
  readonly readOnly: boolean;
  readonly clients: readonly {
    readonly mode: ReplyMode;
    readonly bytes: string;
    readonly cuts: readonly number[];
    /** It goes without having heard all its answers. */
    readonly hasty: boolean;
  }[];
}

const buffers = new ThreadBuffers();
let memory: PageBuffer = pageBuffer(1024 * 1024);

/** Memory that the system's calls can be given: what is in it is used at once. */
function memoryOf(length: number): PageBuffer {
  if (length > memory.bytes.length) memory = pageBuffer(2 * length);
  return memory;
}

/** The other end of a socket of the server's. */
class Talker {
  readonly mode: ReplyMode;
  readonly heard: Buffer[] = [];
  readonly #io: RawIo;
  readonly #fd: number;
  readonly #pieces: Buffer[];
  #kept = 0;

  constructor(io: RawIo, fd: number, { mode, bytes, cuts }: Clients['clients'][number]) {
    this.#io = io;
    this.#fd = fd;
    this.mode = mode;
    const all = Buffer.from(bytes, 'hex');
    const edges = [...cuts.map((cut) => cut % (all.length + 1)), 0, all.length].sort((a, b) => a - b);
    this.#pieces = edges.slice(1).map((edge, index) => all.subarray(edges[index], edge));
  }

  /** Sends of its next piece what the socket takes; true: it has said all. */
  talk(): boolean {
    const piece = this.#pieces.shift();
    if (!piece) return true;
    const { bytes, address } = memoryOf(piece.length);
    bytes.set(piece);
    const flags = socketFlag.dontWait | socketFlag.noSignal;
    const sent = piece.length === 0 ? 0 : this.#io.send(this.#fd, address, piece.length, flags);
    // The server has hung up, and nothing more can be told; or the socket is full.
    if (sent < 0 && sent !== -11) this.#pieces.length = 0;
    else if (Math.max(sent, 0) < piece.length) this.#pieces.unshift(piece.subarray(Math.max(sent, 0)));
    return this.#pieces.length === 0;
  }

  /** Takes what has been answered; false: nothing was. */
  hear(): boolean {
    const { bytes, address } = memoryOf(0);
    const count = this.#io.receive(this.#fd, address, bytes.length, socketFlag.dontWait);
    if (count <= 0) return false;
    if (this.#kept < mostKept) this.heard.push(Buffer.from(bytes.subarray(0, count)));
    this.#kept += count;
    return true;
  }
}

/** What clients in the transmission phase send to the threads of cow-nbd, over sockets and to files: as with `nbdRequests`. */
export const nbdPollLoop: Target = {
  name: 'NBD requests over sockets',
  share: 0.15,
  draw(random: Random): Clients {
    const clients = Array.from({ length: 2 }, () => {
      const mode = random.pick(['simple', 'structured', 'extended'] as const);
      const bytes = drawRequests(random, mode);
      const cuts = Array.from({ length: random.below(8) }, () => random.below(2_000_000));
      return { mode, bytes, cuts, hasty: random.below(4) === 0 };
    });
    return { format: random.pick(['raw', 'qcow2'] as const), readOnly: random.below(8) === 0, clients };
  },
  async run(input) {
    const { format, readOnly, clients } = input as Clients;
    const io = rawIo();
    if (!io) return 'refused';
    const folder = mkdtempSync(join(tmpdir(), 'cowherd-loop-'));
    try {
      const path = join(folder, 'disk');
      writeFileSync(path, format === 'raw' ? '' : await emptyQcow2());
      if (format === 'raw') truncateSync(path, served);
      let untyped: unknown;
      const store = await openFileStore(path, { writable: !readOnly });
      const image = watched(await openImage(store, { format, writable: !readOnly }), (error) => {
        untyped ??= error;
      });
      const talkers = await serveTalkers(
        io,
        await ServedDisk.of(image, { readOnly, discard: true }),
        clients,
      );
      if (untyped !== undefined) throw untyped;
      for (const { heard, mode } of talkers) checkChunks(Buffer.concat(heard), mode);
      await using again = await openImage(await openFileStore(path), { format, writable: false });
      await again.read(0, new Uint8Array(served));
      // One that was hung up on said something that is no request.
      return talkers.some(({ heard }) => heard.length > 0) ? 'accepted' : 'refused';
    } finally {
      rmSync(folder, { recursive: true });
    }
  },
};

async function serveTalkers(
  io: RawIo,
  opened: ServedDisk,
  clients: Clients['clients'],
): Promise<readonly Talker[]> {
  await using disk = opened;
  const all = await contextsOf(disk, { allocationDepth: false, bitmaps: [] });
  const contexts = all.map((context, id) => ({ id, context }));
  const [readEnd, writeEnd] = must(io.pipe());
  const loop = new PollLoop(io, readEnd);
  const ends = clients.map((client) => {
    const [own, theirs] = must(io.socketPair());
    const wire = new SocketWire(theirs, io);
    const session = { disk, contexts: client.mode === 'simple' ? [] : contexts, mode: client.mode };
    const connection = new Connection(buffers, wire, session, { onWork: loop.noteWork });
    loop.add({ connection, wire, closed: async () => undefined });
    return { own, client, talker: new Talker(io, own, client) };
  });
  let quiet = 0;
  // As long as its pipe is not empty, the loop comes back after each look at its sockets.
  writeSync(writeEnd, new Uint8Array(1));
  while (quiet < 3) {
    const said = ends.map(({ talker }) => talker.talk()).every(Boolean);
    if (!(await loop.run())) break;
    await turn();
    const heard = ends.map(({ client, talker }) => !client.hasty && talker.hear()).some(Boolean);
    quiet = said && !heard ? quiet + 1 : 0;
  }
  // They go, with requests of theirs under way or not: it waits for those, and for nobody else.
  for (const { own } of ends) closeSync(own);
  readSync(readEnd, new Uint8Array(1));
  while (loop.size > 0) await loop.run();
  loop.close();
  closeSync(writeEnd);
  return ends.map(({ talker }) => talker);
}

function must<Answer extends object>(answer: Answer | number): Answer {
  if (typeof answer === 'number') throw new Error(`error ${-answer}`);
  return answer;
}
