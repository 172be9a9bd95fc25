import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parseOvf } from '../../src/appliance/parse-ovf.ts';
import { encodeOvf } from '../../src/appliance/write-ovf.ts';
import { cowherd } from '../../src/lab/cowherd.ts';
import { makeDemoMaster } from '../../src/lab/guest/demo-master.ts';
import { testContext } from '../support/cli-context.ts';
import { have, mustRun, run, type TempDir, tempDir } from '../support/programs.ts';

const mebibyte = 1024 * 1024;
const needed = ['qemu-img', 'tar', 'sha256sum', 'gzip'];

async function command(cwd: string, ...args: string[]) {
  const context = testContext({ program: 'cowherd', cwd, env: {}, columns: 120 });
  const code = await cowherd(args, context);
  return { code, out: context.out(), err: context.err() };
}

/** As `command`; what is not well throws. */
async function must(cwd: string, ...args: string[]) {
  const answer = await command(cwd, ...args);
  expect(answer.code, answer.err).toBe(0);
  return answer;
}

describe.skipIf(needed.some((program) => !have(program)))('appliances', () => {
  let dir: TempDir;
  const path = (...names: string[]) => join(dir.path, ...names);
  const compare = (disk: string) => mustRun('qemu-img', ['compare', '-f', 'raw', path('demo.raw'), disk]);

  beforeAll(async () => {
    dir = await tempDir('cowherd-ova-');
    await makeDemoMaster(path('demo.raw'), { size: 4 * mebibyte, payloadBytes: mebibyte });
  });
  afterAll(() => dir.remove());

  /** A folder with a descriptor of one disk in a file of that name. */
  function describe1(folder: string, file: string, change = (text: string) => text): void {
    mkdirSync(path(folder), { recursive: true });
    const disks = [{ file, fileBytes: 0, capacity: 4 * mebibyte, populated: 0 }];
    const wish = {
      name: 'box',
      memoryMiB: 32,
      cpus: 1,
      firmware: 'bios',
      bus: 'ide',
      networkCards: 1,
    } as const;
    writeFileSync(path(folder, 'box.ovf'), change(encodeOvf({ ...wish, disks })));
  }

  it('exports what tar, sha256sum, xmllint and qemu-img read, and imports it as a guest that boots', async () => {
    await must(dir.path, 'export', 'demo.raw', 'box.ova', '--bus', 'ide', '--memory', '32', '--cpus', '1');
    mkdirSync(path('taken-apart'));
    await mustRun('tar', ['xf', 'box.ova', '-C', 'taken-apart'], { cwd: dir.path });
    expect((await mustRun('tar', ['tf', path('box.ova')])).trim().split('\n')).toEqual([
      'box.ovf',
      'box.mf',
      'box-disk1.vmdk',
    ]);
    const sums = readFileSync(path('taken-apart', 'box.mf'), 'utf8');
    const asked = sums.replace(/^SHA256\((.*)\)= (.*)$/gm, '$2  $1');
    await mustRun('sha256sum', ['-c'], { cwd: path('taken-apart'), input: asked });
    await compare(path('taken-apart', 'box-disk1.vmdk'));
    if (have('xmllint')) await mustRun('xmllint', ['--noout', path('taken-apart', 'box.ovf')]);
    if (have('7zz')) {
      expect(await mustRun('7zz', ['l', path('taken-apart', 'box-disk1.vmdk')])).toContain('Type = VMDK');
      expect(await mustRun('7zz', ['t', path('box.ova')])).toContain('Everything is Ok');
    }
    const { out } = await must(dir.path, 'import', 'box.ova', '-o', 'vms', '--output', 'json');
    expect(JSON.parse(out)).toMatchObject({
      name: 'demo',
      memoryMiB: 32,
      cpus: 1,
      verified: true,
      warnings: [],
    });
    await compare(path('vms', 'demo.qcow2'));
    await mustRun('qemu-img', ['check', path('vms', 'demo.qcow2')]);
    if (have('virt-xml-validate')) await mustRun('virt-xml-validate', [path('vms', 'demo.xml'), 'domain']);
    if (!have('qemu-system-x86_64')) return;
    const drive = `file=${path('vms', 'demo.qcow2')},format=qcow2,if=ide`;
    const machine = ['-accel', 'tcg', '-m', '16M', '-display', 'none', '-serial', 'stdio', '-no-reboot'];
    const { stdout } = await run('qemu-system-x86_64', [...machine, '-drive', drive]);
    expect(stdout).toContain('boots=1');
  });

  it('takes archives of tar in its formats, with disks of other programs', async () => {
    await mustRun('qemu-img', [
      ...['convert', '-O', 'vmdk', '-o', 'subformat=streamOptimized'],
      path('demo.raw'),
      path('disk.vmdk'),
    ]);
    const python = '/usr/bin/python3';
    const made = await run(
      python,
      ['-c', 'import VMDKstream; VMDKstream.convert_to_stream("demo.raw", "vmdkstream.vmdk")'],
      { cwd: dir.path },
    );
    await mustRun('qemu-img', [
      'convert',
      '-O',
      'vpc',
      '-o',
      'force_size',
      path('demo.raw'),
      path('disk.vhd'),
    ]);
    await mustRun('qemu-img', [
      ...['convert', '-O', 'vpc', '-o', 'force_size,subformat=fixed'],
      path('demo.raw'),
      path('fixed.vhd'),
    ]);
    await mustRun('sh', ['-c', 'gzip -c disk.vmdk > disk.vmdk.gz'], { cwd: dir.path });
    const gzip = (text: string) => text.replace('ovf:size=', 'ovf:compression="gzip" ovf:size=');
    const long = `${'long-name-'.repeat(14)}disk.vmdk`;
    const cases: [string, string, string, ((text: string) => string)?][] = [
      ['gnu', 'disk.vmdk', long],
      ['pax', 'disk.vmdk', long],
      ['ustar', 'disk.vhd', 'disk.vhd'],
      ['gnu', 'disk.vhd', 'a disk.vhd', (text) => text.replace('"a disk.vhd"', '"a%20disk.vhd"')],
      ['v7', 'fixed.vhd', 'disk.vhd'],
      ['gnu', 'disk.vmdk.gz', 'disk.vmdk.gz', gzip],
    ];
    if (made.code === 0) cases.push(['gnu', 'vmdkstream.vmdk', 'v.vmdk']);
    for (const [index, [format, from, name, change]] of cases.entries()) {
      const folder = `made-${index}`;
      describe1(folder, name, change);
      await mustRun('cp', [path(from), path(folder, name)]);
      await mustRun('sh', ['-c', `set -- *; sha1sum --tag "$@" | sed 's/ (/(/' > box.mf`], {
        cwd: path(folder),
      });
      await mustRun('tar', ['-cf', path(`${folder}.ova`), `--format=${format}`, 'box.ovf', 'box.mf', name], {
        cwd: path(folder),
      });
      const { err } = await must(dir.path, 'import', `${folder}.ova`, '-o', `out-${index}`);
      // Only what is packed by gzip has something to say.
      expect(err).toMatch(change === gzip ? /unpacked first/ : /^$/);
      await compare(path(`out-${index}`, 'box.qcow2'));
      expect(readdirSync(path(`out-${index}`)).sort()).toEqual(['box.qcow2', 'box.xml']);
    }
    // The folder itself does as well.
    await must(dir.path, 'import', 'made-2', '-o', 'from-folder.qcow2');
    await compare(path('from-folder.qcow2'));
  });

  it('takes archives whose descriptor lies in a folder, from where it names files', async () => {
    describe1('deep/er', 'disks/a disk.raw', (text) =>
      text.replace('"disks/a disk.raw"', '"./disks/a%20disk.raw"'),
    );
    mkdirSync(path('deep/er/disks'));
    await mustRun('cp', [path('demo.raw'), path('deep/er/disks/a disk.raw')]);
    const sums = `sha256sum --tag box.ovf 'disks/a disk.raw' | sed 's/ (/(/' > box.mf`;
    await mustRun('sh', ['-c', sums], { cwd: path('deep/er') });
    const ending = ['box.mf', 'disks/a disk.raw'].map((name) => `deep/er/${name}`);
    // Its namesake at the top is another file.
    await mustRun('cp', ['-r', path('deep/er/disks'), path('disks')]);
    writeFileSync(path('disks/a disk.raw'), Buffer.alloc(mebibyte));
    const members = ['disks/a disk.raw', 'deep/er/box.ovf', ...ending];
    await mustRun('tar', ['-cf', path('deep.ova'), ...members], { cwd: dir.path });
    const { out } = await must(dir.path, 'import', 'deep.ova', '-o', 'from-deep', '--output', 'json');
    expect(JSON.parse(out)).toMatchObject({ verified: true, warnings: [] });
    await compare(path('from-deep', 'box.qcow2'));
    expect((await must(dir.path, 'inspect', 'deep.ova')).out).toContain('allowed');
    const descriptor = readFileSync(path('deep/er/box.ovf'), 'utf8');
    const refused = async (what: string, href: string, ...sums: string[]) => {
      writeFileSync(path('deep/er/box.ovf'), descriptor.replace('./disks/a%20disk.raw', href));
      writeFileSync(path('deep/er/box.mf'), sums.join('\n'));
      await mustRun('tar', ['-cf', path('deep.ova'), ...members], { cwd: dir.path });
      const { code, err } = await command(dir.path, 'import', 'deep.ova', '-o', 'nothing');
      expect([code, err]).toEqual([expect.any(Number), expect.stringContaining(what)]);
      expect([code === 0, existsSync(path('nothing'))]).toEqual([false, false]);
    };
    // Neither by climbing, nor as if it were named from the top.
    await refused('outside of the package', '../../disks/a%20disk.raw');
    await refused('outside of the package', '/deep/er/disks/a%20disk.raw');
    await refused('has no file', 'deep/er/disks/a%20disk.raw');
    const sum = `SHA256(../../disks/a disk.raw)= ${'0'.repeat(64)}`;
    await refused('has no file', 'disks/a%20disk.raw', sum);
  });

  it('boots from the first place of the first controller, and says what hardware is left out', async () => {
    const names = ['c.raw', 'b.raw', 'a.raw'];
    const disks = names.map((file) => ({ file, fileBytes: 0, capacity: 4 * mebibyte, populated: 0 }));
    const wish = { name: 'box', memoryMiB: 32, cpus: 1, firmware: 'bios', networkCards: 0 } as const;
    const text = encodeOvf({ ...wish, bus: 'ide', disks })
      // The controllers change places: the third disk is alone on what is now the first.
      .replace(/<rasd:Address>([01])</g, (_, place) => `<rasd:Address>${1 - Number(place)}<`)
      .replace(
        '</VirtualHardwareSection>',
        `<Item xmlns:rasd="r"><rasd:ElementName>a floppy</rasd:ElementName><rasd:ResourceType>14</rasd:ResourceType></Item>$&`,
      );
    const parsed = parseOvf(text, 'box.ovf');
    expect(parsed.disks.map(({ file }) => file?.href)).toEqual(['a.raw', 'c.raw', 'b.raw']);
    expect(parsed.unknown).toEqual(['a floppy']);
  });

  it('refuses what is damaged or hostile, and leaves nothing behind', async () => {
    describe1('hostile', 'disk.raw');
    await mustRun('cp', [path('demo.raw'), path('hostile', 'disk.raw')]);
    const descriptor = readFileSync(path('hostile', 'box.ovf'), 'utf8');
    const refused = async (what: string, text: string) => {
      writeFileSync(path('hostile', 'box.ovf'), text);
      const { code, err } = await command(dir.path, 'import', 'hostile', '-o', 'nothing');
      expect([code, err]).toEqual([1, expect.stringContaining(what)]);
      expect(existsSync(path('nothing'))).toBe(false);
    };
    await refused('outside of the package', descriptor.replace('href="disk.raw"', 'href="../demo.raw"'));
    await refused('outside of the package', descriptor.replace('href="disk.raw"', 'href="/etc/passwd"'));
    await refused('not in the package', descriptor.replace('href="disk.raw"', 'href="http://a.example/d"'));
    await refused('document type', descriptor.replace('?>', '?><!DOCTYPE a [<!ENTITY b "c">]>'));
    await refused('entity', descriptor.replace('<Name>box', '<Name>&lol9;'));
    await refused(
      'capacity',
      descriptor.replace(`capacity="${4 * mebibyte}"`, 'capacity="99999999999999999999"'),
    );
    await refused('memory', descriptor.replace('Quantity>32<', 'Quantity>99999999999<'));
    writeFileSync(path('hostile', 'box.ovf'), descriptor);
    await mustRun('sh', ['-c', 'sha256sum --tag disk.raw box.ovf | sed "s/ (/(/" > box.mf'], {
      cwd: path('hostile'),
    });
    writeFileSync(path('hostile', 'disk.raw'), Buffer.alloc(4 * mebibyte));
    const wrong = await command(dir.path, 'import', 'hostile', '-o', 'nothing');
    expect([wrong.code, wrong.err]).toEqual([1, expect.stringContaining('not what the manifest says')]);
    await mustRun('rm', [path('hostile', 'box.mf'), path('hostile', 'disk.raw')]);
    symlinkSync(path('demo.raw'), path('hostile', 'disk.raw'));
    const link = await command(dir.path, 'import', 'hostile', '-o', 'nothing');
    expect([link.code, link.err]).toEqual([1, expect.stringContaining('leads out of the folder')]);
    expect(readdirSync(dir.path).filter((name) => name === 'nothing' || name.startsWith('.'))).toEqual([]);
  });

  it('refuses archives whose names lead elsewhere, and those that are cut short', async () => {
    describe1('escape', 'disk.raw');
    await mustRun('tar', ['-cPf', path('escape.ova'), 'escape/box.ovf', 'escape/../demo.raw'], {
      cwd: dir.path,
    });
    const outside = await command(dir.path, 'import', 'escape.ova', '-o', 'nowhere');
    expect([outside.code, outside.err]).toEqual([1, expect.stringContaining('outside of its folder')]);
    writeFileSync(path('cut.ova'), readFileSync(path('escape.ova')).subarray(0, 100_000));
    const cut = await command(dir.path, 'import', 'cut.ova', '-o', 'nowhere');
    expect([cut.code, cut.err]).toEqual([1, expect.stringContaining('cut short')]);
    expect(existsSync(path('nowhere'))).toBe(false);
  });

  it('ends at Ctrl-C without a file, replaces nothing unasked, and only tells with --dry-run', async () => {
    const before = readdirSync(dir.path).sort();
    for (const args of [
      ['export', 'demo.raw', 'stopped.ova'],
      ['import', 'demo.raw', '-o', 'stopped.qcow2'],
    ]) {
      const stop = AbortSignal.abort('SIGINT');
      const context = testContext({ program: 'cowherd', cwd: dir.path, env: {}, columns: 120, signal: stop });
      expect(await cowherd(args, context)).toBe(130);
    }
    expect((await command(dir.path, 'import', 'demo.raw', '-o', 'demo.raw')).err).toContain('exists already');
    await must(dir.path, 'export', 'demo.raw', 'whole.ova');
    // No file can be made there.
    for (const place of existsSync('/proc/self') ? ['/proc/x', '/proc/x/y.qcow2'] : []) {
      for (const from of ['demo.raw', 'whole.ova']) {
        const { code, err } = await command(dir.path, 'import', from, '-o', place);
        expect([code, err]).toEqual([expect.any(Number), expect.stringMatching(/No such file|Could not/)]);
        expect(code).toBeGreaterThan(0);
      }
    }
    rmSync(path('whole.ova'));
    const told = await must(dir.path, 'export', 'demo.raw', 'told.ova', '--dry-run', '--output', 'json');
    expect(JSON.parse(told.out)).toMatchObject({
      dryRun: true,
      bus: 'sata',
      disks: [{ capacity: 4 * mebibyte }],
    });
    expect(readdirSync(dir.path).sort()).toEqual(before);
  });
});
