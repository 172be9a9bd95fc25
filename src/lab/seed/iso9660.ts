import { DiskError } from '../../errors.ts';
import { filesOfTree, type Naming, ucs2 } from './iso9660-names.ts';
import { RecordWriter, recordDate } from './iso9660-record.ts';

/** A file of the image's root folder. */
export interface IsoFile {
  /** As guests see it: POSIX characters, at most 64. */
  readonly name: string;
  readonly bytes: Uint8Array;
}

export interface IsoOptions {
  /** At most 16 characters, so that Joliet holds it too. */
  readonly volumeId: string;
  /** Of the volume and of every file, to the second, in UTC. */
  readonly date: Date;
  /** At most 512 ASCII characters for whoever wants to know the image again (ECMA-119, 8.4.32, "application use"). */
  readonly mark?: string;
}

const sector = 2048;
const systemAreaSectors = 16;
/** Where the text of `IsoOptions.mark` lies, in bytes from the image's start. */
export const markOffset = systemAreaSectors * sector + 883;
export const markBytes = 512;
const mostFiles = 1000;

/**
 * A small ISO 9660 image (ECMA-119) with one folder, its real names twice over: by Rock Ridge (IEEE P1282, RRIP 1.09) for
 * Unix guests, by Joliet for Windows. The same bytes for the same input. Throws `bad-argument` for names it cannot hold.
 */
export function encodeIso9660(files: readonly IsoFile[], options: IsoOptions): Uint8Array {
  check(files, options);
  const iso = filesOfTree(files, 'iso');
  const joliet = filesOfTree(files, 'joliet');
  // Volume descriptors at 16, 17 and 18; then four path tables of a sector each; then the folders, then the data.
  const tables = 19;
  const isoRoot = tables + 4;
  const isoRootSectors = folderSectors(iso, options.date);
  const jolietRoot = isoRoot + isoRootSectors;
  const jolietRootSectors = folderSectors(joliet, options.date);
  let next = jolietRoot + jolietRootSectors;
  const places = new Map<string, number>();
  for (const file of files) {
    places.set(file.name, next);
    next += Math.ceil(file.bytes.length / sector);
  }
  const image = new Uint8Array(next * sector);
  const at = (number: number, sectors = 1) => image.subarray(number * sector, (number + sectors) * sector);
  writeDescriptor(at(16), 'iso', options, next, isoRoot, isoRootSectors, tables);
  writeDescriptor(at(17), 'joliet', options, next, jolietRoot, jolietRootSectors, tables + 2);
  at(18).set([255, ...ascii('CD001'), 1]);
  for (const [i, root] of [isoRoot, isoRoot, jolietRoot, jolietRoot].entries()) {
    writePathTable(at(tables + i), root, i % 2 === 1);
  }
  writeFolder(at(isoRoot, isoRootSectors), iso, isoRoot, isoRootSectors, places, options.date);
  writeFolder(at(jolietRoot, jolietRootSectors), joliet, jolietRoot, jolietRootSectors, places, options.date);
  for (const file of files) image.set(file.bytes, places.get(file.name)! * sector);
  return image;
}

function check(files: readonly IsoFile[], { volumeId, mark }: IsoOptions): void {
  const refuse = (message: string, field: string) => {
    throw new DiskError('bad-argument', message, { field });
  };
  if (!/^[A-Za-z0-9_-]{1,16}$/.test(volumeId)) refuse(`'${volumeId}' is no volume name`, 'volumeId');
  if (mark !== undefined && !/^[\x20-\x7e]{0,512}$/.test(mark)) refuse('The mark is not ASCII', 'mark');
  if (files.length > mostFiles) refuse(`More than ${mostFiles} files`, 'files');
  const seen = new Set<string>();
  for (const { name } of files) {
    if (!/^[A-Za-z0-9_][A-Za-z0-9._-]{0,63}$/.test(name)) refuse(`'${name}' is no name for a file`, 'name');
    if (seen.has(name)) refuse(`Two files are called '${name}'`, 'name');
    seen.add(name);
  }
}

function ascii(text: string): number[] {
  return [...text].map((c) => c.charCodeAt(0));
}

