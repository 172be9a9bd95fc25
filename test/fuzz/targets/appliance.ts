import { parseManifest } from '../../../src/appliance/manifest.ts';
import { parseOvf } from '../../../src/appliance/parse-ovf.ts';
import { isPlainName, readTar, tarHeader } from '../../../src/appliance/tar.ts';
import { readTarStream } from '../../../src/appliance/tar-stream.ts';
import { encodeOvf } from '../../../src/appliance/write-ovf.ts';
import { bunzip2 } from '../../../src/codecs/bunzip2.ts';
import { isDiskError } from '../../../src/errors.ts';
import { MemoryStore } from '../../../src/storage/memory.ts';
import type { Random } from '../../crash/random.ts';
import { Broken, type Target } from '../target.ts';
import { textTarget } from './parsers.ts';

const disk = { file: 'a-disk1.vmdk', fileBytes: 4096, capacity: 2 ** 30, populated: 65_536 };
const machine = { name: 'a', memoryMiB: 512, cpus: 2, firmware: 'uefi', networkCards: 2 } as const;
const descriptors = [
  encodeOvf({ ...machine, bus: 'scsi', disks: [disk, { ...disk, file: 'b' }] }),
  encodeOvf({ ...machine, bus: 'sata', disks: [disk] }).replaceAll('ovf:', 'x:'),
  encodeOvf({ ...machine, bus: 'ide', disks: [] }),
];
const ovfTokens = [
  ...[
    '<',
    '>',
    '/>',
    '</Item>',
    '<Item>',
    '&',
    '&amp;',
    '&#x10ffff;',
    '&#0;',
    '<!DOCTYPE a [',
    '<!ENTITY e "x">',
  ],
  ...[
    '<![CDATA[',
    ']]>',
    '<!--',
    '-->',
    '"',
    ' ovf:capacity="',
    ' ovf:href="../x"',
    ' ovf:compression="gzip"',
  ],
  ...[
    'byte * 2^99',
    'byte * 1024^3',
    '<Disk/>',
    '<VirtualSystem>',
    '<rasd:Parent>3</rasd:Parent>',
    'ovf:/file/',
  ],
];

const digest = 'ab'.repeat(20);
const manifests = [`SHA1(a.ovf)= ${digest}\n`, `SHA256 (b.vmdk) = ${digest}${'0'.repeat(24)}\r\n`];

export const applianceTexts: readonly Target[] = [
  textTarget('OVF descriptors', 3, descriptors, ovfTokens, (text) => {
    const { disks, memoryMiB, cpus } = parseOvf(text, 'a.ovf');
    for (const { file, capacity } of disks) {
      if (file && !isPlainName(file.href)) throw new Broken(`the name ${file.href} leads elsewhere`);
      if (capacity !== undefined && !Number.isSafeInteger(capacity))
        throw new Broken('a capacity is no size');
    }
    if (!(memoryMiB >= 1 && cpus >= 1)) throw new Broken('no memory, or no processor');
  }),
  textTarget('OVF manifests', 1, manifests, ['SHA512(', ')= ', '(', '\n', 'g'], (text) =>
    parseManifest(text, 'a'),
  ),
];

/** Bytes with something wrong in them. */
function damaged(random: Random, samples: readonly Uint8Array[]): string {
  const bytes = Uint8Array.from(random.pick(samples));
  for (let left = random.pick([0, 1, 1, 2, 4]); left > 0; left--) {
    bytes[random.below(bytes.length)] = random.pick([0, 1, 0x37, 0x78, 0x80, 0xff, random.below(256)]);
  }
  const end = random.chance(0.1) ? random.below(bytes.length) : bytes.length;
  return Buffer.from(bytes.subarray(0, end)).toString('hex');
}

function archive(...parts: readonly (readonly [type: string, name: string, content: string])[]): Uint8Array {
  const blocks = parts.flatMap(([type, name, content]) => {
    const header = tarHeader(name, content.length, 0);
    header[156] = type.charCodeAt(0);
    sign(header);
    const body = Buffer.alloc(Math.ceil(content.length / 512) * 512);
    body.write(content);
    return [header, body];
  });
  return Buffer.concat([...blocks, Buffer.alloc(1024)]);
}

