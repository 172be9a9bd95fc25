import { createReadStream, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { encodeOvf } from '../../src/appliance/write-ovf.ts';
import { cowherd } from '../../src/lab/cowherd.ts';
import { makeDemoMaster } from '../../src/lab/guest/demo-master.ts';
import { testContext } from '../support/cli-context.ts';
import { have, mustRun, run, type TempDir, tempDir } from '../support/programs.ts';

const mebibyte = 1024 * 1024;
const needed = ['qemu-img', 'tar', 'sha256sum', 'gzip', 'xz'];

/** In pieces that no part of an archive begins or ends with. */
async function* piecesOf(bytes: Uint8Array, length = 7919): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += length) yield bytes.subarray(at, at + length);
}

describe.skipIf(needed.some((program) => !have(program)))('appliances from a pipe', () => {
  let dir: TempDir;
  const path = (...names: string[]) => join(dir.path, ...names);
  const compare = (disk: string) => mustRun('qemu-img', ['compare', '-f', 'raw', path('demo.raw'), disk]);

  beforeAll(async () => {
    dir = await tempDir('cowherd-ova-pipe-');
    await makeDemoMaster(path('demo.raw'), { size: 4 * mebibyte, payloadBytes: mebibyte });
    const convert = (...args: string[]) => mustRun('qemu-img', ['convert', ...args], { cwd: dir.path });
    await convert('-O', 'vmdk', '-o', 'subformat=streamOptimized', 'demo.raw', 'stream.vmdk');
    await convert('-O', 'vmdk', 'demo.raw', 'sparse.vmdk');
    await convert('-O', 'vpc', '-o', 'force_size', 'demo.raw', 'dynamic.vhd');
    await convert('-O', 'vpc', '-o', 'force_size,subformat=fixed', 'demo.raw', 'fixed.vhd');
    await mustRun('sh', ['-c', 'gzip -c stream.vmdk > stream.vmdk.gz'], { cwd: dir.path });
  });
  afterAll(() => dir.remove());

  async function piped(stdin: AsyncIterable<Uint8Array>, ...args: string[]) {
    const context = testContext({ program: 'cowherd', cwd: dir.path, env: {}, columns: 120, stdin });
    const code = await cowherd(['import', '-', ...args], context);
    return { code, out: context.out(), err: context.err() };
  }

  /** Every file in the folder, hidden ones too. */
  const all = () => readdirSync(dir.path, { recursive: true }).map(String).sort();

  /** What is refused says why, and leaves nothing. */
  async function refused(bytes: Uint8Array, why: string | RegExp, ...args: string[]): Promise<void> {
    const before = all();
    const { code, err } = await piped(piecesOf(bytes), ...(args.length > 0 ? args : ['-o', 'nothing']));
    expect([code, err]).toEqual([expect.any(Number), expect.stringMatching(why)]);
    expect(code).not.toBe(0);
    expect(all()).toEqual(before);
  }

  interface Wish {
    readonly disk?: string;
    readonly name?: string;
    readonly format?: string;
    readonly order?: readonly ('ovf' | 'mf' | 'disk')[];
    readonly change?: (text: string) => string;
    readonly spoil?: () => void;
    /** That the files lie in, in the archive. */
    readonly folder?: string;
  }

  /** An archive that tar makes, of a descriptor, a manifest that sha1sum makes, and a disk. */
  async function archive(wish: Wish): Promise<Buffer> {
    const { disk = 'stream.vmdk', name = 'box-disk1.vmdk', format = 'ustar' } = wish;
    await mustRun('rm', ['-rf', path('made')]);
    mkdirSync(path('made'));
    const disks = [{ file: name, fileBytes: 0, capacity: 4 * mebibyte, populated: 0 }];
    const machine = { name: 'box', memoryMiB: 32, cpus: 1, firmware: 'bios', networkCards: 1 } as const;
    const text = encodeOvf({ ...machine, bus: 'ide', disks });
    writeFileSync(path('made', 'box.ovf'), wish.change?.(text) ?? text);
    await mustRun('cp', [path(disk), path('made', name)]);
    await mustRun('sh', ['-c', `set -- *; sha1sum --tag "$@" | sed 's/ (/(/' > box.mf`], {
      cwd: path('made'),
    });
    wish.spoil?.();
    const files = { ovf: 'box.ovf', mf: 'box.mf', disk: name };
    const members = (wish.order ?? (['ovf', 'mf', 'disk'] as const)).map((kind) => files[kind]);
    const inside = wish.folder === undefined ? [] : ['--transform', `s,^,${wish.folder}/,`];
    await mustRun('tar', ['-cf', path('made.ova'), `--format=${format}`, ...inside, ...members], {
      cwd: path('made'),
    });
    const bytes = readFileSync(path('made.ova'));
    await mustRun('rm', ['-rf', path('made'), path('made.ova')]);
    return bytes;
  }

  it('imports what export makes, packed too, as a guest that boots', async () => {
    const context = testContext({ program: 'cowherd', cwd: dir.path, env: {}, columns: 120 });
    // What lies in the archive has a plain name, whatever it is called outside.
    const own = ['export', 'demo.raw', 'my box %41.ova', '--bus', 'ide', '--memory', '32', '--cpus', '1'];
    expect(await cowherd(own, context), context.err()).toBe(0);
    expect(await mustRun('tar', ['tf', path('my box %41.ova')])).toContain('my-box-41-disk1.vmdk');
    await mustRun('mv', [path('my box %41.ova'), path('box.ova')]);
    await mustRun('sh', ['-c', 'gzip -c box.ova > box.ova.gz; xz -0 -c box.ova > box.ova.xz'], {
      cwd: dir.path,
    });
    for (const name of ['box.ova', 'box.ova.gz', 'box.ova.xz']) {
      const stdin = createReadStream(path(name));
      const { code, out, err } = await piped(stdin, '-o', `vms-${name}`, '--output', 'json');
      expect([code, err]).toEqual([0, '']);
      expect(JSON.parse(out)).toMatchObject({ name: 'demo', memoryMiB: 32, verified: true, warnings: [] });
      expect(readdirSync(path(`vms-${name}`)).sort()).toEqual(['demo.qcow2', 'demo.xml']);
      await compare(path(`vms-${name}`, 'demo.qcow2'));
      await mustRun('qemu-img', ['check', path(`vms-${name}`, 'demo.qcow2')]);
    }
    const packed = ['import', 'box.ova.gz', '-o', 'packed file.qcow2'];
    expect(await cowherd(packed, context), context.err()).toBe(0);
    await compare(path('packed file.qcow2'));
    expect(existsSync(path('packed-file.xml'))).toBe(true);
    if (!have('qemu-system-x86_64')) return;
    const drive = `file=${path('vms-box.ova', 'demo.qcow2')},format=qcow2,if=ide`;
    const machine = ['-accel', 'tcg', '-m', '16M', '-display', 'none', '-serial', 'stdio', '-no-reboot'];
    const { stdout } = await run('qemu-system-x86_64', [...machine, '-drive', drive]);
    expect(stdout).toContain('boots=1');
  });

  it('takes archives of tar in its formats, with disks of other programs, the manifest anywhere', async () => {
    const python = '/usr/bin/python3';
    const program = 'import VMDKstream; VMDKstream.convert_to_stream("demo.raw", "vmdkstream.vmdk")';
    const made = await run(python, ['-c', program], { cwd: dir.path });
    const gzip = (text: string) => text.replace('ovf:size=', 'ovf:compression="gzip" ovf:size=');
    const escaped = (text: string) => text.replace('href="a disk.vmdk"', 'href="./a%20disk.vmdk"');
    const long = `${'long-name-'.repeat(14)}disk.vmdk`;
    const cases: (Wish & { readonly says?: RegExp })[] = [
      { format: 'gnu', name: long },
      { format: 'pax', name: long, order: ['ovf', 'disk', 'mf'] },
      { format: 'v7', order: ['mf', 'ovf', 'disk'] },
      { name: 'a disk.vmdk', change: escaped },
      { name: 'a disk.vmdk', change: escaped, folder: './a folder/box', order: ['mf', 'ovf', 'disk'] },
      { folder: 'box', order: ['ovf', 'disk', 'mf'] },
      { disk: 'stream.vmdk.gz', change: gzip, order: ['ovf', 'disk', 'mf'] },
      { order: ['ovf', 'disk'], says: /there is no manifest/ },
      { disk: 'sparse.vmdk', says: /is saved to a file/ },
      { disk: 'dynamic.vhd', says: /is saved to a file/ },
      { disk: 'fixed.vhd', name: 'box.vhd', order: ['ovf', 'disk', 'mf'], says: /is saved to a file/ },
      { disk: 'demo.raw', says: /is saved to a file/ },
    ];
    if (made.code === 0) cases.push({ disk: 'vmdkstream.vmdk' });
    for (const [index, wish] of cases.entries()) {
      const { code, err } = await piped(piecesOf(await archive(wish)), '-o', `out-${index}`);
      expect([code, err]).toEqual([0, expect.stringMatching(wish.says ?? /^$/)]);
      await compare(path(`out-${index}`, 'box.qcow2'));
      expect(readdirSync(path(`out-${index}`)).sort()).toEqual(['box.qcow2', 'box.xml']);
    }
  });

  it('takes an appliance of two disks, each as what it is, in the order of the archive', async () => {
    mkdirSync(path('two'));
    const disks = ['a', 'b'].map((letter) => ({
      file: `box-${letter}.vmdk`,
      fileBytes: 0,
      capacity: 4 * mebibyte,
      populated: 0,
    }));
    const machine = { name: 'box', memoryMiB: 32, cpus: 1, firmware: 'bios', networkCards: 1 } as const;
    writeFileSync(path('two', 'box.ovf'), encodeOvf({ ...machine, bus: 'ide', disks }));
    writeFileSync(path('second.raw'), Buffer.alloc(4 * mebibyte, 'second '));
    const stream = ['-O', 'vmdk', '-o', 'subformat=streamOptimized'];
    await mustRun('qemu-img', ['convert', ...stream, 'second.raw', 'two/box-b.vmdk'], { cwd: dir.path });
    await mustRun('cp', [path('stream.vmdk'), path('two', 'box-a.vmdk')]);
    await mustRun('sh', ['-c', `set -- box*; sha256sum --tag "$@" | sed 's/ (/(/' > box.mf`], {
      cwd: path('two'),
    });
    for (const [index, order] of [
      ['box.ovf', 'box.mf', 'box-a.vmdk', 'box-b.vmdk'],
      ['box.ovf', 'box-b.vmdk', 'box-a.vmdk', 'box.mf'],
    ].entries()) {
      await mustRun('tar', ['-cf', path('two.ova'), ...order], { cwd: path('two') });
      const { code, err } = await piped(piecesOf(readFileSync(path('two.ova'))), '-o', `pair-${index}`);
      expect([code, err]).toEqual([0, '']);
      const made = readdirSync(path(`pair-${index}`)).sort();
      expect(made).toEqual(['box-disk2.qcow2', 'box.qcow2', 'box.xml']);
      await compare(path(`pair-${index}`, 'box.qcow2'));
      const second = path(`pair-${index}`, 'box-disk2.qcow2');
      await mustRun('qemu-img', ['compare', '-f', 'raw', path('second.raw'), second]);
    }
  });

  it('refuses what is cut anywhere, and leaves nothing', async () => {
    const whole = await archive({ order: ['ovf', 'disk', 'mf'] });
    const before = all();
    for (let part = 0; part < 24; part++) {
      const cut = whole.subarray(0, Math.floor((whole.length * part) / 24) + (part % 3));
      const { code } = await piped(piecesOf(cut), '-o', 'nothing');
      expect([part, code]).toEqual([part, 1]);
    }
    // Of the end mark too: the manifest may have been meant to follow.
    const unmarked = whole.subarray(0, whole.findLastIndex((byte) => byte !== 0) + 1);
    await refused(whole.subarray(0, Math.ceil(unmarked.length / 512) * 512), 'without an end mark');
    expect(all()).toEqual(before);
  });

  it('refuses what is not what the manifest says, wherever that comes', async () => {
    const spoil = () => {
      const disk = readFileSync(path('made', 'box-disk1.vmdk'));
      disk[disk.length - 1] ^= 1;
      writeFileSync(path('made', 'box-disk1.vmdk'), disk);
    };
    for (const order of [
      ['ovf', 'mf', 'disk'],
      ['ovf', 'disk', 'mf'],
    ] as const) {
      await refused(await archive({ order, spoil }), "'box-disk1.vmdk' is not what the manifest says");
    }
    const text = () => writeFileSync(path('made', 'box.ovf'), `${readFileSync(path('made', 'box.ovf'))} `);
    await refused(await archive({ spoil: text }), "'box.ovf' is not what the manifest says");
  });

  it('refuses archives that are unordered, incomplete, or none, and grains that tables do not name', async () => {
    await refused(await archive({ order: ['disk', 'ovf'] }), 'comes before the OVF descriptor');
    await refused(await archive({ order: ['ovf'] }), "has no file 'box-disk1.vmdk'");
    await refused(await archive({ order: ['ovf', 'mf'] }), "has no file 'box-disk1.vmdk'");
    await refused(await archive({ order: ['disk', 'mf'] }), 'no OVF descriptor');
    await refused(await archive({ order: ['mf'] }), 'no OVF descriptor');
    const outside = (text: string) => text.replace('href="box-disk1', 'href="../box-disk1');
    await refused(await archive({ change: outside }), 'outside of the package');
    await refused(Buffer.from('<html>503</html>'.repeat(100)), 'neither an appliance', '-o', 'page.qcow2');
    await refused(Buffer.alloc(0), 'Nothing came');
    const stream = readFileSync(path('stream.vmdk'));
    const table = stream.readUInt32LE(Number(stream.readBigUInt64LE(56)) * 512) * 512;
    const entries = Array.from({ length: 64 }, (_, index) => stream.readUInt32LE(table + 4 * index));
    const [first, second] = entries.flatMap((entry, index) => (entry > 0 ? [index] : []));
    for (const [at, entry] of [
      [first, 0],
      [first, entries[second]],
      [entries.indexOf(0), entries[first]],
    ]) {
      const changed = Buffer.from(stream);
      changed.writeUInt32LE(entry, table + 4 * at);
      writeFileSync(path('changed.vmdk'), changed);
      await refused(await archive({ disk: 'changed.vmdk' }), 'do not agree on grain');
    }
  });

  it.skipIf(!existsSync('/proc/self'))('says where no file can be made', async () => {
    for (const [bytes, where] of [
      [await archive({}), "the folder '/proc/x': No such file"],
      [readFileSync(path('stream.vmdk')), "a file in '/proc': No such file"],
    ] as const) {
      await refused(bytes, where, '-o', '/proc/x');
    }
  });

  it('takes an image of a known format as well, and ends at Ctrl-C while nothing comes', async () => {
    await mustRun('sh', ['-c', 'xz -0 -c dynamic.vhd > dynamic.vhd.xz'], { cwd: dir.path });
    const { code, err } = await piped(createReadStream(path('dynamic.vhd.xz')), '-o', 'image.qcow2');
    expect([code, err]).toEqual([0, expect.stringContaining('is saved to a file')]);
    await compare(path('image.qcow2'));
    const before = all();
    const silent = new PassThrough();
    silent.write((await archive({})).subarray(0, 20_000));
    const stop = new AbortController();
    const context = testContext({ cwd: dir.path, env: {}, stdin: silent, signal: stop.signal });
    const ended = cowherd(['import', '-', '-o', 'nothing'], context);
    while (!existsSync(path('nothing'))) await new Promise((resolve) => setTimeout(resolve, 5));
    stop.abort('SIGINT');
    expect(await ended).toBe(130);
    expect(silent.destroyed).toBe(true);
    expect(all()).toEqual(before);
  });
});
