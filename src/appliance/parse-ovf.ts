import { DiskError } from '../errors.ts';
import type { Appliance, ApplianceBus, ApplianceDisk, ApplianceFile, NetworkCard } from './appliance.ts';
import { isPlainName } from './tar.ts';
import { childrenOf, childText, parseXml, type XmlElement } from './xml.ts';

/** CIM's resource types (DSP8025 and CIM_ResourceAllocationSettingData.ResourceType). */
const Resource = {
  cpu: 3,
  memory: 4,
  ide: 5,
  scsi: 6,
  ethernet: 10,
  cd: 15,
  dvd: 16,
  disk: 17,
  storage: 20,
  serial: 21,
  usb: 23,
  graphics: 24,
} as const;
const known: ReadonlySet<number> = new Set(Object.values(Resource));

const maxDisks = 64;
const maxMemoryMiB = 2 ** 24;
const maxCpus = 4096;

/** One piece of hardware. */
interface Item {
  readonly type: number;
  readonly id: string;
  readonly title?: string;
  readonly parent?: string;
  readonly place: number;
  readonly subType?: string;
  readonly host?: string;
  readonly address?: string;
  readonly connection?: string;
  readonly quantity?: string;
  readonly units?: string;
}

/**
 * Reads an OVF descriptor (DSP0243, versions 0.9 to 2), of one virtual machine. Throws `corrupt` for what contradicts
 * itself or is absurd, `unsupported` for collections, disks over other disks, files in pieces or on a server, `denied`
 * for file names that lead out of the package.
 */
export function parseOvf(text: string, path: string): Appliance {
  const envelope = parseXml(text, path);
  const wrong = (field: string, why: string) =>
    new DiskError('corrupt', `The OVF descriptor is wrong: ${why}`, { path, field });
  if (envelope.name !== 'Envelope') throw wrong('Envelope', 'it has no Envelope');
  const systems = machinesOf(envelope);
  if (systems.length !== 1) {
    throw new DiskError(
      systems.length === 0 ? 'corrupt' : 'unsupported',
      systems.length === 0
        ? 'The OVF descriptor has no virtual machine'
        : `The OVF descriptor is of ${systems.length} virtual machines: take it apart (ovftool) and import one at a time`,
      { path, field: 'VirtualSystem' },
    );
  }
  const [system] = systems;
  const hardware = sectionsOf(system, 'VirtualHardwareSection')[0];
  if (!hardware) throw wrong('VirtualHardwareSection', 'the virtual machine has no hardware');
  const items = hardware.children
    .filter(({ name }) => name === 'Item' || name === 'StorageItem' || name === 'EthernetPortItem')
    // Items of other configurations than the first are alternatives.
    .filter((item) => inConfiguration(item, defaultConfiguration(envelope)))
    .map(readItem);
  const files = filesOf(envelope, path);
  const declared = disksOf(envelope, files, path);
  return {
    name: childText(system, 'Name') ?? system.attributes.get('id') ?? 'appliance',
    description: childText(sectionsOf(system, 'AnnotationSection')[0], 'Annotation'),
    memoryMiB: memoryOf(items, wrong),
    cpus: cpusOf(items, wrong),
    firmware: firmwareOf(hardware, system),
    disks: pluggedDisks(items, declared, files, wrong),
    networkCards: items.filter(({ type }) => type === Resource.ethernet).map(cardOf),
    opticalDrives: items.filter(({ type }) => type === Resource.cd || type === Resource.dvd).length,
    unknown: items.filter(({ type }) => !known.has(type)).map(({ title, type }) => title ?? `type ${type}`),
  };
}

function machinesOf(element: XmlElement): readonly XmlElement[] {
  return element.children.flatMap((child) => {
    if (child.name === 'VirtualSystemCollection') return machinesOf(child);
    const content =
      child.name === 'Content' && /VirtualSystem_Type$/.test(child.attributes.get('type') ?? '');
    return child.name === 'VirtualSystem' || content ? [child] : [];
  });
}

/** Sections have names of their own, or (version 0.9) say their type. */
function sectionsOf(element: XmlElement, name: string): readonly XmlElement[] {
  return element.children.filter(
    (child) =>
      child.name === name ||
      (child.name === 'Section' && (child.attributes.get('type') ?? '').endsWith(`${name}_Type`)),
  );
}

function defaultConfiguration(envelope: XmlElement): string | undefined {
  const choices = childrenOf(sectionsOf(envelope, 'DeploymentOptionSection')[0], 'Configuration');
  const chosen = choices.find(({ attributes }) => attributes.get('default') === 'true') ?? choices[0];
  return chosen?.attributes.get('id');
}

function inConfiguration(item: XmlElement, chosen: string | undefined): boolean {
  const configurations = item.attributes.get('configuration');
  return configurations === undefined || configurations.split(/\s+/).includes(chosen ?? '');
}

