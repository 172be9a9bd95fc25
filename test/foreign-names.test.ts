import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { readImageHead } from '../src/lab/disks/overlay.ts';
import { loadLab } from '../src/lab/spec/load.ts';
import { scanImages } from '../src/lab/standing/scan.ts';
import { openLayerFile, trustedImages } from '../src/node.ts';
import { builtProgram } from './support/built-program.ts';
import { have, mustRun, run, type TempDir, tempDir } from './support/programs.ts';

/*
 * Names that are not UTF-8. Node shows them with U+FFFD, which is the name of another file: here each has such a twin, and
 * nothing may read or change that one. Lines go through bash, since Node cannot give such names to a program either.
 */

let place: TempDir;
let programs: string;
let folder = '';

beforeAll(async () => {
  place = await tempDir('cowherd-names-');
  for (const name of ['cow-img', 'cow-nbd', 'cowherd'] as const)
    if (name === 'cow-img') await builtProgram(place.path, name, name);
  programs = `node=${process.execPath}; ${['cow-img', 'cow-nbd', 'cowherd'].map((name) => `${name.replace('-', '_')}() { $node ${place.file(`bin/${name}.cjs`)} "$@"; }`).join('; ')}`;
});

afterAll(async () => place.remove());

const bash = (line: string) => run('bash', ['-c', `${programs}; ${line}`], { cwd: folder });
const files = () =>
  readdirSync(folder, 'buffer')
    .map((name) => name.toString('latin1'))
    .sort();

beforeEach(async () => {
  folder = place.file(`d${Math.random().toString(36).slice(2)}`);
  await mustRun('mkdir', [folder]);
  await mustRun(
    'bash',
    ['-c', `echo named > $'b\\xfc.raw'; echo twin > $'b\\xef\\xbf\\xbd.raw'; echo A > A.raw`],
    {
      cwd: folder,
    },
  );
});

