import { closeSync } from 'node:fs';
import { pollEvent, type RawIo } from '../platform/raw-io.ts';
import type { Connection } from './connection.ts';
import { pageBuffer } from './page-pool.ts';
import type { SocketWire } from './wire.ts';

const entryBytes = 8;
/** While something is under way that the event loop must finish, sockets are looked at this often, in milliseconds. */
const glanceMs = 1;

interface Member {
  readonly connection: Connection;
  readonly wire: SocketWire;
  readonly closed: () => void;
}

/**
 * Serves the sockets of one thread. It waits in poll(2), not in Node's event loop, as long as nothing is under way that
 * needs that; `wakeFd` (the read end of a pipe) ends the wait, for messages to the thread.
 */
export class PollLoop {
  readonly #io: RawIo;
  readonly #wakeFd: number;
  readonly #members = new Set<Member>();
  #table = pageBuffer(4096);
  #progress: (() => void) | undefined;

  constructor(io: RawIo, wakeFd: number) {
    this.#io = io;
    this.#wakeFd = wakeFd;
  }

  get size(): number {
    return this.#members.size;
  }

  add(member: Member): void {
    this.#members.add(member);
    this.#noteAlone();
  }

  /** To be called when a connection has work that did not come from its socket. */
  readonly noteWork = (): void => {
    this.#progress?.();
  };

  finishAll(): void {
    for (const { connection } of this.#members) connection.finish();
  }

  /** Serves until a message waits (true) or nobody is left (false). */
  async run(): Promise<boolean> {
    let ready = [...this.#members];
    for (;;) {
      for (const { connection } of ready) connection.pump();
      // Whatever is done without the system's help is done now.
      await microtasksDone();
      let busy = false;
      let more = false;
      for (const member of this.#members) {
        const { connection } = member;
        if (connection.hasWork) connection.pump();
        if (connection.closed) {
          this.#members.delete(member);
          this.#noteAlone();
          member.closed();
          continue;
        }
        if (connection.inFlight > 0) busy = true;
        if (connection.hasWork) more = true;
      }
      if (this.#members.size === 0) return false;
      ready = this.#wait(busy || more ? 0 : -1);
      if (this.#woken) return true;
      if (ready.length === 0 && more) ready = [...this.#members];
      if (ready.length === 0 && busy) await this.#nextProgress();
    }
  }

  #woken = false;

  /** Those whose sockets are ready. */
  #wait(timeout: number): Member[] {
    const members = [...this.#members];
    const bytes = (members.length + 1) * entryBytes;
    if (bytes > this.#table.bytes.length) this.#table = pageBuffer(bytes * 2);
    const { view, address } = this.#table;
    let count = 0;
    const put = (fd: number, events: number) => {
      view.setInt32(count * entryBytes, fd, true);
      view.setInt16(count * entryBytes + 4, events, true);
      view.setInt16(count * entryBytes + 6, 0, true);
      count++;
    };
    put(this.#wakeFd, pollEvent.in);
    for (const { connection, wire } of members) {
      const events =
        (connection.wantsInput ? pollEvent.in : 0) | (connection.wantsOutput ? pollEvent.out : 0);
      // One from which nothing is wanted would report that its client is gone again and again.
      put(events === 0 ? -1 : wire.fd, events);
    }
    const found = this.#io.poll(address, count, timeout);
    this.#woken = view.getInt16(6, true) !== 0;
    if (found <= 0) return [];
    return members.filter((_, index) => view.getInt16((index + 1) * entryBytes + 6, true) !== 0);
  }

  #nextProgress(): Promise<void> {
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer);
        this.#progress = undefined;
        resolve();
      };
      const timer = setTimeout(done, glanceMs);
      this.#progress = done;
    });
  }

  #noteAlone(): void {
    const alone = this.#members.size === 1;
    for (const { wire } of this.#members) wire.alone = alone;
  }

  close(): void {
    closeSync(this.#wakeFd);
  }
}

/** Resolved when all promises that can go on have gone on. */
function microtasksDone(): Promise<void> {
  return new Promise((resolve) => process.nextTick(resolve));
}