function readItem(item: XmlElement): Item {
  // A controller's own place is its address.
  const place = childText(item, 'AddressOnParent') ?? childText(item, 'Address') ?? '';
  return {
    type: Number(childText(item, 'ResourceType') ?? 0),
    id: childText(item, 'InstanceID') ?? childText(item, 'InstanceId') ?? '',
    title: childText(item, 'ElementName') ?? childText(item, 'Caption'),
    parent: childText(item, 'Parent'),
    place: /^\d{1,6}$/.test(place) ? Number(place) : 0,
    subType: childText(item, 'ResourceSubType'),
    host: childText(item, 'HostResource'),
    address: childText(item, 'Address'),
    connection: childText(item, 'Connection'),
    quantity: childText(item, 'VirtualQuantity'),
    units: childText(item, 'AllocationUnits'),
  };
}

function filesOf(envelope: XmlElement, path: string): ReadonlyMap<string, ApplianceFile> {
  const files = new Map<string, ApplianceFile>();
  for (const { attributes } of childrenOf(childrenOf(envelope, 'References')[0], 'File')) {
    const href = attributes.get('href') ?? '';
    const id = attributes.get('id') ?? '';
    assertInPackage(href, path);
    const refuse = (why: string) => refusedName('unsupported', href, why, path);
    if (attributes.has('chunkSize')) throw refuse('which comes in pieces: join them first');
    const compression = attributes.get('compression') ?? 'identity';
    if (compression !== 'identity' && compression !== '' && compression !== 'gzip') {
      throw refuse(`packed by ${JSON.stringify(compression)}`);
    }
    files.set(id, { href, size: bytesOf(attributes.get('size')), gzip: compression === 'gzip' });
  }
  return files;
}

/**
 * The files that an OVF descriptor names, as written there, whatever they are. Throws `corrupt` for a text that is no
 * descriptor.
 */
export function filesNamedByOvf(text: string, path: string): readonly string[] {
  const references = childrenOf(parseXml(text, path), 'References')[0];
  return childrenOf(references, 'File').map(({ attributes }) => attributes.get('href') ?? '');
}

/** Throws `denied` for a name that leads out of the package, `unsupported` for one on a server. */
export function assertInPackage(href: string, path: string): void {
  if (/^[a-z][a-z0-9+.-]+:/i.test(href)) {
    throw refusedName('unsupported', href, 'which is not in the package', path);
  }
  if (!isPlainName(href)) throw refusedName('denied', href, 'which lies outside of the package', path);
}

function refusedName(code: 'denied' | 'unsupported', href: string, why: string, path: string): DiskError {
  const message = `The OVF descriptor names ${JSON.stringify(href)}, ${why}`;
  return new DiskError(code, message, { path, field: 'href' });
}

type Declared = Pick<ApplianceDisk, 'id' | 'capacity' | 'capacityUnit' | 'file'>;

function disksOf(
  envelope: XmlElement,
  files: ReadonlyMap<string, ApplianceFile>,
  path: string,
): ReadonlyMap<string, Declared> {
  const disks = new Map<string, Declared>();
  const section = sectionsOf(envelope, 'DiskSection')[0];
  for (const { attributes } of childrenOf(section, 'Disk')) {
    const id = attributes.get('diskId') ?? '';
    const bad = (code: 'corrupt' | 'unsupported', why: string) =>
      new DiskError(code, `The disk ${JSON.stringify(id)} of the OVF descriptor ${why}`, {
        path,
        field: 'Disk',
      });
    if (attributes.has('parentRef'))
      throw bad('unsupported', 'is laid over another one: export it as one disk');
    if (disks.has(id)) throw bad('corrupt', 'is there twice');
    if (disks.size >= maxDisks) throw bad('corrupt', `is one of more than ${maxDisks}`);
    const reference = attributes.get('fileRef');
    const file = reference === undefined ? undefined : files.get(reference);
    if (reference !== undefined && !file) throw bad('corrupt', 'lies in a file that is not named');
    const written = attributes.get('capacity');
    const count = bytesOf(written);
    const capacityUnit = unitOf(attributes.get('capacityAllocationUnits'), 1);
    const capacity = count === undefined ? undefined : count * capacityUnit;
    if ((written !== undefined && !/^\$/.test(written) && capacity === undefined) || !isSafe(capacity)) {
      throw bad('corrupt', 'has a capacity that is no size');
    }
    disks.set(id, { id, capacity, capacityUnit, file });
  }
  return disks;
}

