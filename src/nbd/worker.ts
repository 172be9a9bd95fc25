/** A thread that serves clients over their sockets, and has the images that they see open (host-threads.ts). */
// First, for what it does: it brings in Node's codecs and ciphers.
import '../node.ts';

import { closeSync, readSync } from 'node:fs';
import { setImmediate as turn } from 'node:timers/promises';
import { parentPort } from 'node:worker_threads';
import { CliFailure } from '../cli/failure.ts';
import { explain } from '../cli/messages.ts';
import { rawIo } from '../platform/raw-io.ts';
import { Connection } from './connection.ts';
import { ThreadBuffers } from './page-pool.ts';
import { PollLoop } from './poll-loop.ts';
import { type OpenExport, openExport } from './recipe.ts';
import { Rehearsal } from './rehearsal.ts';
import { SocketWire } from './wire.ts';
import type { FromWorker, ToWorker } from './worker-messages.ts';

const io = rawIo();
const port = parentPort;
if (!io || !port) throw new Error('This is a thread of cow-nbd, started where koffi is installed');
const ends = io.pipe();
if (typeof ends === 'number') throw new Error(`No pipe: error ${-ends}`);
const [readEnd, writeEnd] = ends;

const buffers = new ThreadBuffers();
const loop = new PollLoop(io, readEnd);
const exports = new Map<string, OpenExport>();
const queue: ToWorker[] = [];
/** Messages that were sent, and how many of them have come. */
const sent = new Int32Array(new SharedArrayBuffer(4));
let came = 0;
const scratch = new Uint8Array(64);
let arrived: (() => void) | undefined;
/** Made once for all that the thread serves: by its first export. */
let rehearsal: Rehearsal | undefined;
let rehearsed = false;

port.on('message', (message: ToWorker) => {
  queue.push(message);
  came++;
  arrived?.();
});
void main();

async function main(): Promise<void> {
  say({ kind: 'ready', wakeFd: writeEnd, sent });

  for (;;) {
    const message = queue.shift();
    if (message?.kind === 'finish') break;
    if (message) await obey(message);
    else if (loop.size > 0) await serve();
    else if (rehearsal) await rehearse();
    else
      await new Promise<void>((resolve) => {
        arrived = resolve;
      });
  }
  await endRehearsal();
  loop.finishAll();
  while (loop.size > 0 && (await loop.run())) drain();
  say({ kind: 'finished', failure: await closeAll() });
  closeSync(writeEnd);
  loop.close();
  port!.close();
}

function say(message: FromWorker): void {
  port!.postMessage(message);
}

/** As long as nobody wants anything. */
async function rehearse(): Promise<void> {
  if (!rehearsal!.step()) await endRehearsal();
  else await turn();
}

async function endRehearsal(): Promise<void> {
  const over = rehearsal;
  rehearsal = undefined;
  await over?.end();
}

async function serve(): Promise<void> {
  if (!(await loop.run())) return;
  drain();
  // The byte in the pipe came after the message, which Node hands over in a turn of its loop, or has handed over before.
  while (came < Atomics.load(sent, 0)) await turn();
}

function drain(): void {
  try {
    readSync(readEnd, scratch);
  } catch {
    // Nothing there: woken for what was read before.
  }
}

async function obey(message: Exclude<ToWorker, { kind: 'finish' }>): Promise<void> {
  if (message.kind === 'open') {
    const { name } = message.recipe;
    try {
      const opened = await openExport(message.recipe, message.again);
      exports.set(name, opened);
      say({ kind: 'opened', name, facts: opened.facts });
      if (!rehearsed) rehearsal = await Rehearsal.of(io!, buffers, opened.disk);
      rehearsed = true;
    } catch (error) {
      const { text, hint } =
        error instanceof CliFailure ? { text: error.message, hint: error.hint } : explain(error);
      say({ kind: 'failed', name, message: text, hint });
    }
    return;
  }
  await endRehearsal();
  const { id, fd, client } = message;
  try {
    const { end, disk, contexts } = await exports.get(client.exportName)!.session(client.contexts);
    const wire = new SocketWire(fd, io!);
    const session = { disk, contexts, mode: client.mode };
    const connection = new Connection(buffers, wire, session, { first: client.first, onWork: loop.noteWork });
    loop.add({
      connection,
      wire,
      closed: () => end().finally(() => say({ kind: 'left', id })),
    });
  } catch {
    // No overlay for this session: the client sees that it is not served.
    closeSync(fd);
    say({ kind: 'left', id });
  }
}

async function closeAll(): Promise<string | undefined> {
  let failure: string | undefined;
  for (const opened of exports.values()) {
    try {
      await opened[Symbol.asyncDispose]();
    } catch (error) {
      failure ??= explain(error).text;
    }
  }
  return failure;
}
