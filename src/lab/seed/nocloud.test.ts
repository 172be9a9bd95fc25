import { writeFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { have, mustRun, tempDir } from '../../../test/support/programs.ts';
import { type SeedDocument, seedSchema } from '../spec/seed-schema.ts';
import { encodeSeed, type SeedSeat, seedMark } from './nocloud.ts';

const seat: SeedSeat = { lab: 'class', name: 'pc_7', uuid: 'u-1', mac: '52:54:00:00:00:07', index: 6 };
const spec = (values: Partial<SeedDocument> = {}) => seedSchema().parse(values);

/** The seed's files as isoinfo reads them. */
async function filesOf(image: Uint8Array): Promise<Record<string, string>> {
  await using folder = await tempDir();
  const path = folder.file('seed.iso');
  writeFileSync(path, image);
  const names = (await mustRun('isoinfo', ['-i', path, '-R', '-f'])).trim().split('\n');
  const files: Record<string, string> = {};
  for (const name of names) files[name.slice(1)] = await mustRun('isoinfo', ['-i', path, '-R', '-x', name]);
  return files;
}

describe.skipIf(!have('isoinfo'))('a NoCloud seed', () => {
  it('says who the seat is, by templates', async () => {
    const key = 'ssh-ed25519 AAAA teacher@{lab}';
    const values = spec({
      hostname: '{seat}',
      keys: [key],
      users: [
        {
          name: 'student{n}',
          keys: [],
          password: '$6$hash',
          sudo: true,
          groups: ['video'],
          shell: '/bin/sh',
        },
      ],
      network: { address: '10.1.0.{n}/24', gateway: '10.1.0.1', dns: ['9.9.9.9'], first: 101 },
    });
    const files = await filesOf(encodeSeed(seat, { spec: values, instance: 'iid-1' }));
    expect(Object.keys(files).sort()).toEqual(['meta-data', 'network-config', 'user-data']);
    expect(parse(files['meta-data'])).toEqual({ 'instance-id': 'iid-1', 'local-hostname': 'pc-7' });
    expect(files['user-data'].split('\n')[0]).toBe('#cloud-config');
    expect(parse(files['user-data'])).toEqual({
      hostname: 'pc-7',
      preserve_hostname: false,
      manage_etc_hosts: true,
      ssh_authorized_keys: ['ssh-ed25519 AAAA teacher@class'],
      users: [
        'default',
        {
          name: 'student107',
          shell: '/bin/sh',
          groups: ['video'],
          sudo: 'ALL=(ALL) NOPASSWD:ALL',
          lock_passwd: false,
          passwd: '$6$hash',
        },
      ],
    });
    expect(parse(files['network-config'])).toEqual({
      version: 2,
      ethernets: {
        eth0: {
          match: { macaddress: seat.mac },
          'set-name': 'eth0',
          addresses: ['10.1.0.107/24'],
          routes: [{ to: '0.0.0.0/0', via: '10.1.0.1' }],
          nameservers: { addresses: ['9.9.9.9'] },
        },
      },
    });
  });

  it('puts a file of cloud-config over its own, list by list; a script goes beside it', async () => {
    const values = spec({ keys: ['a'], network: 'none' });
    // biome-ignore lint/suspicious/noTemplateCurlyInString: a shell's
    const extra = '#cloud-config\nhostname: other-{n}\nssh_authorized_keys: [b]\nruncmd: ["echo ${n} {n}"]\n';
    const files = await filesOf(encodeSeed(seat, { spec: values, instance: 'i', extra }));
    expect(Object.keys(files).sort()).toEqual(['meta-data', 'user-data']);
    expect(parse(files['user-data'])).toMatchObject({
      hostname: 'other-7',
      ssh_authorized_keys: ['a', 'b'],
      // biome-ignore lint/suspicious/noTemplateCurlyInString: a shell's
      runcmd: ['echo ${n} 7'],
    });
    const script = '#!/bin/sh\necho hello from {seat}\n';
    const mixed = (await filesOf(encodeSeed(seat, { spec: values, instance: 'i', extra: script })))[
      'user-data'
    ];
    const program = `import sys, email; print([(p.get_content_type(), p.get_payload(decode=True).decode()) for p in email.message_from_file(sys.stdin).walk() if not p.is_multipart()][1])`;
    expect(await mustRun('/usr/bin/python3', ['-c', program], { input: mixed })).toBe(
      "('text/x-shellscript', '#!/bin/sh\\necho hello from pc_7\\n')\n",
    );
  });
});

it('knows its own image again, and no other', () => {
  const image = encodeSeed(seat, { spec: spec(), instance: 'iid-9' });
  expect(seedMark(image)).toEqual({ lab: 'class', seat: 'pc_7', instance: 'iid-9' });
  expect(encodeSeed(seat, { spec: spec(), instance: 'iid-9' })).toEqual(image);
  for (const other of [new Uint8Array(), new Uint8Array(100_000), image.subarray(0, 30_000)]) {
    expect(seedMark(other)).toBeUndefined();
  }
});

it.each([
  [{ network: { address: '10.0.0.{n}/24', first: 250, dns: [] } }, 'is no address with its prefix'],
  [{ network: { address: '10.0.0.1', first: 1, dns: [] } }, 'is no address with its prefix'],
])('refuses %j', (values, message) => {
  expect(() => encodeSeed(seat, { spec: spec(values), instance: 'i' })).toThrow(message);
});

it.each(['hello', '#cloud-config\n- a\n', '#cloud-config\n{'])('refuses the user-data %j', (extra) => {
  expect(() => encodeSeed(seat, { spec: spec(), instance: 'i', extra })).toThrow('The user-data file');
});
