import { randomBytes } from 'node:crypto';
import { readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { have, mustRun } from '../support/programs.ts';
import { builtServer, nbdsh, type RunningServer } from './support.ts';

/** How the server moves bytes: by threads and the system's calls, or by Node's event loop. */
const ways = [
  ['threads', {}],
  ['event-loop', { COWHERD_NO_KOFFI: '1' }],
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
def every(h):
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
  const create = (format: string, image: string, size: string) =>
    mustRun('qemu-img', ['create', '-q', '-f', format, image, size]);

  /** A chain whose base is compressed, and what qemu-nbd says of how deep its data lie. */
  let chain: string;
  let depths: string;
  const depthsOf = (socket: string, name: string) =>
    nbdsh(
      `h.add_meta_context('qemu:allocation-depth')\nh.set_export_name('${name}')\nh.connect_unix('${socket}')\nfound=[]\n` +
        `h.block_status(h.get_size(),0,lambda c,o,e,r:found.extend(e))\nprint(found)`,
    );

  beforeAll(async () => {
    const [base, packed] = [server.file('base.raw'), server.file('packed.qcow2')];
    chain = server.file('top.qcow2');
    writeFileSync(base, Buffer.concat([Buffer.alloc(3_000_000, 'cowherd '), randomBytes(1_194_304)]));
    await mustRun('qemu-img', ['convert', '-c', '-O', 'qcow2', base, packed]);
    await mustRun('qemu-img', ['create', '-f', 'qcow2', '-F', 'qcow2', '-b', packed, chain]);
    await mustRun('qemu-io', ['-c', 'write -P 7 100k 100k', chain]);
    await using theirs = await server.start(['-r', '-A', '-f', 'qcow2', chain], { program: 'qemu-nbd' });
    const answer = await depthsOf(theirs.socket, '');
    expect(answer.stderr).toBe('');
    depths = answer.stdout;
  });

  describe.each(ways)('%s', (way, env) => {
    const formats = ['raw', 'qcow2'] as const;
    const replies = ['structured', 'simple'] as const;
    const tried = formats.flatMap((format) =>
      replies.map((kind) => ({ format, kind, name: `${format}-${kind}` })),
    );
    let running: RunningServer;
    const image = (name: string) => server.file(`${way}-${name}`);
    const uri = (name: string) => `nbd+unix:///${name}?socket=${running.socket}`;

    beforeAll(async () => {
      const exports = [`name=chain,file=${chain},format=qcow2,read-only=on,allocation-depth=on`];
      for (const { format, name } of tried) {
        await create(format, image(name), '64M');
        exports.push(`name=${name},file=${image(name)},format=${format}`);
      }
      for (const format of formats) {
        const name = `copied-${format}`;
        await create(format, image(name), '32M');
        exports.push(`name=${name},file=${image(name)},format=${format}`);
      }
      const args = ['-t', '-e', '0', '--discard=unmap', ...exports.map((text) => `--export=${text}`)];
      running = await server.start(args, { env });
    });
    afterAll(async () => {
      await running?.stop();
    });

    it('carries out every command and flag (raw and qcow2, structured and simple replies)', async () => {
      // In one run: Python's start costs as much as all of it.
      const each = tried.map(
        ({ kind, name }) => `
h = nbd.NBD()
h.set_request_structured_replies(${kind === 'structured' ? 'True' : 'False'})
h.set_export_name('${name}')
h.connect_unix('${running.socket}')
try:
    every(h)
except Exception:
    print('${name}')
    raise
h.shutdown()`,
      );
      const script = everyCommand + each.join('');
      expect(await nbdsh(script)).toMatchObject({ stdout: '', stderr: '', code: 0 });
    });

    it('answers every option, and block status of one extent or many', async () => {
      const script = `
h.set_opt_mode(True)
h.set_full_info(True)
h.add_meta_context('base:allocation')
h.connect_unix('${running.socket}')
assert h.get_protocol() == 'newstyle-fixed' and h.get_structured_replies_negotiated()
names = []
assert h.opt_list(lambda name, text: names.append(name)) == ${tried.length + 3}
assert 'chain' in names and 'raw-simple' in names
seen = []
h.set_export_name('chain')
assert h.opt_list_meta_context(lambda name: seen.append(name)) == len(seen) and 'base:allocation' in seen
h.set_export_name('nowhere')
try:
    h.opt_info()
    assert False
except nbd.Error:
    pass
h.set_export_name('copied-qcow2')
h.opt_info()
assert h.get_size() == 33554432 and not h.is_read_only()
assert h.get_block_size(nbd.SIZE_MINIMUM) == 1 and h.get_block_size(nbd.SIZE_PREFERRED) == 4096
assert h.get_block_size(nbd.SIZE_MAXIMUM) == 33554432
h.opt_go()
h.pwrite(b'x' * 65536, 1048576)
def status(flags):
    found = []
    h.block_status(4194304, 0, lambda c, o, e, r: found.extend(e), flags)
    return found
many, one = status(0), status(nbd.CMD_FLAG_REQ_ONE)
assert len(one) == 2 and one == many[:2] and many[1::2] == [3, 0, 3], (one, many)
h.pwrite(b'\\0' * 65536, 1048576)
o = nbd.NBD()
o.set_opt_mode(True)
o.connect_unix('${running.socket}')
o.opt_abort()
# The oldest way in: EXPORT_NAME, by a client that does not know GO.
old = nbd.NBD()
old.set_handshake_flags(0)
old.set_export_name('chain')
old.connect_unix('${running.socket}')
assert old.get_size() == 4194304 and old.pread(7, 0) == b'cowherd'
`;
      expect(await nbdsh(script)).toMatchObject({ stdout: '', stderr: '', code: 0 });
    });

    it('copies both ways with 4 connections', async () => {
      const content = image('content.raw');
      writeFileSync(content, randomBytes(8 * 1024 * 1024 + 512));
      truncateSync(content, 32 * 1024 * 1024);
      for (const format of formats) {
        const back = image('back.raw');
        await mustRun('nbdcopy', ['-C', '4', '--flush', content, uri(`copied-${format}`)]);
        await mustRun('nbdcopy', ['-C', '4', uri(`copied-${format}`), back]);
        expect(readFileSync(back).equals(readFileSync(content)), format).toBe(true);
      }
    });

    it('is served by compressed clusters and by a chain', async () => {
      await mustRun('qemu-img', ['compare', '-f', 'raw', '-F', 'qcow2', uri('chain'), chain]);
      expect(await depthsOf(running.socket, 'chain')).toMatchObject({ stdout: depths, stderr: '' });
    });

    it('leaves sound images, which hold what was written', async () => {
      expect(await running.stop()).toBe(0);
      for (const format of formats) {
        const copied = image(`copied-${format}`);
        await mustRun('qemu-img', ['compare', '-f', 'raw', '-F', format, image('content.raw'), copied]);
        if (format === 'qcow2') expect(statSync(copied).size).toBeLessThan(10 * 1024 * 1024);
      }
      for (const name of ['qcow2-structured', 'qcow2-simple', 'copied-qcow2'])
        await mustRun('qemu-img', ['check', '-f', 'qcow2', image(name)]);
    });
  });

  it('answers reads of holes as holes, and ends when its clients have left', async () => {
    const [raw, qcow2] = [server.file('sparse.raw'), server.file('sparse.qcow2')];
    for (const [format, image] of [
      ['raw', raw],
      ['qcow2', qcow2],
    ]) {
      await create(format, image, '8M');
      await mustRun('qemu-io', ['-f', format, '-c', 'write -P 1 1M 64k', image]);
    }
    const more = `--export=name=qcow2,file=${qcow2},format=qcow2`;
    await using running = await server.start(['-e', '2', '-x', 'raw', '-f', 'raw', more, raw]);
    const script =
      `o = nbd.NBD()\nfor c, name in ((h, 'raw'), (o, 'qcow2')):\n  c.set_export_name(name)\n  c.connect_unix('${running.socket}')\n` +
      `for c in (h, o):\n  found = []\n` +
      `  c.pread_structured(256*1024, 1024*1024-65536, lambda b,o,s,e: found.append((len(b),o,s)))\n` +
      `  print(sorted(found, key=lambda c:c[1]))`;
    const { stdout, stderr } = await nbdsh(script);
    expect(stderr).toBe('');
    const [data, hole] = [1, 2];
    const pieces = `[(65536, 983040, ${hole}), (65536, 1048576, ${data}), (131072, 1114112, ${hole})]\n`;
    expect(stdout).toBe(pieces + pieces);
    expect(await running.ended()).toBe(0);
  });

  it('tells of dirty bitmaps, snapshots and what cannot be written', async () => {
    const image = server.file('bitmap.qcow2');
    await mustRun('qemu-img', ['create', '-f', 'qcow2', image, '4M']);
    await mustRun('qemu-img', ['bitmap', '--add', '-g', '65536', image, 'b0']);
    await mustRun('qemu-io', ['-c', 'write -P 1 64k 128k', image]);
    await mustRun('qemu-img', ['bitmap', '--disable', image, 'b0']);
    await mustRun('qemu-img', ['snapshot', '-c', 'one', image]);
    await mustRun('qemu-io', ['-c', 'write -P 2 64k 128k', image]);
    const dirty = (name: string, socket: string) =>
      `h.add_meta_context('qemu:dirty-bitmap:b0')\nh.set_export_name('${name}')\nh.connect_unix('${socket}')\nfound=[]\n` +
      `h.block_status(h.get_size(),0,lambda c,o,e,r:found.extend(e))\nprint(found, h.is_read_only())\n`;
    await using writable = await server.start(['-B', 'b0', '-f', 'qcow2', image]);
    expect(await nbdsh(dirty('', writable.socket))).toMatchObject({
      stdout: '[65536, 0, 131072, 1, 3997696, 0] False\n',
      stderr: '',
    });
    expect(await writable.ended()).toBe(0);
    const more = `--export=name=now,file=${image},format=qcow2,read-only=on,bitmap=b0`;
    await using reading = await server.start([
      '-e',
      '2',
      '-l',
      'one',
      '-x',
      'old',
      '-f',
      'qcow2',
      more,
      image,
    ]);
    const read = await nbdsh(
      `${dirty('now', reading.socket)}o = nbd.NBD()\no.set_export_name('old')\no.connect_unix('${reading.socket}')\n` +
        `print(o.pread(2, 65536), o.is_read_only())\no.set_strict_mode(0)\n` +
        `try:\n  o.pwrite(b'x', 0)\nexcept nbd.Error as e:\n  print(e.errnum)`,
    );
    expect(read).toMatchObject({
      stdout: "[65536, 0, 131072, 1, 3997696, 0] True\nbytearray(b'\\x01\\x01') True\n1\n",
      stderr: '',
    });
  });

  it('leaves the image as it is with -s and --copy-on-write, for each session anew', async () => {
    const image = server.file('master.raw');
    writeFileSync(image, Buffer.alloc(1024 * 1024, 1));
    const before = readFileSync(image);
    await using sessions = await server.start(['-t', '-e', '0', '--copy-on-write', '-f', 'raw', image]);
    const script =
      `for _ in range(2):\n  h, o = nbd.NBD(), nbd.NBD()\n  o.connect_uri('${sessions.uri}')\n  h.connect_uri('${sessions.uri}')\n` +
      `  h.pwrite(b'22', 4095)\n  o.pwrite(b'33', 4095)\n  h.flush()\n` +
      `  print(h.pread(4, 4094), o.pread(4, 4094), h.can_multi_conn())\n  h.shutdown()\n  o.shutdown()\n`;
    const each = "bytearray(b'\\x0122\\x01') bytearray(b'\\x0133\\x01') False\n";
    expect(await nbdsh(script)).toMatchObject({ stdout: each + each, stderr: '' });
    await sessions.stop();
    await using one = await server.start(['-t', '-s', '-f', 'raw', image]);
    const write =
      `for _ in range(2):\n  h = nbd.NBD()\n  h.connect_uri('${one.uri}')\n` +
      `  print(h.pread(1, 9))\n  h.pwrite(b'4', 9)\n  print(h.pread(1, 9))\n  h.shutdown()`;
    expect((await nbdsh(write)).stdout).toBe(
      "bytearray(b'\\x01')\nbytearray(b'4')\nbytearray(b'4')\nbytearray(b'4')\n",
    );
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
    const asked = await nbdsh(
      `o = nbd.NBD()\no.set_export_name('third')\ntry:\n  o.connect_unix('${running.socket}')\n` +
        `except nbd.Error as e:\n  print(e.string)\n` +
        `h.set_export_name('second')\nh.connect_unix('${running.socket}')\nprint(h.pread(1,0))`,
    );
    expect(asked.stdout).toContain("no export named 'third'");
    expect(asked.stdout).toContain("bytearray(b'\\x02')\n");
  });

  it.each(ways)('answers each of the reads that wait for one table for itself (%s)', async (way, env) => {
    const image = server.file(`tables-${way}.qcow2`);
    const tables = [1, 2, 3, 4, 5, 6, 7];
    await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', image, '4G']);
    const writes = tables.flatMap((table) => ['-c', `write -P ${table} ${table * 512 * 1024 + 64}k 64k`]);
    await mustRun('qemu-io', ['-f', 'qcow2', ...writes, image]);
    await using running = await server.start(['-r', '-f', 'qcow2', image], { env });
    // The one is half a hole and half data, the other a hole of the same size.
    const script = `
h.connect_uri('${running.uri}')
for table in ${JSON.stringify(tables)}:
    at = table * 512 * 1024 * 1024
    mixed, hole = nbd.Buffer(131072), nbd.Buffer(131072)
    for cookie in [h.aio_pread(mixed, at), h.aio_pread(hole, at + 131072)]:
        while not h.aio_command_completed(cookie): h.poll(-1)
    assert mixed.to_bytearray() == bytes(65536) + bytes([table]) * 65536, table
    assert hole.to_bytearray() == bytes(131072), table
`;
    expect(await nbdsh(script)).toMatchObject({ stdout: '', stderr: '', code: 0 });
  });
});
