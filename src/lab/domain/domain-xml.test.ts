import { writeFileSync } from 'node:fs';
import { DOMParser } from '@xmldom/xmldom';
import { describe, expect, it } from 'vitest';
import { have, mustRun, run, tempDir } from '../../../test/support/programs.ts';
import { isDiskError } from '../../errors.ts';
import type { Seat } from '../seats/seat.ts';
import { domainName, domainXml, metadataNamespace } from './domain-xml.ts';

const plain: Seat = {
  lab: 'networking-101',
  name: 'student-07',
  uuid: '6ba7b810-9dad-51d1-80b4-00c04fd430c8',
  mac: '52:54:00:12:34:56',
  memoryMiB: 512,
  cpus: 2,
  disk: { path: '/labs/networking-101/student-07.qcow2', format: 'qcow2', bus: 'virtio' },
  network: { kind: 'user' },
  definition: '/labs/networking-101/student-07.xml',
  serialLog: '/labs/networking-101/student-07.log',
  master: '/labs/masters/debian-12.qcow2',
  graphics: 'none',
  firmware: 'bios',
};
/** Every character that means something to XML, quotes included, and some that are not ASCII. */
const awkward = `/labs/<R&D> "Ünïcode" 'ök' ]]> 🐄/disk.qcow2`;

const seats: Readonly<Record<string, Seat>> = {
  plain,
  'on an IDE disk, with a CD-ROM, VNC and no network': {
    ...plain,
    disk: { path: awkward, format: 'raw', bus: 'ide' },
    serialLog: `${awkward}.log`,
    master: awkward,
    cdrom: '/iso/debian & more.iso',
    network: { kind: 'none' },
    graphics: 'vnc',
  },
  'on a SATA disk and a libvirt network': {
    ...plain,
    disk: { ...plain.disk, bus: 'sata' },
    network: { kind: 'network', name: 'default' },
    master: undefined,
  },
  'with UEFI, a TPM, more disks, a seed and SPICE': {
    ...plain,
    cdrom: '/iso/tools.iso',
    seed: '/labs/student-07.seed.iso',
    disks: [
      { path: '/labs/student-07+a.qcow2', format: 'qcow2', bus: 'virtio' },
      { path: '/labs/student-07+b.qcow2', format: 'qcow2', bus: 'sata' },
    ],
    graphics: 'spice',
    firmware: 'uefi',
    tpm: true,
  },
  'on a bridge': { ...plain, network: { kind: 'bridge', name: 'br0' } },
};

describe('domain XML', () => {
  it('is the same text for the same seat', () => {
    expect(domainXml(plain, { type: 'kvm' })).toMatchInlineSnapshot(`
      "<domain type="kvm">
        <name>networking-101-student-07</name>
        <uuid>6ba7b810-9dad-51d1-80b4-00c04fd430c8</uuid>
        <title>student-07 of networking-101</title>
        <metadata>
          <cowherd:seat lab="networking-101" name="student-07" master="/labs/masters/debian-12.qcow2" xmlns:cowherd="urn:x-cowherd:lab:1"/>
        </metadata>
        <memory unit="MiB">512</memory>
        <vcpu>2</vcpu>
        <os>
          <type arch="x86_64" machine="pc">hvm</type>
        </os>
        <features>
          <acpi/>
          <apic/>
        </features>
        <cpu mode="host-passthrough"/>
        <clock offset="utc"/>
        <on_poweroff>destroy</on_poweroff>
        <on_reboot>restart</on_reboot>
        <on_crash>destroy</on_crash>
        <devices>
          <disk type="file" device="disk">
            <driver name="qemu" type="qcow2" discard="unmap"/>
            <source file="/labs/networking-101/student-07.qcow2"/>
            <serial>6ba7b8109dad51d180b4</serial>
            <target dev="vda" bus="virtio"/>
            <boot order="1"/>
          </disk>
          <interface type="user">
            <mac address="52:54:00:12:34:56"/>
            <model type="virtio"/>
          </interface>
          <serial type="pty">
            <log file="/labs/networking-101/student-07.log" append="off"/>
            <target port="0"/>
          </serial>
          <console type="pty">
            <target type="serial" port="0"/>
          </console>
          <controller type="usb" model="none"/>
        </devices>
      </domain>
      "
    `);
    expect(domainXml({ ...plain }, { type: 'kvm' })).toBe(domainXml(plain, { type: 'kvm' }));
  });

  it('keeps every character of a path', () => {
    const seat = seats['on an IDE disk, with a CD-ROM, VNC and no network'];
    const document = new DOMParser().parseFromString(domainXml(seat, { type: 'qemu' }), 'text/xml');
    const sources = Array.from(document.getElementsByTagName('source'), (e) => e.getAttribute('file'));
    expect(sources).toEqual([awkward, seat.cdrom]);
    const ours = document.getElementsByTagNameNS(metadataNamespace, 'seat')[0];
    expect(ours.getAttribute('master')).toBe(awkward);
    expect(ours.getAttribute('name')).toBe('student-07');
  });

  it.each(['/a\nb', '/a\tb', '/a\u0000b', '/a\u001bb', '/a\ud800b', '/a\uffffb'])(
    'refuses the path %j',
    (path) => {
      let thrown: unknown;
      try {
        domainXml({ ...plain, serialLog: path }, { type: 'qemu' });
      } catch (error) {
        thrown = error;
      }
      expect(isDiskError(thrown, 'bad-argument')).toBe(true);
      expect((thrown as { field?: string }).field).toBe('log/@file');
    },
  );
});

