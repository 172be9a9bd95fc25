import { createHash } from 'node:crypto';
import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { afterAll, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';
import { libc } from '../../src/platform/libc.ts';
import { have, mustRun } from '../support/programs.ts';
import { Inbox } from './inbox.ts';
import { strayed, takeOpened } from './opened.ts';

/*
 * Every verb of cow-img with `--untrusted`, at each place of its command line where an image can stand: what lies outside
 * of the image's directory is not opened, and where the verb would have needed it, it says so and changes nothing.
 */

vi.mock('node:fs', async (original) => (await import('./opened.ts')).recordOpens(await original()));

let box: Inbox;
const qemuImg = (...line: string[]) => mustRun('qemu-img', line, { cwd: box.path });

/** What leads out, by image. */
const images = {
  'backing.qcow2': { names: '../secret.raw' },
  'data.qcow2': { names: '../secret.data' },
  // Two steps: this one names only what lies beside it, and that leads out.
  'over.qcow2': { names: '../secret.raw' },
  'flat.vmdk': { names: '../secret.raw' },
} as const;
type Name = keyof typeof images;
const all = Object.keys(images) as Name[];
const qcow2 = all.filter((name) => name !== 'flat.vmdk');

/** IMG and FMT stand for the image and its format. */
interface Row {
  readonly line: string;
  /** The images that this applies to; default all. */
  readonly to?: readonly Name[];
  /** Those that the verb can do without what they name: it succeeds. */
  readonly fine?: readonly Name[];
}

const withBacking: readonly Name[] = ['backing.qcow2', 'over.qcow2'];

const rows: readonly Row[] = [
  { line: 'amend -o lazy_refcounts=on IMG', to: qcow2 },
  { line: 'bench -c 1 IMG' },
  { line: 'bench -c 1 -w IMG' },
  // Changes the header alone, but for a data file, whose length counts.
  { line: 'bitmap --add IMG b', to: qcow2, fine: withBacking },
  { line: 'bitmap --merge a -b IMG good.qcow2 b', to: ['data.qcow2'] },
  { line: 'check IMG', fine: ['data.qcow2'] },
  { line: 'check -r all IMG', to: qcow2, fine: ['data.qcow2'] },
  { line: 'commit IMG', to: qcow2 },
  { line: 'compare IMG good.qcow2' },
  { line: 'compare good.qcow2 IMG' },
  { line: 'convert -O raw IMG new' },
  { line: 'convert -O raw good.qcow2 IMG new' },
  { line: 'convert -O raw --image-opts file.filename=IMG new' },
  { line: 'convert -O qcow2 -o data_file=new.data IMG new' },
  { line: 'convert -O qcow2 -B IMG -F FMT good.qcow2 new' },
  { line: 'convert -O qcow2 -o backing_file=IMG,backing_fmt=FMT good.qcow2 new' },
  { line: 'convert -n -O FMT good.qcow2 IMG' },
  { line: 'convert -n --target-image-opts good.qcow2 file.filename=IMG' },
  { line: 'convert -l snapshot.name=s -O raw IMG new', to: qcow2 },
  // The size of the new disk is all that is asked for.
  { line: 'create -f qcow2 -b IMG -F FMT new', fine: ['data.qcow2'] },
  // Opens nothing: the image is made by the size that is given.
  { line: 'create -u -f qcow2 -b IMG -F FMT new 1M', fine: all },
  { line: 'dd -O raw if=IMG of=new' },
  // Only what the image itself says; a descriptor of VMDK says nothing without its extents.
  { line: 'info IMG', fine: qcow2 },
  { line: 'info --backing-chain IMG', fine: ['data.qcow2'] },
  { line: 'map IMG' },
  { line: 'measure -O qcow2 IMG' },
  { line: 'rebase -b good.qcow2 -F qcow2 IMG', to: qcow2 },
  { line: 'rebase -b  IMG', to: qcow2 },
  { line: 'rebase -b IMG -F FMT child.qcow2' },
  // Write another name into the header, and look at neither.
  { line: 'rebase -u -b good.qcow2 -F qcow2 IMG', to: qcow2, fine: withBacking },
  { line: 'rebase -u -b IMG -F FMT child.qcow2', fine: all },
  { line: 'resize IMG 2M' },
  { line: 'snapshot -l IMG', to: qcow2 },
  { line: 'snapshot -c new IMG', to: qcow2 },
  { line: 'snapshot -a s IMG', to: qcow2 },
  { line: 'snapshot -d s IMG', to: qcow2 },
];

const files = new Map<string, Buffer>();

const sums = (found: ReadonlyMap<string, Buffer>) =>
  [...found].map(([name, bytes]) => `${name} ${createHash('sha256').update(bytes).digest('hex')}`).sort();

async function contents(): Promise<Map<string, Buffer>> {
  const found = new Map<string, Buffer>();
  for (const folder of ['.', '..']) {
    for (const entry of await readdir(box.file(folder), { withFileTypes: true })) {
      const name = `${folder}/${entry.name}`;
      if (entry.isFile()) found.set(name, await readFile(box.file(name)));
    }
  }
  return found;
}

beforeAll(async () => {
  if (!have('qemu-img')) return;
  // Looks into the program's own file, once.
  libc();
  box = await Inbox.make();
  await mkdir(box.path, { recursive: true });
  await writeFile(box.dir.file('secret.raw'), new Uint8Array(65536).fill(0x73));
  await qemuImg('create', '-q', '-f', 'qcow2', 'good.qcow2', '64k');
  await qemuImg('create', '-q', '-f', 'qcow2', '-b', 'good.qcow2', '-F', 'qcow2', 'child.qcow2');
  await qemuImg('create', '-q', '-f', 'qcow2', '-b', '../secret.raw', '-F', 'raw', 'backing.qcow2');
  await qemuImg('create', '-q', '-f', 'qcow2', '-b', 'backing.qcow2', '-F', 'qcow2', 'over.qcow2');
  await qemuImg('create', '-q', '-f', 'qcow2', '-o', 'data_file=../secret.data', 'data.qcow2', '64k');
  await qemuImg('bitmap', '--add', 'data.qcow2', 'a');
  for (const name of withBacking) await qemuImg('snapshot', '-c', 's', name);
  await writeFile(
    box.file('flat.vmdk'),
    '# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType="monolithicFlat"\n\n' +
      '# Extent description\nRW 128 FLAT "../secret.raw" 0\n\n# The Disk Data Base\nddb.adapterType = "ide"\n',
  );
  for (const [name, bytes] of await contents()) files.set(name, bytes);
});

afterAll(async () => {
  await box?.[Symbol.asyncDispose]();
});

beforeEach(async () => {
  for (const name of (await contents()).keys()) if (!files.has(name)) await rm(box.file(name));
  for (const [name, bytes] of files) await writeFile(box.file(name), bytes);
});

describe.skipIf(!have('qemu-img'))('with --untrusted', () => {
  for (const { line, to = all, fine = [] } of rows) {
    for (const name of to) {
      const format = name === 'flat.vmdk' ? 'vmdk' : 'qcow2';
      const [verb, ...rest] = line.replaceAll('IMG', name).replaceAll('FMT', format).split(' ');
      const works = fine.includes(name);

      it(`${[verb, ...rest].join(' ')}: ${works ? 'needs nothing from outside' : 'is refused'}`, async () => {
        takeOpened();
        const answer = await box.cow([verb, '--untrusted', ...rest]);
        expect(strayed(box.path)).toEqual([]);
        if (works) {
          expect(answer).toMatchObject({ code: 0, err: '' });
          return;
        }
        expect(answer.code).toBe(verb === 'compare' ? 2 : 1);
        expect(answer.err).toContain(
          `An untrusted image names '${images[name].names}', outside its own directory`,
        );
        expect(sums(await contents())).toEqual(sums(files));
      });
    }
  }

  it('every verb is among these', async () => {
    const help = (await box.cow(['--help'])).out;
    const verbs = [...help.matchAll(/^ {2}([a-z]+) .*--untrusted/gm)].map(([, verb]) => verb);
    expect(new Set(rows.map(({ line }) => line.split(' ')[0]))).toEqual(new Set(verbs));
  });
});
