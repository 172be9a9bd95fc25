import { mkdir, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, expect } from 'vitest';
import { formats } from '../../src/formats/index.ts';
import { mustRun } from '../support/programs.ts';
import { lines, type Row, words } from './harness.ts';
import { io, patch } from './world.ts';

/*
 * The command lines that every format is held against qemu-img with. To add a format: a file
 * test/differential/formats/NAME.test.ts that calls `formatLines({ … })` with its table, and no more. Lines that
 * answer otherwise on purpose are named under `differs`, with their entry of differences.ts. A format that is not in
 * src/formats/index.ts yet is skipped by name.
 *
 * The images lie in the folder `d` of the lines' directory: `d/plain`, `d/empty`, `d/o0` … (one for each entry of
 * `options`), `d/packed`, and what `more` makes; besides them raw.img (1 MiB), full.img, odd.img and over.qcow2.
 */

export interface FormatTable {
  /** The driver's name. */
  readonly name: string;
  /** Creation options of an image each (`cluster_size=4k`, lists with commas). */
  readonly options?: readonly string[];
  /** Option lists that are refused, or that have a message of their own. */
  readonly wrong?: readonly string[];
  /** Sizes to create and to measure, the odd and the too large ones among them. */
  readonly sizes?: readonly string[];
  /** Headers that lie, by name: bytes that are put over those of `d/plain` (or `from`), or a size it is cut to. */
  readonly liars?: Readonly<
    Record<
      string,
      {
        readonly at?: number;
        readonly bytes?: readonly number[];
        readonly size?: number;
        readonly from?: string;
      }
    >
  >;
  /** How equal a file must be that both have made. 'contents' where identifiers or times are made up. */
  readonly files?: Row['files'];
  /** Holding an image open for writing changes its file: it is not done to images that are only read. */
  readonly touches?: boolean;
  /** Keys of `info --output=json` that are never the same twice (see `TableOptions.volatile`). */
  readonly volatile?: readonly string[];
  /** 'none': it can only be read. 'converted': images come from `convert`, not `create` (it cannot be written to). */
  readonly creates?: 'none' | 'converted';
  /** `convert -c` works. */
  readonly packs?: boolean;
  /** Put after the verb of every line: `--object secret,id=s,data=x`. */
  readonly objects?: string;
  /** Options that every creation needs (`key-secret=s`). */
  readonly required?: string;
  /** How an image is given to be opened; default `-f NAME PATH`. */
  readonly opening?: (path: string) => string;
  /** More files in the folder `d` (in its parent, the lines' directory, lies the rest). */
  readonly more?: (directory: string) => Promise<void>;
  /** More lines; those of `reading` change nothing. `IMG(x)` stands for how `d/x` is opened. */
  readonly reading?: readonly (string | Row)[];
  readonly writing?: readonly (string | Row)[];
  /** What answers otherwise: lines that match, and what is said of them. Each must match one at least. */
  readonly differs?: readonly (readonly [RegExp, Omit<Row, 'line'>])[];
}

const defaultSizes = ['0', '1', '512', '1000', '64k', '1M', '2000000', '3G', '1T'];

/** Describe blocks of all lines for one format. */
export function formatLines(table: FormatTable): void {
  const driver = formats.find(({ name }) => name === table.name);
  if (!driver) throw new Error(`There is no format ${table.name}`);
  const used = new Set<RegExp>();
  const rows = (list: readonly (string | Row)[], files?: Row['files']): Row[] =>
    list.map((entry) => {
      const row: Row = typeof entry === 'string' ? { line: entry } : entry;
      const line = placed(row.line, table);
      const known = table.differs?.find(([pattern]) => pattern.test(line));
      if (known) used.add(known[0]);
      return {
        files,
        format: files === 'contents' ? formatMade(line) : undefined,
        ...row,
        line,
        ...known?.[1],
      };
    });
  const world = (path: string) => buildFormatWorld(path, table);
  const options = { world, volatile: table.volatile };
  lines(`${table.name}: reading`, rows(readingLines(table)), { ...options, readOnly: true });
  const writing = writingLines(table);
  if (writing.length > 0) lines(`${table.name}: writing`, rows(writing, table.files ?? 'bytes'), options);
  if (table.creates !== 'none')
    lines(`${table.name}: making`, rows(makingLines(table), table.files ?? 'bytes'), options);

  afterAll(() => {
    const unused = (table.differs ?? []).filter(([pattern]) => !used.has(pattern));
    expect(unused, 'matches no line').toEqual([]);
  });
}

