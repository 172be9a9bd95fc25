import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:net';

/** A text that others see until it is withdrawn, or its process or thread ends, however that happens. */
export interface Notice {
  readonly id: string;
  readonly text: string;
  withdraw(): void;
}

/** What the names of our sockets begin with: others of this machine have abstract sockets too. */
const mark = 'cowherd-notice';
const notice = new RegExp(`@${mark}:([0-9a-f-]{36}):([0-9a-z:]*)`, 'g');

/** Those of this thread, which sees itself wherever it runs. */
const own = new Map<string, string>();

/**
 * Puts up a notice, of figures, small letters and colons, at most 50. On Linux it is the name of an abstract socket: all that Node alone has of
 * what every thread and process sees, nothing survives a kill, and no file is left (Node 20.4 or newer; of its network namespace).
 * Elsewhere this thread alone sees it.
 */
export function putUp(text: string): Notice {
  const id = randomUUID();
  own.set(id, text);
  const withdraw = process.platform === 'linux' ? listenOn(`\0${mark}:${id}:${text}`) : () => undefined;
  return {
    id,
    text,
    withdraw() {
      own.delete(id);
      withdraw();
    },
  };
}

/** All notices that can be seen, one's own too. Of two who each put one up and then look, one at least sees both. */
export function readNotices(): ReadonlyMap<string, string> {
  const found = new Map(own);
  for (const [, id, text] of abstractSockets().matchAll(notice)) found.set(id, text);
  return found;
}

/** Binds the name, which is done on return; where that cannot be, nobody else sees it. Gives what unbinds it. */
function listenOn(name: string): () => void {
  const server = createServer((socket) => socket.destroy());
  server.on('error', () => undefined);
  // Exclusive: in a cluster the main process would otherwise bind it, and keep it.
  server.listen({ path: name, exclusive: true });
  server.unref();
  return () => server.close();
}

function abstractSockets(): string {
  try {
    return process.platform === 'linux' ? readFileSync('/proc/net/unix', 'latin1') : '';
  } catch {
    return '';
  }
}
