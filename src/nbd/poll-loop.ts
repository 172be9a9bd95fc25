import { closeSync } from 'node:fs';
import { setImmediate as turn } from 'node:timers/promises';
import { pollEvent, type RawIo } from '../platform/raw-io.ts';
import type { Connection } from './connection.ts';
import { EagerWait } from './eager-wait.ts';
import { pageBuffer } from './page-pool.ts';
import type { SocketWire } from './wire.ts';

const entryBytes = 8;
/** While something is under way that the event loop must finish, sockets are looked at this often, in milliseconds. */
const glanceMs = 1;
/** So often sockets are served before the event loop gets a turn, while it has something under way. */
const busyRounds = 32;

interface Member {
  readonly connection: Connection;
  readonly wire: SocketWire;
  /** Told when the connection has closed; what it does is waited for. */
  readonly closed: () => Promise<void>;
}

/**
 * Serves the sockets of one thread. It waits in poll(2), not in Node's event loop, as long as nothing is under way that
 * needs that; `wakeFd` (the read end of a pipe) ends the wait, for messages to the thread.
 */
export class PollLoop {
  readonly #io: RawIo;
  readonly #wakeFd: number;
  readonly #members: Member[] = [];
  readonly #ready: Member[] = [];
  readonly #look = (timeout: number): number =>
    this.#io.poll(this.#table.address, this.#members.length + 1, timeout);
  readonly #eager = new EagerWait(this.#look);
  #table = pageBuffer(4096);
  #woken = false;
  /** Members that have left and are being cleared up after. */
  #leaving = 0;
  #progress: (() => void) | undefined;
  /** Work came up while members were gone through: perhaps for one that had been passed already. */
  #noted = false;
  /** Since sockets were ready while something was under way. */
  #rounds = 0;

  constructor(io: RawIo, wakeFd: number) {
    this.#io = io;
    this.#wakeFd = wakeFd;
  }

  get size(): number {
    return this.#members.length;
  }

  add(member: Member): void {
    this.#members.push(member);
    this.#noteAlone();
  }

  /** To be called when a connection has work that did not come from its socket. */
  readonly noteWork = (): void => {
    this.#noted = true;
    this.#progress?.();
  };

  finishAll(): void {
    for (const { connection } of this.#members) connection.finish();
  }

  /** Serves until a message waits (true) or nobody is left (false). */
  async run(): Promise<boolean> {
    this.#ready.splice(0, this.#ready.length, ...this.#members);
    for (;;) {
      for (const { connection } of this.#ready) connection.pump();
      // Whatever is done without the system's help is done now; nearly always there is nothing.
      if (this.#isBusy()) await microtasksDone();
      const more = this.#goOn();
      if (this.#members.length === 0) return false;
      const busy = this.#isBusy();
      this.#wait(!busy && !more);
      if (this.#woken) return true;
      if (this.#ready.length > 0) {
        // Clients that always have something to say do not keep the event loop from what the others wait for.
        if (busy && ++this.#rounds % busyRounds === 0) await turn();
        continue;
      }
      if (more) this.#ready.push(...this.#members);
      else if (busy) await this.#nextProgress();
    }
  }

  /** Something is under way that the event loop must finish. */
  #isBusy(): boolean {
    if (this.#leaving > 0) return true;
    for (const { connection } of this.#members) if (connection.isBusy) return true;
    return false;
  }

  /** Lets everybody go on who can without new input, and those leave who are done. True: there is more of that. */
  #goOn(): boolean {
    let more = false;
    this.#noted = false;
    for (let index = this.#members.length - 1; index >= 0; index--) {
      const member = this.#members[index];
      const { connection } = member;
      if (connection.hasWork) connection.pump();
      if (connection.closed) this.#leave(index);
      else if (connection.hasWork) more = true;
    }
    return more || this.#noted;
  }

  #leave(index: number): void {
    const [{ closed }] = this.#members.splice(index, 1);
    this.#noteAlone();
    this.#leaving++;
    void closed().finally(() => {
      this.#leaving--;
      this.#progress?.();
    });
  }

  /** Finds those whose sockets are ready; `long`: when one is. */
  #wait(long: boolean): void {
    this.#layTable();
    this.#ready.length = 0;
    const found = long ? this.#eager.wait() : this.#look(0);
    const { view } = this.#table;
    this.#woken = view.getInt16(6, true) !== 0;
    if (found <= 0) return;
    for (let index = 0; index < this.#members.length; index++) {
      if (view.getInt16((index + 1) * entryBytes + 6, true) !== 0) this.#ready.push(this.#members[index]);
    }
  }

  /** Lays down what each socket is waited for. */
  #layTable(): void {
    const bytes = (this.#members.length + 1) * entryBytes;
    if (bytes > this.#table.bytes.length) this.#table = pageBuffer(bytes * 2);
    const { view } = this.#table;
    let at = 0;
    view.setInt32(at, this.#wakeFd, true);
    view.setInt32(at + 4, pollEvent.in, true);
    for (const { connection, wire } of this.#members) {
      at += entryBytes;
      const events =
        (connection.wantsInput ? pollEvent.in : 0) | (connection.wantsOutput ? pollEvent.out : 0);
      // One from which nothing is wanted would report that its client is gone again and again.
      view.setInt32(at, events === 0 ? -1 : wire.fd, true);
      view.setInt32(at + 4, events, true);
    }
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
    const alone = this.#members.length === 1;
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