/** The format of the file that a line makes: what `-O` or `-f` says last. */
function formatMade(line: string): string | undefined {
  const all = words(line, '');
  const at = Math.max(all.lastIndexOf('-O'), all[0] === 'create' ? all.lastIndexOf('-f') : -1);
  return at < 0 ? undefined : all[at + 1];
}

/** Puts images (`IMG(name)`) and what every line needs into a line. */
function placed(line: string, { name, objects, opening }: FormatTable): string {
  const given = line.replace(
    /IMG\(([^)]*)\)/g,
    (_, image) => opening?.(`d/${image}`) ?? `-f ${name} d/${image}`,
  );
  return objects === undefined ? given : given.replace(/^\S+/, (verb) => `${verb} ${objects}`);
}

/** The names of the images in `d`. */
function imagesOf({ options = [], packs, creates }: FormatTable): string[] {
  if (creates === 'none') return [];
  return ['plain', 'empty', ...options.map((_, i) => `o${i}`), ...(packs ? ['packed'] : [])];
}

function optionOf(table: FormatTable, ...lists: readonly (string | undefined)[]): string {
  const list = [table.required, ...lists].filter((each) => each !== undefined && each !== '').join(',');
  return list === '' ? '' : `-o ${list} `;
}

function readingLines(table: FormatTable): (string | Row)[] {
  const { name, sizes = defaultSizes, options = [], wrong = [], liars = {} } = table;
  const found: (string | Row)[] = [];
  for (const image of imagesOf(table)) {
    found.push(
      `info --output=json IMG(${image})`,
      `map --output=json IMG(${image})`,
      `check IMG(${image})`,
      `info d/${image}`,
    );
  }
  if (imagesOf(table).length > 0) {
    found.push(
      'info IMG(plain)',
      'map IMG(plain)',
      'map IMG(empty)',
      'check --output=json IMG(plain)',
      'measure -O qcow2 IMG(plain)',
      'info -U --backing-chain IMG(plain)',
      'info --output=json --backing-chain IMG(plain)',
      'map -s 100001 -l 300003 IMG(plain)',
      'map --output=json -s 1M IMG(plain)',
      'check -q IMG(plain)',
      'check -U IMG(plain)',
      'measure -O raw IMG(plain)',
      'measure --output=json IMG(plain)',
      'compare IMG(plain) d/plain',
      'compare -s IMG(empty) d/plain',
      'compare -p IMG(plain) d/empty',
      `compare -f ${name} -F raw d/plain raw.img`,
      `info -f raw d/plain`,
      `info -f qcow2 d/plain`,
      `info --image-opts driver=${name},file.filename=d/plain`,
      `info 'json:{"driver":"${name}","file":{"driver":"file","filename":"d/plain"}}'`,
      `map --output=json --image-opts driver=${name},file.driver=file,file.filename=d/plain`,
      `map --image-opts driver=${name},file.filename=d/plain,nonsense=1`,
      `info --image-opts driver=${name}`,
      'snapshot -l IMG(plain)',
      'bench -c 3 IMG(plain)',
    );
    const held = `-f ${name} d/plain`;
    const lockedLines = ['info IMG(plain)', 'info -U IMG(plain)', 'check IMG(plain)'];
    if (!table.touches) found.push(...lockedLines.map((line) => ({ line, held })));
  }
  for (const file of ['raw.img', 'odd.img', 'nothing', 'over.qcow2']) {
    found.push(`info -f ${name} ${file}`, `check -f ${name} ${file}`);
  }
  for (const liar of Object.keys(liars)) {
    const image = table.opening?.(`d/bad-${liar}`) ?? `-f ${name} d/bad-${liar}`;
    found.push(`info ${image}`, `check ${image}`, `map ${image}`, `compare ${image} raw.img`);
  }
  for (const size of sizes) found.push(`measure -O ${name} ${optionOf(table)}--size ${size}`);
  for (const list of [...options, ...wrong]) {
    found.push(`measure -O ${name} ${optionOf(table, list)}--size 1G`);
  }
  found.push(
    `measure -O ${name} ${optionOf(table)}raw.img`,
    `create -f ${name} -o help`,
    `create -f ${name} -o ? new`,
    `convert -O ${name} -o help`,
    `convert -O ${name} -o ? raw.img new`,
    `amend -f ${name} -o help`,
    `amend -f ${name} -o ? raw.img`,
    `measure -O ${name} -o help --size 1M`,
  );
  return [...found, ...(table.reading ?? [])];
}