describe('arguments', () => {
  it.each([
    "cow_img convert -f raw -O raw A.raw $'o\\xfc.raw'",
    "cow_img convert -f raw -O raw $'b\\xfc.raw' o.raw",
    "cow_img resize -f raw --shrink $'b\\xfc.raw' 0",
    "cow_img create -f qcow2 -o backing_file=$'b\\xfc.raw',backing_fmt=raw o.qcow2",
    "cow_img info --image-opts driver=raw,file.filename=$'b\\xfc.raw'",
    'cow_img info $\'json:{"driver":"raw","file.filename":"b\\xfc.raw"}\'',
    "cow_nbd -f raw -k $PWD/s $'b\\xfc.raw'",
    "cowherd inspect $'b\\xfc.raw'",
    "mkdir $'f\\xfc'; cd $'f\\xfc'; cow_img create -f raw o.raw 1M",
  ])('%s', async (line) => {
    const before = files().filter((name) => name !== 'f\xfc');
    const { code, stderr } = await bash(line);
    expect(stderr).toMatch(/\\374[^ ]*' is not UTF-8/);
    expect(code).toBe(1);
    expect(files().filter((name) => name !== 'f\xfc')).toEqual(before);
    expect(readFileSync(`${folder}/b\ufffd.raw`, 'utf8')).toBe('twin\n');
  });

  it('which truly hold U+FFFD go on', async () => {
    const { code, stderr } = await bash("cow_img convert -f raw -O raw $'b\\xef\\xbf\\xbd.raw' o.raw");
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    expect(readFileSync(`${folder}/o.raw`, 'utf8').slice(0, 5)).toBe('twin\n');
  });
});

it.each(['convert -f raw -O raw A.raw link', 'create -f raw link 1M'])(
  'a link to such a name is not followed to another file: %s',
  async (line) => {
    const before = await bash("ln -s $'b\\xfc.raw' link").then(files);
    const { code, stderr } = await bash(`cow_img ${line}`);
    expect(stderr).toMatch(/leads to '[^']*b\\374\.raw', which is not UTF-8/);
    expect(code).toBe(1);
    expect(files()).toEqual(before);
    expect(readFileSync(`${folder}/b\ufffd.raw`, 'utf8')).toBe('twin\n');
  },
);

describe.skipIf(!have('qemu-img'))('names in headers', () => {
  it.each(['qcow2', 'qed', 'qcow'])(
    '%s: shown as qemu-img shows them, and not followed to another file',
    async (format) => {
      await bash(`truncate -s 64k b*; qemu-img create -q -f ${format} -b $'b\\xfc.raw' -F raw ov.${format}`);
      const twin = readFileSync(`${folder}/b\ufffd.raw`);
      for (const line of [
        `commit -f ${format} ov.${format}`,
        `convert -f ${format} -O raw ov.${format} o.raw`,
      ]) {
        const { code, stderr } = await bash(`cow_img ${line}`);
        expect(stderr).toMatch(/The file name 'b\\374\.raw' is not UTF-8/);
        expect(code).toBe(1);
      }
      expect(readFileSync(`${folder}/b\ufffd.raw`).equals(twin)).toBe(true);
      for (const output of ['human', 'json']) {
        const shown = await bash(
          `cow_img info --output=${output} ov.${format} > ours; qemu-img info --output=${output} ov.${format} > theirs; cmp ours theirs`,
        );
        expect(shown).toEqual({ code: 0, stdout: '', stderr: '' });
      }
      if (format === 'qcow') return;
      const changed = await bash(
        `cow_img rebase -u -f ${format} -b A.raw -F raw ov.${format}; qemu-img info ov.${format}`,
      );
      expect(changed.stdout).toContain('backing file: A.raw\n');
    },
  );

  it('a header that is written again keeps the bytes of the name', async () => {
    await bash("truncate -s 64k b*; qemu-img create -q -f qcow2 -b $'b\\xfc.raw' -F raw ov.qcow2");
    const path = `${folder}/ov.qcow2`;
    {
      await using layer = (await openLayerFile(path, { writable: true, policy: trustedImages })).layer;
      const qcow2 = layer as unknown as {
        setExtension(type: number, data: Uint8Array): Promise<void>;
        setBacking(reference: unknown): Promise<void>;
      };
      await qcow2.setExtension(0x12345678, new Uint8Array(8));
      await qcow2.setBacking({ ...layer.backing, format: 'raw' });
    }
    const { stdout } = await bash("qemu-img info ov.qcow2 | grep -a -c $'^backing file: b\\xfc.raw$'");
    expect(stdout).toBe('1\n');
  });

  it('the parts of a VMDK', async () => {
    const made = await bash(
      "qemu-img create -q -f vmdk -o subformat=monolithicFlat $'d\\xfc.vmdk' 1M; mv $'d\\xfc.vmdk' d.vmdk; truncate -s 1M $'d\\xc3\\xbc-flat.vmdk' $'d\\xef\\xbf\\xbd-flat.vmdk'; cow_img convert -O raw d.vmdk o.raw",
    );
    expect(made.stderr).toMatch(/'d\\374-flat\.vmdk' is not UTF-8/);
    expect(made.code).toBe(1);
    // VMware on Windows says that it writes so.
    writeFileSync(
      `${folder}/d.vmdk`,
      readFileSync(`${folder}/d.vmdk`, 'latin1').replace(
        'version=1\n',
        'version=1\nencoding="windows-1252"\n',
      ),
      'latin1',
    );
    expect(await bash('cow_img convert -O raw d.vmdk o.raw')).toEqual({ code: 0, stdout: '', stderr: '' });
  });

  it('a lab takes an image that stands on such a name for one that it cannot tell of', async () => {
    await bash("qemu-img create -q -f qcow2 -u -b $'b\\xfc.raw' -F raw ov.qcow2 1M");
    expect(readImageHead(`${folder}/ov.qcow2`)?.damage).toMatch(/'b\\374\.raw' is not UTF-8/);
    expect(scanImages([folder])).toMatchObject({
      images: [{ path: `${folder}/ov.qcow2`, damage: expect.stringContaining("'b\\374.raw'") }],
      closed: expect.arrayContaining([`${folder}/ov.qcow2`]),
    });
  });
});

it('a lab file may not name such files', () => {
  const file = `${folder}/lab.yaml`;
  const name = (path: Buffer) =>
    writeFileSync(file, Buffer.concat([Buffer.from('lab: l\nseats: 1\nmaster: '), path, Buffer.from('\n')]));
  name(Buffer.from('b\xfc.raw', 'latin1'));
  expect(() => loadLab(file, folder)).toThrow(/'b\\374\.raw' is not UTF-8/);
  name(Buffer.from('"b\\uDCFC.raw"'));
  expect(() => loadLab(file, folder)).toThrow(/'b\\374\.raw' is not UTF-8/);
  name(Buffer.from('b\ufffd.raw'));
  expect(loadLab(file, folder).master.path).toBe(`${folder}/b\ufffd.raw`);
});
