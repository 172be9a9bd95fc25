import { describe, expect, it } from 'vitest';
import { DiskError } from '../../../errors.ts';
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
});
