import { randomBytes } from 'node:crypto';
import { readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { have, mustRun } from '../support/programs.ts';
import { builtServer, nbdsh } from './support.ts';

/** How the server moves bytes: by threads and the system's calls, or by Node's event loop. */
const ways = [
  ['threads', {}],
  ['event loop', { COWHERD_NO_KOFFI: '1' }],
] as const;

/** Every command and flag, with the answers that the protocol document asks for. Prints nothing if all is well. */
const everyCommand = `
import errno
def fails(number, call, *args):
    try:
        call(*args)
    except nbd.Error as e:
        assert e.errnum == number, (e.errnum, number, call, args)
        return
    assert False, ("worked", call, args)
size = h.get_size()
assert h.can_flush() and h.can_fua() and h.can_trim() and h.can_zero() and h.can_cache() and h.can_fast_zero()
h.set_strict_mode(0)
h.pwrite(b"a" * 5000, 1234)
assert h.pread(5002, 1233) == b"\\0" + b"a" * 5000 + b"\\0"
h.pwrite(b"b" * 512, 0, nbd.CMD_FLAG_FUA)
h.flush()
h.zero(4096, 4096)
h.zero(100, 8192, nbd.CMD_FLAG_NO_HOLE)
h.zero(65536, 65536, nbd.CMD_FLAG_FUA)
try:
    h.zero(65536, 131072, nbd.CMD_FLAG_FAST_ZERO)
except nbd.Error as e:
    assert e.errnum == errno.ENOTSUP
h.trim(65536, 262144)
h.trim(512, size - 512, nbd.CMD_FLAG_FUA)
h.cache(size, 0)
big = bytes(range(256)) * (4 * 1024 * 8 + 3)
h.pwrite(big, 1024 * 1024 + 77)
assert h.pread(len(big), 1024 * 1024 + 77) == big
if h.can_df(): assert h.pread(len(big), 1024 * 1024 + 77, nbd.CMD_FLAG_DF) == big
h.pread(0, 0)
# Refused: past the end, and flags that do not belong there.
fails(errno.EINVAL, h.pread, 512, size)
fails(errno.EINVAL, h.pread, 513, size - 512)
fails(errno.ENOSPC, h.pwrite, b"x" * 513, size - 512)
fails(errno.ENOSPC, h.zero, 513, size - 512)
fails(errno.EINVAL, h.trim, 513, size - 512)
fails(errno.EINVAL, h.cache, 513, size - 512)
fails(errno.EINVAL, h.pwrite, b"x", 0, nbd.CMD_FLAG_NO_HOLE)
fails(errno.EINVAL, h.trim, 1, 0, nbd.CMD_FLAG_FAST_ZERO)
fails(errno.EINVAL, h.flush, nbd.CMD_FLAG_REQ_ONE)
assert h.pread(2, 0) == b"bb"
`;

describe.skipIf(!have('nbdsh') || !have('qemu-img'))('the server, by libnbd', () => {
  const server = builtServer();

  describe.each(ways)('%s', (_name, env) => {
    it.each(['raw', 'qcow2'])('carries out every command and flag (%s)', async (format) => {
      const image = server.file(`every.${format}`);
      await mustRun('qemu-img', ['create', '-f', format, image, '64M']);
      for (const replies of ['structured', 'simple']) {
        await using running = await server.start(['-f', format, '--discard=unmap', image], { env });
        const script =
          (replies === 'simple' ? 'h.set_request_structured_replies(False)\n' : '') +
          `h.connect_uri('${running.uri}')\n${everyCommand}`;
        expect(await nbdsh(script)).toMatchObject({ stdout: '', stderr: '', code: 0 });
        expect(await running.ended()).toBe(0);
        if (format === 'qcow2') await mustRun('qemu-img', ['check', image]);
        await mustRun('qemu-img', ['create', '-f', format, image, '64M']);
      }
    });

    it('copies both ways with 4 connections', async () => {
      const content = server.file('content.raw');
      writeFileSync(content, randomBytes(8 * 1024 * 1024 + 512));
      truncateSync(content, 32 * 1024 * 1024);
      for (const format of ['raw', 'qcow2']) {
        const [image, back] = [server.file(`copied.${format}`), server.file('back.raw')];
        await mustRun('qemu-img', ['create', '-f', format, image, '32M']);
        await using running = await server.start(['-t', '-e', '8', '-f', format, '--discard=unmap', image], {
          env,
        });
        await mustRun('nbdcopy', ['-C', '4', '--flush', content, running.uri]);
        await mustRun('nbdcopy', ['-C', '4', running.uri, back]);
        expect(readFileSync(back).equals(readFileSync(content)), format).toBe(true);
        expect(await running.stop()).toBe(0);
        await mustRun('qemu-img', ['compare', '-f', 'raw', '-F', format, content, image]);
        if (format === 'qcow2') {
          await mustRun('qemu-img', ['check', image]);
          expect(statSync(image).size).toBeLessThan(10 * 1024 * 1024);
        }
      }
    });

    it('is served by compressed clusters and by a chain', async () => {
      const [base, packed, top] = [
        server.file('base.raw'),
        server.file('packed.qcow2'),
        server.file('top.qcow2'),
      ];
      writeFileSync(base, Buffer.concat([Buffer.alloc(3_000_000, 'cowherd '), randomBytes(1_194_304)]));
      await mustRun('qemu-img', ['convert', '-c', '-O', 'qcow2', base, packed]);
      await mustRun('qemu-img', ['create', '-f', 'qcow2', '-F', 'qcow2', '-b', packed, top]);
      await mustRun('qemu-io', ['-c', 'write -P 7 100k 100k', top]);
      await using running = await server.start(['-r', '-A', '-f', 'qcow2', top], { env });
      await mustRun('qemu-img', ['compare', '-f', 'raw', '-F', 'qcow2', running.uri, top]);
      const script =
        `h.add_meta_context('qemu:allocation-depth')\nh.connect_uri('${running.uri}')\nfound=[]\n` +
        `h.block_status(h.get_size(),0,lambda c,o,e,r:found.extend(e))\nprint(found)`;
      await using again = await server.start(['-r', '-A', '-f', 'qcow2', top], { env });
      await using theirs = await server.start(['-r', '-A', '-f', 'qcow2', top], { program: 'qemu-nbd' });
      const ours = await nbdsh(script.replace(running.uri, again.uri));
      expect(ours.stderr).toBe('');
      expect(ours).toEqual(await nbdsh(script.replace(running.uri, theirs.uri)));
    });
  });

  it('answers reads of holes as holes', async () => {
    for (const format of ['raw', 'qcow2']) {
      const image = server.file(`sparse.${format}`);
      await mustRun('qemu-img', ['create', '-f', format, image, '8M']);
      await mustRun('qemu-io', ['-f', format, '-c', 'write -P 1 1M 64k', image]);
      await using running = await server.start(['-f', format, image]);
      const script =
        `h.connect_uri('${running.uri}')\nfound=[]\n` +
        `h.pread_structured(256*1024, 1024*1024-65536, lambda b,o,s,e: found.append((len(b),o,s)))\nprint(sorted(found, key=lambda c:c[1]))`;
      const { stdout, stderr } = await nbdsh(script);
      expect(stderr).toBe('');
      const [data, hole] = [1, 2];
      expect(stdout.trim(), format).toBe(
        `[(65536, 983040, ${hole}), (65536, 1048576, ${data}), (131072, 1114112, ${hole})]`,
      );
    }
  });

  it('tells of dirty bitmaps, snapshots and what cannot be written', async () => {
    const image = server.file('bitmap.qcow2');
    await mustRun('qemu-img', ['create', '-f', 'qcow2', image, '4M']);
    await mustRun('qemu-img', ['bitmap', '--add', '-g', '65536', image, 'b0']);
    await mustRun('qemu-io', ['-c', 'write -P 1 64k 128k', image]);
    await mustRun('qemu-img', ['bitmap', '--disable', image, 'b0']);
    await mustRun('qemu-img', ['snapshot', '-c', 'one', image]);
    await mustRun('qemu-io', ['-c', 'write -P 2 64k 128k', image]);
    const dirty = (uri: string) =>
      nbdsh(
        `h.add_meta_context('qemu:dirty-bitmap:b0')\nh.connect_uri('${uri}')\nfound=[]\n` +
          `h.block_status(h.get_size(),0,lambda c,o,e,r:found.extend(e))\nprint(found, h.is_read_only())`,
      );
    await using ours = await server.start(['-r', '-B', 'b0', '-f', 'qcow2', image]);
    expect((await dirty(ours.uri)).stdout).toBe('[65536, 0, 131072, 1, 3997696, 0] True\n');
    await using writable = await server.start(['-t', '-B', 'b0', '-f', 'qcow2', image]);
    expect((await dirty(writable.uri)).stdout).toBe('[65536, 0, 131072, 1, 3997696, 0] False\n');
    await writable.stop();
    await using old = await server.start(['-l', 'one', '-f', 'qcow2', image]);
    const read = await nbdsh(
      `h.connect_uri('${old.uri}')\nprint(h.pread(2, 65536), h.is_read_only())\nh.set_strict_mode(0)\n` +
        `try:\n  h.pwrite(b'x', 0)\nexcept nbd.Error as e:\n  print(e.errnum)`,
    );
    expect(read).toMatchObject({ stdout: "bytearray(b'\\x01\\x01') True\n1\n", stderr: '' });
  });

  it('leaves the image as it is with -s and --copy-on-write, for each session anew', async () => {
    const image = server.file('master.raw');
    writeFileSync(image, Buffer.alloc(1024 * 1024, 1));
    const before = readFileSync(image);
    await using sessions = await server.start(['-t', '-e', '0', '--copy-on-write', '-f', 'raw', image]);
    const script =
      `o = nbd.NBD()\no.connect_uri('${sessions.uri}')\nh.connect_uri('${sessions.uri}')\n` +
      `h.pwrite(b'22', 4095)\no.pwrite(b'33', 4095)\nh.flush()\n` +
      `print(h.pread(4, 4094), o.pread(4, 4094), h.can_multi_conn())\n`;
    for (let round = 0; round < 2; round++) {
      expect(await nbdsh(script)).toMatchObject({
        stdout: "bytearray(b'\\x0122\\x01') bytearray(b'\\x0133\\x01') False\n",
        stderr: '',
      });
    }
    await sessions.stop();
    await using one = await server.start(['-t', '-s', '-f', 'raw', image]);
    const write = `h.connect_uri('${one.uri}')\nprint(h.pread(1, 9))\nh.pwrite(b'4', 9)\nprint(h.pread(1, 9))`;
    expect((await nbdsh(write)).stdout).toBe("bytearray(b'\\x01')\nbytearray(b'4')\n");
    expect((await nbdsh(write)).stdout).toBe("bytearray(b'4')\nbytearray(b'4')\n");
    await one.stop();
    expect(readFileSync(image).equals(before)).toBe(true);
  });

  it('lists several exports, and refuses those that are not there', async () => {
    const [one, two] = [server.file('one.raw'), server.file('two.raw')];
    writeFileSync(one, Buffer.alloc(65536, 1));
    writeFileSync(two, Buffer.alloc(131072, 2));
    const more = `--export=name=second,file=${two},format=raw,read-only=on,description=The other`;
    await using running = await server.start(['-t', '-x', 'first', '-D', 'One, two', '-f', 'raw', more, one]);
    const listed = JSON.parse(await mustRun('nbdinfo', ['--list', '--json', running.uri]));
    expect(
      listed.exports.map((e: Record<string, unknown>) => [
        e['export-name'],
        e['export-size'],
        e.description,
        e.is_read_only,
      ]),
    ).toEqual([
      ['first', 65536, 'One, two', false],
      ['second', 131072, 'The other', true],
    ]);
    const missing = await nbdsh(`h.set_export_name('third')\nh.connect_unix('${running.socket}')`);
    expect(missing.stderr).toContain("no export named 'third'");
    const second = await nbdsh(
      `h.set_export_name('second')\nh.connect_unix('${running.socket}')\nprint(h.pread(1,0))`,
    );
    expect(second.stdout).toBe("bytearray(b'\\x02')\n");
  });
});
