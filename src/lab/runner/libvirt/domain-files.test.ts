import { describe, expect, it } from 'vitest';
import { DiskError } from '../../../errors.ts';
import type { Seat } from '../../seats/seat.ts';
import { domainsBeside } from './domain-files.ts';

/** A virsh that knows these answers. */
const virsh = (answers: Readonly<Record<string, string>>) => ({
  async run(...words: readonly string[]) {
    const answer = answers[words.join(' ')];
    if (answer === undefined) throw new DiskError('not-found', 'no such thing', { field: 'virsh' });
    return answer;
  },
});

describe('what domains use', () => {
  it('is every file of their documents, now and at the next start, under its real name', async () => {
    const documents = {
      'list --all --uuid': 'one\n\ntwo\ngone\nown\n',
      'dumpxml one':
        "<domain type='kvm' id='3'>\n<name>a &amp; b</name><disk type='file' device='disk'>" +
        "<source file='/x/it&apos;s &lt;one&gt;.qcow2' index='2'/><backingStore type='file'><source file='/x/base.raw'/></backingStore></disk>" +
        "<disk type='block' device='disk'><source dev='/dev/vg/s1'/></disk><interface><source network='default'/></interface></domain>",
      'dumpxml --inactive one': "<domain type='kvm'><disk><source file='/x/next.qcow2'/></disk></domain>",
      'dumpxml two':
        "<domain type='kvm'><name>two</name><disk type='volume'><source pool='p' volume='v'/></disk>" +
        "<disk type='volume'><source pool='closed' volume='v'/></disk><disk device='cdrom'/></domain>",
      'vol-path --pool p v': '/pools/p/v',
    };
    expect(await domainsBeside(virsh(documents), new Set(['own']))).toEqual([
      {
        uuid: 'one',
        name: 'a & b',
        files: ["/x/it's <one>.qcow2", '/x/base.raw', '/dev/vg/s1', '/x/next.qcow2'],
      },
      { uuid: 'two', name: 'two', files: ['/pools/p/v'] },
    ]);
  });

  it('of the lab’s own that are off is asked for together; whatever that does not tell is read as any', async () => {
    const uuid = (n: number) => `00000000-0000-4000-8000-0000000000${String(n).padStart(2, '0')}`;
    const seats = Array.from({ length: 12 }, (_, i) => ({ name: `s${i}`, uuid: uuid(i) }) as Seat);
    const names = seats.map(({ name }, i) => (i === 5 ? 'renamed by hand' : `test-${name}`));
    const asked: string[] = [];
    const block = (name: string, ...paths: string[]) =>
      `Domain: '${name}'\n  block.count=${paths.length}\n${paths
        .map((path, i) => `  block.${i}.name=vd${i}\n${path === '' ? '' : `  block.${i}.path=${path}\n`}`)
        .join('')}\n`;
    const plain = seats.slice(4);
    const stats = [
      block('test-s1', '/pool/s1.qcow2', ''),
      block('other', '/pool/s2.qcow2'),
      block('test-s3', '/two\nlines'),
      // Runs by now.
      block('test-s0', '/pool/s0.qcow2'),
      ...plain.map(({ name }) =>
        block(
          names[seats.findIndex((one) => one.name === name)],
          `/pool/${name}.qcow2`,
          `/by hand/it's ${name}`,
        ),
      ),
      block('foreign', '/f'),
    ].join('');
    const libvirt = {
      async run(...words: readonly string[]) {
        const line = words.join(' ');
        asked.push(line);
        if (line === 'list --all --uuid') return [...seats.map(({ uuid }) => uuid), 'f'].join('\n');
        if (line === 'list --inactive --uuid --name')
          return seats
            .flatMap(({ uuid }, i) => (i === 0 ? [] : `${uuid} ${i === 2 ? 'gone' : names[i]}`))
            .join('\n');
        if (line.startsWith('domstats ')) return stats;
        return `<domain type='kvm'><name>x</name><source file='/doc/${words.at(-1)}'/></domain>`;
      },
    };
    const found = await domainsBeside(libvirt, new Set([uuid(11)]), seats);
    expect(Object.fromEntries(found.map((one) => [one.uuid, one.files]))).toEqual(
      Object.fromEntries([
        ...[uuid(0), uuid(1), uuid(2), uuid(3), 'f'].map((one) => [one, [`/doc/${one}`]]),
        ...plain
          .slice(0, -1)
          .map((one) => [one.uuid, [`/pool/${one.name}.qcow2`, `/by hand/it's ${one.name}`]]),
      ]),
    );
    expect(asked.filter((line) => line.startsWith('dumpxml'))).toHaveLength(5);
    // A driver that does not tell.
    const mute = {
      run: async (...words: readonly string[]) => {
        if (words[0] === 'domstats') throw new DiskError('unsupported', 'this function is not supported');
        return await libvirt.run(...words);
      },
    };
    expect((await domainsBeside(mute, new Set(), seats)).map(({ files }) => files)).toEqual(
      [...seats.map(({ uuid }) => uuid), 'f'].map((uuid) => [`/doc/${uuid}`]),
    );
  });
});
