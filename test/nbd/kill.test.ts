import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { have, mustRun, run } from '../support/programs.ts';
import { builtServer } from './support.ts';

const rounds = process.env.COWHERD_LONG === '1' ? 100 : 3;
const blockBytes = 16384;
const blocks = 512;

/*
 * Two connections write numbered blocks in turn, and say by lines what a FLUSH (of the other connection, as multi-conn
 * promises) or FUA has made durable. A block says its own number in its first and last bytes.
 */
const writer = (uri: string) => `
import random, sys
o = nbd.NBD()
for c in (h, o): c.connect_uri('${uri}')
random.seed()
def block(number, count): return b"%08d %08d" % (number, count) + bytes([count % 251]) * (${blockBytes} - 34) + b"%08d %08d" % (number, count)
count = 0
print("ready"); sys.stdout.flush()
while True:
    written = []
    for _ in range(random.randrange(1, 12)):
        count += 1
        number = random.randrange(${blocks})
        fua = random.random() < 0.2
        c = random.choice((h, o))
        if random.random() < 0.1:
            print("trim", number, count); sys.stdout.flush()
            c.trim(${blockBytes}, number * ${blockBytes})
        c.pwrite(block(number, count), number * ${blockBytes}, nbd.CMD_FLAG_FUA if fua else 0)
        if fua: print("durable", number, count); sys.stdout.flush()
        else: written.append((number, count))
    random.choice((h, o)).flush()
    for number, n in written: print("durable", number, n)
    sys.stdout.flush()
`;

describe.skipIf(!have('nbdsh') || !have('qemu-img'))('a server killed under write load', () => {
  const server = builtServer();

  it.each(['raw', 'qcow2'])(
    'has kept every block that FLUSH or FUA had answered for (%s)',
    async (format) => {
      for (let round = 0; round < rounds; round++) {
        const image = server.file(`kill.${format}`);
        await mustRun('qemu-img', ['create', '-q', '-f', format, image, String(blocks * blockBytes)]);
        await using running = await server.start(['-t', '-e', '4', '--discard=unmap', '-f', format, image]);
        const client = spawn('nbdsh', ['-c', writer(running.uri)], {
          env: { ...process.env, PATH: `/usr/bin:${process.env.PATH}` },
          stdio: ['ignore', 'pipe', 'ignore'],
        });
        let said = '';
        client.stdout.on('data', (chunk) => {
          said += chunk;
        });
        const gone = new Promise((resolve) => client.on('close', resolve));
        while (!said.includes('durable') && client.exitCode === null) await sleep(5);
        await sleep(Math.random() * 300);
        expect(await running.stop('SIGKILL')).toBe(-1);
        await gone;
        const durable = new Map<number, number>();
        for (const [, number, count] of said.matchAll(/^durable (\d+) (\d+)$/gm)) {
          durable.set(Number(number), Math.max(Number(count), durable.get(Number(number)) ?? 0));
        }
        const trimmed = new Map<number, number>();
        for (const [, number, count] of said.matchAll(/^trim (\d+) (\d+)$/gm)) {
          trimmed.set(Number(number), Number(count));
        }
        expect(durable.size).toBeGreaterThan(0);
        const plain = server.file('kill.plain');
        // Leaks are allowed (exit code 3), corruption is not.
        if (format === 'qcow2') expect([0, 3]).toContain((await run('qemu-img', ['check', image])).code);
        await mustRun('qemu-img', ['convert', '-f', format, '-O', 'raw', image, plain]);
        const content = readFileSync(plain);
        for (const [number, count] of durable) {
          const block = content.subarray(number * blockBytes, (number + 1) * blockBytes);
          const label = block.toString('latin1', 0, 17);
          const [ofNumber, found] = label.split(' ').map(Number);
          // A later write, or a trim, may have reached the disk unanswered.
          if ((trimmed.get(number) ?? 0) > count && block.every((byte) => byte === 0)) continue;
          expect([label, ofNumber], `block ${number}`).toEqual([label, number]);
          expect(found, `block ${number}`).toBeGreaterThanOrEqual(count);
        }
      }
    },
    rounds * 30_000,
  );
});
