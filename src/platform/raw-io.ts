import { type Koffi, loadKoffi } from './koffi.ts';

/** Flags and errors of the calls here (Linux; the same on x64, arm64 and riscv64). */
export const socketFlag = { dontWait: 0x40, noSignal: 0x4000 } as const;
export const pollEvent = { in: 1, out: 4, error: 8, hangup: 16 } as const;
export const errnoValue = { again: 11, interrupted: 4 } as const;

/**
 * Calls on memory by its address, for loops that may not allocate: a view for each request would. Each answers what
 * the call answers, or the negated error number; none throws. Memory must be kept alive by the caller, and not move:
 * that of a WebAssembly memory (`pageAligned`) or of a large typed array does not.
 */
export interface RawIo {
  /** Where the first byte lies. */
  addressOf(bytes: Uint8Array): number;
  receive(fd: number, address: number, length: number, flags: number): number;
  send(fd: number, address: number, length: number, flags: number): number;
  read(fd: number, address: number, length: number, offset: number): number;
  write(fd: number, address: number, length: number, offset: number): number;
  /** `entries`: struct pollfd; the answer is how many of the first `count` have an event. Milliseconds; -1: for ever. */
  poll(entries: number, count: number, timeout: number): number;
  /** A second descriptor of the same open file, in blocking mode (which the first then is in too). */
  duplicateBlocking(fd: number): number;
  /** A new pipe that never blocks, as its two ends; throws nothing, answers a negated error number alone. */
  pipe(): readonly [number, number] | number;
  /** Two connected unix sockets; a negated error number alone. */
  socketPair(): readonly [number, number] | number;
  /** Sets how long a send that may wait does so, in milliseconds. */
  limitSend(fd: number, milliseconds: number): number;
  /** Lets the system hold that many bytes of what a unix socket sends, as far as it allows; other sockets stay as they are. */
  holdUnixSends(fd: number, bytes: number): void;
}

let loaded: { readonly io: RawIo | undefined } | undefined;

/** Undefined where the system's calls cannot be had (`libc` says when). */
export function rawIo(): RawIo | undefined {
  if (!loaded) {
    try {
      const koffi = loadKoffi();
      loaded = { io: koffi && bind(koffi) };
    } catch {
      loaded = { io: undefined };
    }
  }
  return loaded.io;
}

const duplicateOnExec = 1030;
const getFlags = 3;
const setFlags = 4;
const nonBlocking = 0o4000;
const closeOnExec = 0o2000000;
const solSocket = 1;
const soSndBuf = 7;
const soSndTimeo = 21;
const soDomain = 39;
const afUnix = 1;
const socketStream = 1;

function bind(koffi: Koffi): RawIo {
  const own = koffi.load(null);
  const memmove = own.func('uintptr_t memmove(void *to, void *from, size_t length)');
  const recv = own.func('int64_t recv(int fd, uintptr_t address, size_t length, int flags)');
  const send = own.func('int64_t send(int fd, uintptr_t address, size_t length, int flags)');
  const pread = own.func('int64_t pread(int fd, uintptr_t address, size_t length, int64_t offset)');
  const pwrite = own.func('int64_t pwrite(int fd, uintptr_t address, size_t length, int64_t offset)');
  const poll = own.func('int poll(uintptr_t entries, unsigned long count, int timeout)');
  const socketpair = own.func('int socketpair(int domain, int type, int protocol, void *ends)');
  const fcntl = own.func('int fcntl(int fd, int command, long argument)');
  const pipe2 = own.func('int pipe2(void *ends, int flags)');
  const setsockopt = own.func(
    'int setsockopt(int fd, int level, int name, void *value, unsigned int length)',
  );
  const getsockopt = own.func('int getsockopt(int fd, int level, int name, void *value, void *length)');
  const answer = (value: number | bigint): number => {
    const number = Number(value);
    return number < 0 ? -koffi.errno() : number;
  };
  return {
    addressOf: (bytes) => Number(memmove(bytes, bytes, 0)),
    receive: (fd, address, length, flags) => answer(recv(fd, address, length, flags)),
    send: (fd, address, length, flags) => answer(send(fd, address, length, flags)),
    read: (fd, address, length, offset) => answer(pread(fd, address, length, offset)),
    write: (fd, address, length, offset) => answer(pwrite(fd, address, length, offset)),
    poll: (entries, count, timeout) => answer(poll(entries, count, timeout)),
    duplicateBlocking(fd) {
      const copy = answer(fcntl(fd, duplicateOnExec, 0));
      if (copy < 0) return copy;
      const flags = answer(fcntl(copy, getFlags, 0));
      answer(fcntl(copy, setFlags, flags & ~nonBlocking));
      return copy;
    },
    pipe() {
      const ends = new Int32Array(2);
      const code = answer(pipe2(ends, nonBlocking | closeOnExec));
      return code < 0 ? code : [ends[0], ends[1]];
    },
    socketPair() {
      const ends = new Int32Array(2);
      const code = answer(socketpair(afUnix, socketStream | closeOnExec, 0, ends));
      return code < 0 ? code : [ends[0], ends[1]];
    },
    limitSend(fd, milliseconds) {
      const time = new BigInt64Array([
        BigInt(Math.floor(milliseconds / 1000)),
        BigInt((milliseconds % 1000) * 1000),
      ]);
      return answer(setsockopt(fd, solSocket, soSndTimeo, time, 16));
    },
    holdUnixSends(fd, bytes) {
      const domain = new Int32Array(1);
      const code = answer(getsockopt(fd, solSocket, soDomain, domain, new Uint32Array([4])));
      if (code === 0 && domain[0] === afUnix) {
        setsockopt(fd, solSocket, soSndBuf, new Int32Array([bytes]), 4);
      }
    },
  };
}