/** Lines over images that are there. */
function writingLines(table: FormatTable): (string | Row)[] {
  const { name } = table;
  const found: (string | Row)[] = [];
  for (const image of imagesOf(table)) {
    found.push(`convert -O raw IMG(${image}) new`, `resize IMG(${image}) 3M`);
  }
  if (imagesOf(table).length > 0) {
    found.push(
      'convert -S 0 -O raw IMG(plain) new',
      'convert -W -m 4 -O raw IMG(plain) new',
      'convert -C -O raw IMG(plain) new',
      { line: 'convert -O qcow2 IMG(plain) new', files: 'contents' },
      { line: 'convert -c -O qcow2 IMG(plain) new', files: 'contents' },
      `convert -n -O ${name} raw.img d/plain`,
      `convert -n -O ${name} raw.img d/empty`,
      `convert -n -p -O ${name} over.qcow2 d/empty`,
      `dd -f ${name} -O raw if=d/plain of=new bs=64k skip=1 count=9`,
      'check -r leaks --output=json IMG(plain)',
      'resize IMG(plain) +1M',
      'resize IMG(plain) -1M',
      'resize IMG(plain) 1M',
      'resize --shrink IMG(plain) 1M',
      'check -r all IMG(plain)',
      'resize IMG(plain) 2M',
      'resize -q IMG(plain) 5000000',
      'resize --preallocation=full IMG(plain) 3M',
      'resize --preallocation=falloc IMG(plain) 3M',
      'resize --preallocation=metadata IMG(plain) 3M',
      'commit IMG(plain)',
      "rebase -u -b '' IMG(plain)",
      "rebase -b '' IMG(plain)",
      'rebase -b raw.img -F raw IMG(plain)',
      'snapshot -c x IMG(plain)',
      'snapshot -d x IMG(plain)',
      'snapshot -a x IMG(plain)',
      {
        line: `bitmap -f ${name} --add d/plain b0`,
        differs: 'node-names',
        ours: { code: 1, stderr: "Can't store persistent bitmaps to 'd/plain'" },
      },
      `amend -f ${name} -o size=3M d/plain`,
      `amend -f ${name} -o nonesuch=3M d/plain`,
      'bench -w -c 3 IMG(plain)',
      { line: 'resize IMG(plain) 3M', held: `-f ${name} d/plain` },
      { line: 'convert -O raw IMG(plain) new', held: `-f ${name} d/plain` },
    );
  }
  return [...found, ...(table.writing ?? [])];
}

