import { spawn } from 'node:child_process';
import { readdirSync, readFileSync, readlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import { describe, expect, it } from 'vitest';
import { have, mustRun } from '../support/programs.ts';
import { builtServer } from './support.ts';

/** The local addresses (as /proc has them) of the TCP sockets that a process listens on. */
function listeningOf(pid: number): string[] {
  const fds = `/proc/${pid}/fd`;
  const sockets = readdirSync(fds).flatMap((fd) => {
    try {
      return readlinkSync(`${fds}/${fd}`);
    } catch {
      // It was closed meanwhile.
      return [];
    }
  });
  return ['tcp', 'tcp6'].flatMap((table) =>
    readFileSync(`/proc/${pid}/net/${table}`, 'utf8')
      .split('\n')
      .slice(1)
      .map((line) => line.trim().split(/\s+/))
      .filter((cells) => cells[3] === '0A' && sockets.includes(`socket:[${cells[9]}]`))
      .map((cells) => cells[1]),
  );
}

describe('a socket that systemd has opened', () => {
  const server = builtServer();

  for (const program of ['cow-nbd', 'qemu-nbd']) {
    it.skipIf(!have(program === 'cow-nbd' ? 'qemu-img' : program))(
      `is all that ${program} listens on, in the background too`,
      async () => {
        const [image, pidFile] = [server.file(`${program}.raw`), server.file(`${program}.pid`)];
        writeFileSync(image, '');
        truncateSync(image, 3 << 20);
        const socket = createServer();
        await new Promise<void>((resolve) => socket.listen(0, '127.0.0.1', resolve));
        const { port } = socket.address() as AddressInfo;
        const { fd } = (socket as unknown as { readonly _handle: { readonly fd: number } })._handle;
        const command = program === 'cow-nbd' ? server.command : [program];
        const args = ['--fork', `--pid-file=${pidFile}`, '-t', '-f', 'raw', image];
        // The process that systemd starts is the one that its word names.
        const child = spawn('sh', ['-c', 'LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"', 'sh', ...command, ...args], {
          stdio: ['ignore', 'inherit', 'inherit', fd],
        });
        expect(await new Promise((resolve) => child.on('close', resolve))).toBe(0);
        // From now on the server alone has it.
        await new Promise((resolve) => socket.close(resolve));
        const pid = Number(readFileSync(pidFile, 'utf8'));
        try {
          const hexPort = port.toString(16).toUpperCase().padStart(4, '0');
          expect(listeningOf(pid)).toEqual([`0100007F:${hexPort}`]);
          expect(await mustRun('qemu-img', ['info', '-f', 'raw', `nbd://127.0.0.1:${port}`])).toContain(
            '3 MiB',
          );
        } finally {
          process.kill(pid);
        }
      },
    );
  }
});
