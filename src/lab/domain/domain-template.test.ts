import { writeFileSync } from 'node:fs';
import { DOMParser } from '@xmldom/xmldom';
import { describe, expect, it } from 'vitest';
import { have, run, tempDir } from '../../../test/support/programs.ts';
import type { Seat } from '../seats/seat.ts';
import { domainFromTemplate } from './domain-template.ts';
import { metadataNamespace } from './domain-xml.ts';

const seat: Seat = {
  lab: 'class',
  name: 'pc-1',
  uuid: '6ba7b810-9dad-51d1-80b4-00c04fd430c8',
  mac: '52:54:00:12:34:56',
  memoryMiB: 512,
  cpus: 2,
  disk: { path: '/labs/class/pc-1.qcow2', format: 'qcow2', bus: 'virtio' },
  network: { kind: 'bridge', name: 'br7' },
  seed: '/labs/class/pc-1.seed.iso',
  disks: [{ path: '/labs/class/pc-1+data.qcow2', format: 'qcow2', bus: 'virtio' }],
  definition: '/labs/class/pc-1.xml',
  serialLog: '/labs/class/pc-1.log',
  master: '/labs/m.qcow2',
  graphics: 'spice',
  firmware: 'bios',
  tpm: true,
};

/** As virt-install makes one, with things in it that we know nothing of. */
const xml = `<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>golden</name>
  <uuid>11111111-2222-3333-4444-555555555555</uuid>
  <genid>99999999-2222-3333-4444-555555555555</genid>
  <metadata>
    <libosinfo:libosinfo xmlns:libosinfo="http://libosinfo.org/xmlns/libvirt/domain/1.0">
      <libosinfo:os id="http://debian.org/debian/12"/>
    </libosinfo:libosinfo>
  </metadata>
  <memory unit='KiB'>4194304</memory>
  <currentMemory unit='KiB'>4194304</currentMemory>
  <memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>
  <vcpu placement='static' current='1'>4</vcpu>
  <os>
    <type arch='x86_64' machine='pc-q35-7.2'>hvm</type>
    <loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE_4M.fd</loader>
    <nvram template='/usr/share/OVMF/OVMF_VARS_4M.fd'>/var/lib/libvirt/qemu/nvram/golden_VARS.fd</nvram>
  </os>
  <features><acpi/><apic/><vmport state='off'/></features>
  <cpu mode='host-passthrough' check='none' migratable='on'><topology sockets='1' dies='1' cores='4' threads='1'/></cpu>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='cdrom'>
      <driver name='qemu' type='raw'/>
      <target dev='sda' bus='sata'/>
      <readonly/>
    </disk>
    <disk type='block' device='disk'>
      <driver name='qemu' type='raw' cache='none' io='native'/>
      <source dev='/dev/vg/golden'/>
      <target dev='vda' bus='virtio'/>
      <iotune><total_iops_sec>500</total_iops_sec></iotune>
      <boot order='1'/>
    </disk>
    <interface type='network'>
      <mac address='52:54:00:aa:aa:aa'/>
      <source network='default'/>
      <model type='virtio'/>
    </interface>
    <interface type='network'>
      <mac address='52:54:00:bb:bb:bb'/>
      <source network='lab'/>
      <model type='e1000e'/>
    </interface>
    <channel type='unix'>
      <source mode='bind' path='/var/lib/libvirt/qemu/channel/golden.agent'/>
      <target type='virtio' name='org.qemu.guest_agent.0'/>
    </channel>
    <graphics type='vnc' port='5901' autoport='no' listen='127.0.0.1'/>
    <video><model type='virtio' heads='1' primary='yes'/></video>
    <watchdog model='i6300esb' action='reset'/>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
  </devices>
  <qemu:commandline><qemu:arg value='-no-user-config'/></qemu:commandline>
</domain>`;

const make = (given: readonly string[], text = xml, more: Partial<Seat> = {}) =>
  domainFromTemplate(
    { ...seat, ...more },
    { name: "'golden'", xml: text, given: new Set(given) },
    { type: 'qemu' },
  );
const parsed = (text: string) => new DOMParser().parseFromString(text, 'text/xml');
const attributes = (text: string, tag: string, name: string) =>
  Array.from(parsed(text).getElementsByTagName(tag), (one) => one.getAttribute(name));