/** Gives a header the checksum that it should have. */
function sign(header: Uint8Array): void {
  header.fill(0x20, 148, 156);
  const sum = header.reduce((all, byte) => all + byte, 0);
  header.set(Buffer.from(`${sum.toString(8).padStart(6, '0')}\0 `), 148);
}

const archives = [
  archive(['0', 'a.ovf', 'x'.repeat(700)], ['5', 'folder/', ''], ['0', 'folder/b', '']),
  archive(['L', '././@LongLink', `${'n'.repeat(150)}\0`], ['0', 'n', 'content']),
  archive(['x', 'pax', '13 path=a/b\n12 size=3\n'], ['0', 'p', 'abc']),
];

export const tarTarget: Target = {
  name: 'tar archives',
  share: 3,
  draw(random) {
    const bytes = Buffer.from(damaged(random, archives), 'hex');
    // A wrong checksum would hide everything else that is wrong.
    if (random.chance(0.9)) {
      for (let at = 0; at + 512 <= bytes.length; at += 512)
        if (bytes[at + 257] === 0x75) sign(bytes.subarray(at, at + 512));
    }
    return bytes.toString('hex');
  },
  run: (input) =>
    outcomeOf(async () => {
      const bytes = Buffer.from(input as string, 'hex');
      const store = new MemoryStore({ name: 'a.tar' });
      await store.write(0, bytes);
      const piped = await membersOf(bytes);
      const entries = await readTar(store);
      for (const { name, offset, size } of entries) {
        if (!isPlainName(name)) throw new Broken(`the name ${name} leads elsewhere`);
        if (offset + size > bytes.length) throw new Broken('a file ends past the archive');
      }
      const contents = entries.map(({ name, offset, size }) => [
        name,
        bytes.subarray(offset, offset + size).toString('hex'),
      ]);
      if (piped && JSON.stringify(piped) !== JSON.stringify(contents))
        throw new Broken('from a pipe it is another archive');
    }),
};

/** Names and contents, from a pipe; undefined where that is refused, as a missing end mark is. */
async function membersOf(bytes: Uint8Array): Promise<[string, string][] | undefined> {
  const members: [string, string][] = [];
  const chunks = async function* () {
    for (let at = 0; at < bytes.length; at += 333) yield bytes.subarray(at, at + 333);
  };
  try {
    for await (const { name, content } of readTarStream(chunks(), 'a.tar')) {
      const pieces: Uint8Array[] = [];
      for await (const piece of content) pieces.push(piece);
      members.push([name, Buffer.concat(pieces).toString('hex')]);
    }
    return members;
  } catch (error) {
    if (isDiskError(error)) return undefined;
    throw error;
  }
}

const bzip2Samples = [
  'QlpoOTFBWSZTWU1HiQgAACeRgEAADkCQgCAAMQwIClQBkTAnROCeE4J0TwnxdyRThQkE1HiQgA==',
  'QlpoMTFBWSZTWf5HzrQAACKBiLwAAHAAEAAIMADtFiJ4aVRiDJiBqn6bRShxmr0tDCWKPnyIzdhAJ2EKXaVSvk0SKY+89fUmZfEywx98zDvM2epU5myv1RkuqfdXtBS2TVuqgXquDq1vFz14NGTcncSVwzSvrOZ0i5c12vDjkaK1sORJ+yrawaMFrWn1QpW7ThZwYpM3zj5H5Al94u5IpwoSH8j51oBCWmg5MUFZJlNZd0uwFAAAAACAAEAgACEYRoLuSKcKEg7pdgKA',
].map((text) => Buffer.from(text, 'base64'));

export const bzip2Target: Target = {
  name: 'bzip2',
  share: 2,
  draw: (random) => damaged(random, bzip2Samples),
  run: (input) =>
    outcomeOf(async () => {
      const bytes = Buffer.from(input as string, 'hex');
      let size = 0;
      const chunks = (async function* () {
        yield bytes as Uint8Array;
      })();
      for await (const piece of bunzip2(chunks, 'a.bz2')) size += piece.length;
      if (size > 1_020) throw new Broken('more bytes than there were, with a right checksum');
    }),
};

async function outcomeOf(parse: () => Promise<void>): ReturnType<Target['run']> {
  try {
    await parse();
    return 'accepted';
  } catch (error) {
    if (isDiskError(error)) return 'refused';
    throw error;
  }
}
