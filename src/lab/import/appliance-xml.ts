import { DOMImplementation, XMLSerializer } from '@xmldom/xmldom';
import type { Appliance, ApplianceBus, NetworkCard } from '../../appliance/appliance.ts';
import type { DomainType } from '../domain/domain-xml.ts';
import { uuidV5 } from '../domain/identity.ts';
import { fill, type Node, node, text } from '../domain/xml-node.ts';

/** A disk of the domain. */
export interface ImportedDisk {
  /** Absolute path. */
  readonly path: string;
  readonly bus: ApplianceBus;
  readonly controller?: string;
}

/** The UUID namespace of imported machines: an arbitrary constant, for ever the same. */
const applianceNamespace = 'b1c40c8e-61d2-5f0a-9d53-5e0d7a3f0002';

const prefixes: Readonly<Record<ApplianceBus, string>> = { ide: 'hd', sata: 'sd', scsi: 'sd', virtio: 'vd' };
/** The network cards that QEMU has, by OVF's names for them. */
const cards: Readonly<Record<string, string>> = {
  e1000: 'e1000',
  e1000e: 'e1000e',
  vmxnet3: 'vmxnet3',
  pcnet32: 'pcnet',
  virtio: 'virtio',
  virtionet: 'virtio',
};
const scsiModels: Readonly<Record<string, string>> = {
  lsilogic: 'lsilogic',
  lsilogicsas: 'lsisas1068',
  virtualscsi: 'vmpvscsi',
  'virtio-scsi': 'virtio-scsi',
};

/**
 * A libvirt domain (docs/formatdomain) with the appliance's hardware, the same text for the same appliance. Network cards
 * lead to the user's own network, since the networks of an appliance are names of another host's. Throws `bad-argument`
 * for text that XML cannot hold.
 */
export function applianceXml(
  appliance: Appliance,
  name: string,
  disks: readonly ImportedDisk[],
  type: DomainType,
): string {
  const document = new DOMImplementation().createDocument(null, 'domain', null);
  const root = node(
    'domain',
    { type },
    text('name', name),
    // Imported again elsewhere it is another machine.
    text('uuid', uuidV5(disks[0]?.path ?? name, applianceNamespace)),
    text('memory', appliance.memoryMiB, { unit: 'MiB' }),
    text('vcpu', appliance.cpus),
    node(
      'os',
      appliance.firmware === 'uefi' ? { firmware: 'efi' } : {},
      // An i440FX has IDE and no SATA of its own; both machines take a controller of the other kind but IDE on q35.
      text('type', 'hvm', { arch: 'x86_64', machine: disks.some(({ bus }) => bus === 'ide') ? 'pc' : 'q35' }),
    ),
    node('features', {}, node('acpi'), node('apic')),
    node('cpu', { mode: type === 'kvm' ? 'host-passthrough' : 'maximum' }),
    node('clock', { offset: 'utc' }),
    node(
      'devices',
      {},
      ...disksOf(disks),
      ...scsiController(disks),
      ...appliance.networkCards.map(card),
      node('serial', { type: 'pty' }, node('target', { port: 0 })),
      node('console', { type: 'pty' }, node('target', { type: 'serial', port: 0 })),
      node('input', { type: 'tablet', bus: 'usb' }),
      node('graphics', { type: 'vnc', port: -1, autoport: 'yes', listen: '127.0.0.1' }),
      node('video', {}, node('model', { type: 'vga' })),
    ),
  );
  fill(document, document.documentElement!, root, 1);
  return `${new XMLSerializer().serializeToString(document)}\n`;
}

function disksOf(disks: readonly ImportedDisk[]): Node[] {
  const counts = new Map<string, number>();
  return disks.map(({ path, bus }, index) => {
    const prefix = prefixes[bus];
    const number = counts.get(prefix) ?? 0;
    counts.set(prefix, number + 1);
    return node(
      'disk',
      { type: 'file', device: 'disk' },
      node('driver', { name: 'qemu', type: 'qcow2', discard: 'unmap' }),
      node('source', { file: path }),
      node('target', { dev: `${prefix}${letters(number)}`, bus }),
      ...(index === 0 ? [node('boot', { order: 1 })] : []),
    );
  });
}

/** `a` to `z`, `aa` … */
function letters(number: number): string {
  const last = String.fromCharCode(97 + (number % 26));
  return number < 26 ? last : `${letters(Math.floor(number / 26) - 1)}${last}`;
}

function scsiController(disks: readonly ImportedDisk[]): Node[] {
  const disk = disks.find(({ bus }) => bus === 'scsi');
  if (!disk) return [];
  const wanted = (disk.controller ?? '').toLowerCase();
  // QEMU has no BusLogic; LSI's is the one of that time.
  const model = scsiModels[wanted] ?? (wanted.includes('virtio') ? 'virtio-scsi' : 'lsilogic');
  return [node('controller', { type: 'scsi', index: 0, model })];
}

function card({ model, mac }: NetworkCard): Node {
  return node(
    'interface',
    { type: 'user' },
    ...(mac === undefined ? [] : [node('mac', { address: mac })]),
    node('model', { type: cards[(model ?? '').toLowerCase()] ?? 'e1000' }),
  );
}