describe('a domain made like another', () => {
  it('has all of its own that must differ, and keeps everything else', () => {
    const made = make([]);
    const document = parsed(made);
    for (const gone of [
      'golden',
      '11111111',
      '99999999',
      'aa:aa:aa',
      'bb:bb:bb',
      '/dev/vg',
      'port="5901"',
      'channel/',
    ]) {
      expect(made, gone).not.toContain(gone);
    }
    for (const kept of [
      'http://debian.org/debian/12',
      '4194304',
      'memfd',
      'current="1"',
      'cores="4"',
      'cache="none" io="native"',
      '<total_iops_sec>500<',
      'e1000e',
      'org.qemu.guest_agent.0',
      'watchdog model="i6300esb"',
      '/dev/urandom',
      'qemu:arg value="-no-user-config"',
      'network="default"',
      'template="/usr/share/OVMF/OVMF_VARS_4M.fd"',
    ]) {
      expect(made, kept).toContain(kept);
    }
    expect(document.getElementsByTagName('name')[0].textContent).toBe('class-pc-1');
    expect(attributes(made, 'source', 'file').filter(Boolean)).toEqual([
      seat.disk.path,
      seat.disks![0].path,
      seat.seed,
    ]);
    expect(attributes(made, 'mac', 'address')[0]).toBe(seat.mac);
    expect(new Set(attributes(made, 'mac', 'address')).size).toBe(2);
    const targets = Array.from(document.getElementsByTagName('disk'), (disk) => {
      const target = disk.getElementsByTagName('target')[0];
      return `${target.getAttribute('dev')} ${target.getAttribute('bus')}`;
    });
    expect(targets).toEqual(['sda sata', 'vda virtio', 'vdb virtio', 'sdb sata']);
    expect(document.getElementsByTagNameNS(metadataNamespace, 'seat')[0].getAttribute('name')).toBe('pc-1');
    expect(attributes(made, 'log', 'file')).toEqual([seat.serialLog]);
    expect(made).not.toContain('<tpm');
  });

  it('takes from the lab file what that says', () => {
    const made = make(['memory', 'cpus', 'network', 'graphics', 'tpm', 'firmware']);
    expect(made).toContain('<memory unit="MiB">512<');
    expect(made).toMatch(/<vcpu placement="static">2</);
    expect(made).not.toContain('topology');
    expect(attributes(made, 'interface', 'type')).toEqual(['bridge', 'network']);
    expect(attributes(made, 'graphics', 'type')).toEqual(['spice']);
    expect(made).toContain('<tpm model="tpm-crb"');
    expect(made).not.toContain('OVMF');
    expect(make(['network'], xml, { network: { kind: 'none' } })).not.toContain('<interface');
  });

  it('stays one for emulation, and becomes one where there is nothing else', () => {
    const of = (text: string, type: 'kvm' | 'qemu') =>
      domainFromTemplate(seat, { name: 'x', xml: text, given: new Set() }, { type });
    const kind = (text: string) => `${attributes(text, 'domain', 'type')} ${attributes(text, 'cpu', 'mode')}`;
    expect(kind(of(xml, 'kvm'))).toBe('kvm host-passthrough');
    expect(kind(of(xml, 'qemu'))).toBe('qemu maximum');
    expect(of(xml, 'qemu')).toContain('cores="4"');
    expect(kind(of(xml.replace("type='kvm'", "type='qemu'"), 'kvm'))).toMatch(/^qemu /);
  });

  it('refuses a template that is none, or whose second disk all seats would write to', () => {
    for (const text of ['', 'golden', '<network/>', '<domain><name></domain>']) {
      expect(() => make([], text)).toThrow("The template 'golden' is no libvirt domain's XML");
    }
    const disk = "<disk type='file'><source file='/srv/shared.raw'/><target dev='vdz'/></disk>";
    expect(() => make([], xml.replace('<watchdog', `${disk}<watchdog`))).toThrow('(/srv/shared.raw)');
    expect(
      make([], xml.replace('<watchdog', `${disk.replace('</disk>', '<readonly/></disk>')}<watchdog`)),
    ).toContain('/srv/shared.raw');
  });

  it.skipIf(!have('virt-xml-validate') || !have('xmllint'))("is valid by libvirt's schema", async () => {
    await using folder = await tempDir();
    for (const given of [[], ['memory', 'cpus', 'network', 'graphics', 'tpm', 'firmware']]) {
      writeFileSync(folder.file('domain.xml'), make(given));
      const result = await run('virt-xml-validate', [folder.file('domain.xml'), 'domain']);
      expect(`${result.stdout}${result.stderr}`).toContain('validates');
    }
    // As people write one: what is missing comes where the schema's validator looks for it.
    const short = `<domain type='qemu' xmlns:mine='urn:mine'><name>x</name><memory>65536</memory><metadata><mine:note>stays</mine:note></metadata><os><type machine='q35'>hvm</type></os><devices><disk type='file'><source file='/x.raw'/><target dev='vda'/></disk></devices></domain>`;
    const made = make(['memory', 'cpus', 'network', 'graphics', 'tpm', 'firmware'], short);
    expect(made).toContain('<mine:note>stays<');
    writeFileSync(folder.file('short.xml'), made);
    const result = await run('virt-xml-validate', [folder.file('short.xml'), 'domain']);
    expect(`${result.stdout}${result.stderr}`).toContain('validates');
  });
});