/** ECMA-119, 8.4 (primary) and 8.5 with Joliet's escape sequence (supplementary). */
function writeDescriptor(
  into: Uint8Array,
  kind: Naming,
  { volumeId, date, mark }: IsoOptions,
  sectors: number,
  root: number,
  rootSectors: number,
  tables: number,
): void {
  const w = new RecordWriter(into);
  const padded = (text: string, length: number) => {
    if (kind === 'iso') w.bytes(ascii(text.padEnd(length, ' ').slice(0, length)));
    else w.bytes(ucs2(text.padEnd(length / 2, ' ')), length);
  };
  w.bytes([kind === 'iso' ? 1 : 2, ...ascii('CD001'), 1, 0]);
  padded('', 32);
  padded(volumeId, 32);
  w.skip(8);
  w.both32(sectors);
  // Level 3: characters of two bytes, big-endian.
  w.bytes(kind === 'iso' ? [] : ascii('%/E'), 32);
  w.both16(1);
  w.both16(1);
  w.both16(sector);
  // The path table has one entry, for the root.
  w.both32(10);
  w.little32(tables);
  w.skip(4);
  w.big32(tables + 1);
  w.skip(4);
  w.record({ name: [0], at: root, length: rootSectors * sector, date, folder: true });
  for (const length of [128, 128, 128, 128]) padded('', length);
  for (const length of [37, 37, 37]) {
    if (kind === 'iso') w.bytes(ascii(' '.repeat(length)));
    else w.bytes(ucs2(' '.repeat(18)), length);
  }
  const digits = date
    .toISOString()
    .replace(/[^0-9]/g, '')
    .slice(0, 14);
  for (let i = 0; i < 2; i++) w.bytes([...ascii(`${digits}00`), 0]);
  for (let i = 0; i < 2; i++) w.bytes([...ascii('0'.repeat(16)), 0]);
  w.bytes([1, 0]);
  w.bytes(kind === 'iso' ? ascii((mark ?? '').padEnd(markBytes, ' ')) : [], markBytes);
}

/** ECMA-119, 9.4: the root is its own parent and number 1. */
function writePathTable(into: Uint8Array, root: number, big: boolean): void {
  const view = new DataView(into.buffer, into.byteOffset);
  into[0] = 1;
  view.setUint32(2, root, !big);
  view.setUint16(6, 1, !big);
}

interface Entry {
  readonly id: readonly number[];
  readonly file?: IsoFile;
  /** Rock Ridge's fields after the record (SUSP). */
  readonly system: (date: Date) => readonly number[];
}

function entries(tree: ReturnType<typeof filesOfTree>): readonly Entry[] {
  const rock = tree.naming === 'iso';
  const none = () => [];
  return [
    { id: [0], system: rock ? (date) => [...shareProtocol, ...posix(0o40555, 2, date)] : none },
    { id: [1], system: rock ? (date) => posix(0o40555, 2, date) : none },
    ...tree.files.map(({ id, file }) => ({
      id,
      file,
      system: rock ? (date: Date) => posix(0o100444, 1, date, file.name) : none,
    })),
  ];
}

/** SP (SUSP 5.3), and ER (5.5) that names Rock Ridge; its texts may be empty. */
const shareProtocol = [
  ...[...ascii('SP'), 7, 1, 0xbe, 0xef, 0],
  ...[...ascii('ER'), 18, 1, 10, 0, 0, 1, ...ascii('RRIP_1991A')],
];

/** RR, PX, TF and NM of the Rock Ridge protocol (4.1 and after): owner root, `date` as the time of modification. */
function posix(mode: number, links: number, date: Date, name?: string): readonly number[] {
  const both = (value: number) => {
    const little = [value & 0xff, (value >> 8) & 0xff, (value >> 16) & 0xff, (value >> 24) & 0xff];
    return [...little, ...little.toReversed()];
  };
  const has = 0x01 | 0x80 | (name === undefined ? 0 : 0x08);
  return [
    ...[...ascii('RR'), 5, 1, has],
    ...[...ascii('PX'), 36, 1, ...both(mode), ...both(links), ...both(0), ...both(0)],
    ...[...ascii('TF'), 12, 1, 0x02, ...recordDate(date)],
    ...(name === undefined ? [] : [...ascii('NM'), 5 + name.length, 1, 0, ...ascii(name)]),
  ];
}

function folderSectors(tree: ReturnType<typeof filesOfTree>, date: Date): number {
  let sectors = 1;
  let used = 0;
  for (const entry of entries(tree)) {
    const length = RecordWriter.lengthOf(entry.id, entry.system(date));
    if (used + length > sector) {
      sectors += 1;
      used = 0;
    }
    used += length;
  }
  return sectors;
}

/** ECMA-119, 6.8: records in the order of their names, none across a sector's end. */
function writeFolder(
  into: Uint8Array,
  tree: ReturnType<typeof filesOfTree>,
  at: number,
  sectors: number,
  places: ReadonlyMap<string, number>,
  date: Date,
): void {
  const w = new RecordWriter(into);
  for (const { id, file, system } of entries(tree)) {
    const fields = system(date);
    const length = RecordWriter.lengthOf(id, fields);
    if ((w.at % sector) + length > sector) w.skip(sector - (w.at % sector));
    w.record({
      name: id,
      at: file ? places.get(file.name)! : at,
      length: file ? file.bytes.length : sectors * sector,
      date,
      folder: file === undefined,
      system: fields,
    });
  }
}