describe.skipIf(!have('virt-xml-validate') || !have('xmllint'))("domain XML against libvirt's schema", () => {
  for (const [name, seat] of Object.entries(seats)) {
    for (const type of ['kvm', 'qemu'] as const) {
      it(`validates a seat that is ${name}, as ${type}`, async () => {
        await using folder = await tempDir();
        const file = folder.file('domain.xml');
        writeFileSync(file, domainXml(seat, { type }));
        const result = await run('virt-xml-validate', [file, 'domain']);
        expect(`${result.stdout}${result.stderr}`).toContain('validates');
        expect(result.code).toBe(0);
      });
    }
  }

  it('validates a disk with what it stands on', async () => {
    await using folder = await tempDir();
    const file = folder.file('domain.xml');
    const backing = { path: awkward, format: 'qcow2' };
    writeFileSync(file, domainXml(plain, { type: 'qemu', backing }));
    const result = await run('virt-xml-validate', [file, 'domain']);
    expect(`${result.stdout}${result.stderr}`).toContain('validates');
  });

  it('would notice a document that is wrong', async () => {
    await using folder = await tempDir();
    const file = folder.file('domain.xml');
    writeFileSync(file, domainXml(plain, { type: 'qemu' }).replace('<vcpu>2<', '<vcpu>many<'));
    expect((await run('virt-xml-validate', [file, 'domain'])).code).not.toBe(0);
  });
});

describe.skipIf(!have('virsh'))('domain XML as libvirt reads it', () => {
  for (const [name, seat] of Object.entries(seats)) {
    it(`defines a seat that is ${name}`, async () => {
      await using folder = await tempDir();
      const file = folder.file('domain.xml');
      // The test driver knows one domain type.
      writeFileSync(file, domainXml(seat, { type: 'kvm' }).replace('type="kvm"', 'type="test"'));
      const commands = `define ${file}; dumpxml ${domainName(seat)}; domuuid ${domainName(seat)}`;
      const output = await mustRun('virsh', ['-c', 'test:///default', commands]);
      expect(output).toContain(`Domain '${domainName(seat)}' defined`);
      const document = new DOMParser().parseFromString(
        output.slice(output.indexOf('<domain'), output.indexOf('</domain>') + 9),
        'text/xml',
      );
      const value = (tag: string, attribute: string) =>
        Array.from(document.getElementsByTagName(tag), (e) => e.getAttribute(attribute));
      expect(value('source', 'file').filter((file) => file === seat.disk.path)).toHaveLength(1);
      expect(value('mac', 'address')).toEqual(seat.network.kind === 'none' ? [] : [seat.mac]);
      expect(value('log', 'file')).toContain(seat.serialLog);
      expect(document.getElementsByTagNameNS(metadataNamespace, 'seat')[0].getAttribute('lab')).toBe(
        seat.lab,
      );
      expect(output).toContain(seat.uuid);
    });
  }
});