/** Lines that make new images. Where both refuse, qemu-img leaves what it has made by then. */
function makingLines(table: FormatTable): Row[] {
  const { name, sizes = defaultSizes, options = [], wrong = [], packs } = table;
  const create = (options: string, rest: string) => `create -f ${name} ${optionOf(table, options)}${rest}`;
  const convert = (options: string, rest: string) => `convert -O ${name} ${optionOf(table, options)}${rest}`;
  const made = [
    ...sizes.flatMap((size) => [create('', `new ${size}`)]),
    ...[...options, ...wrong].flatMap((list) => [create(list, 'new 5M'), convert(list, 'raw.img new')]),
    ...['raw.img', 'full.img', 'odd.img', 'over.qcow2'].map((file) => convert('', `${file} new`)),
    create('', '-q new 1M'),
    create('', 'new'),
    create('size=1M', 'new'),
    create('size=1M', 'new 1M'),
    create('', 'new.with.dots.ext 1M'),
    create('', 'nowhere/new 1M'),
    create('', '-b raw.img -F raw new'),
    create('', '-u -b nothing -F raw new 1M'),
    create('', 'raw.img 1M'),
    create('nonesuch=1', 'new 1M'),
    create('preallocation=full', 'new 1M'),
    convert('', '-S 0 raw.img new'),
    convert('', '-W -m 4 raw.img new'),
    convert('', '-p raw.img new'),
    convert('', 'raw.img full.img new'),
    convert('', '-B raw.img -F raw over.qcow2 new'),
    convert('', '-c raw.img new'),
    ...(packs ? options.map((list) => convert(list, '-c raw.img new')) : []),
    `dd -O ${name} if=raw.img of=new bs=64k`,
    `dd -O ${name} if=raw.img of=new bs=1000 count=11 skip=1`,
  ];
  return made.map((line) => ({ line, filesDifferIfRefused: 'failed-create' }));
}

async function buildFormatWorld(path: string, table: FormatTable): Promise<void> {
  const { name, options = [], liars = {}, creates = 'created', packs } = table;
  await mkdir(path);
  const image = (verb: string, ...rest: string[]) =>
    mustRun('qemu-img', [verb, ...words(table.objects ?? '', ''), '-q', ...rest], { cwd: path });
  await image('create', 'raw.img', '1M');
  await io(path, 'raw', 'raw.img', 'write -P 1 0 64k', 'write -P 2 512k 4k');
  await image('create', 'full.img', '256k');
  await io(path, 'raw', 'full.img', 'write -P 3 0 256k');
  await writeFile(join(path, 'odd.img'), new Uint8Array(1000).fill(7));
  await image('create', '-f', 'qcow2', '-b', 'raw.img', '-F', 'raw', 'over.qcow2', '2M');
  await io(path, 'qcow2', 'over.qcow2', 'write -P 4 64k 70k', 'write -P 5 1500k 9k');
  await image('create', 'content.img', '2M');
  await io(path, 'raw', 'content.img', 'write -P 5 0 128k', 'write -P 6 1M 5k');
  await mkdir(join(path, 'd'));
  const make = async (file: string, list: string | undefined, pack = false) => {
    const chosen = words(optionOf(table, list), '');
    const packing = pack ? ['-c'] : [];
    if (file === 'empty') await image('create', '-f', name, ...chosen, `d/${file}`, '2M');
    else await image('convert', ...packing, '-O', name, ...chosen, 'content.img', `d/${file}`);
  };
  if (creates !== 'none') {
    await make('plain', undefined);
    await make('empty', undefined);
    for (const [i, list] of options.entries()) await make(`o${i}`, list);
    if (packs) await make('packed', undefined, true);
  }
  await table.more?.(join(path, 'd'));
  for (const [liar, { at = 0, bytes = [], size, from = 'plain' }] of Object.entries(liars)) {
    await mustRun('cp', ['--sparse=always', `d/${from}`, `d/bad-${liar}`], { cwd: path });
    await patch(path, `d/bad-${liar}`, at, bytes);
    if (size !== undefined) await truncate(join(path, `d/bad-${liar}`), size);
  }
}