function pluggedDisks(
  items: readonly Item[],
  declared: ReadonlyMap<string, Declared>,
  files: ReadonlyMap<string, ApplianceFile>,
  wrong: (field: string, why: string) => DiskError,
): ApplianceDisk[] {
  const controllers = new Map(items.map((item) => [item.id, item]));
  const seen = new Set<string>();
  const placed = items
    .filter(({ type }) => type === Resource.disk)
    .map((item) => {
      const [, kind, id = ''] = /^(?:ovf:)?\/?\/?(disk|file)\/(.+)$/.exec(item.host ?? '') ?? [];
      const disk = kind === 'file' ? { id, file: files.get(id) } : declared.get(id);
      if (!disk || (kind === 'file' && !disk.file)) {
        throw wrong(
          'HostResource',
          `the hardware has a disk ${JSON.stringify(item.host ?? '')} that is not there`,
        );
      }
      if (seen.has(`${kind}/${id}`))
        throw wrong('HostResource', `the disk ${JSON.stringify(id)} is plugged in twice`);
      seen.add(`${kind}/${id}`);
      const controller = controllers.get(item.parent ?? '');
      return { item, controller, disk: { ...disk, bus: busOf(controller), controller: controller?.subType } };
    });
  const place = (item: Item | undefined) => item?.place ?? 0;
  // The first place of the first controller is where the machine boots from.
  return placed
    .sort((a, b) => place(a.controller) - place(b.controller) || place(a.item) - place(b.item))
    .map(({ disk }) => disk);
}

function busOf(controller: Item | undefined): ApplianceBus {
  if (/virtio/i.test(controller?.subType ?? ''))
    return controller?.type === Resource.scsi ? 'scsi' : 'virtio';
  if (controller?.type === Resource.ide) return 'ide';
  return controller?.type === Resource.scsi ? 'scsi' : 'sata';
}

function memoryOf(items: readonly Item[], wrong: (field: string, why: string) => DiskError): number {
  const item = items.find(({ type }) => type === Resource.memory);
  if (!item) return 1024;
  const bytes = (bytesOf(item.quantity) ?? Number.NaN) * unitOf(item.units, 2 ** 20);
  const mebibytes = Math.ceil(bytes / 2 ** 20);
  if (mebibytes >= 1 && mebibytes <= maxMemoryMiB) return mebibytes;
  throw wrong('VirtualQuantity', `its memory of ${item.quantity} ${item.units ?? 'MiB'} cannot be`);
}

function cpusOf(items: readonly Item[], wrong: (field: string, why: string) => DiskError): number {
  const item = items.find(({ type }) => type === Resource.cpu);
  const count = item ? bytesOf(item.quantity) : 1;
  if (count !== undefined && count >= 1 && count <= maxCpus) return count;
  throw wrong('VirtualQuantity', `${item?.quantity} processors cannot be`);
}

/** VMware says it in its configuration, VirtualBox in a description of its own. */
function firmwareOf(hardware: XmlElement, system: XmlElement): Appliance['firmware'] {
  const isEfi = (element: XmlElement): boolean =>
    (element.name === 'Config' &&
      element.attributes.get('key') === 'firmware' &&
      /efi/i.test(element.attributes.get('value') ?? '')) ||
    (element.name === 'Firmware' && /efi/i.test(element.attributes.get('type') ?? '')) ||
    element.children.some(isEfi);
  return isEfi(hardware) || childrenOf(system, 'Machine').some(isEfi) ? 'uefi' : 'bios';
}

function cardOf({ subType, connection, address }: Item): NetworkCard {
  const hex = (address ?? '').replace(/[:-]/g, '').toLowerCase();
  const mac = /^[0-9a-f]{12}$/.test(hex) ? hex.match(/../g)!.join(':') : undefined;
  return { model: subType?.split(/\s+/)[0], network: connection, mac };
}

function bytesOf(text: string | undefined): number | undefined {
  const value = text !== undefined && /^\d{1,16}$/.test(text.trim()) ? Number(text) : undefined;
  return Number.isSafeInteger(value) ? value : undefined;
}

function isSafe(value: number | undefined): boolean {
  return value === undefined || Number.isSafeInteger(value);
}

/** DSP0004's "byte * 2^20" and "byte * 1000", and the older words. */
function unitOf(text: string | undefined, otherwise: number): number {
  if (text === undefined) return otherwise;
  const power = /^\s*byte\s*(?:\*\s*(\d{1,4})\s*(?:\^\s*(\d{1,2}))?\s*)?$/i.exec(text);
  if (power) return power[1] === undefined ? 1 : Number(power[1]) ** Number(power[2] ?? 1);
  const words: Readonly<Record<string, number>> = {
    bytes: 1,
    kilobytes: 2 ** 10,
    megabytes: 2 ** 20,
    gigabytes: 2 ** 30,
    terabytes: 2 ** 40,
  };
  return words[text.trim().toLowerCase()] ?? Number.NaN;
}
