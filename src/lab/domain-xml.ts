import { DOMImplementation, type Document, type Element, XMLSerializer } from '@xmldom/xmldom';
import { DiskError } from '../errors.ts';
import type { DiskBus, Seat } from './seat.ts';

/** Namespace of what we write into a domain's `<metadata>`. */
export const metadataNamespace = 'urn:x-cowherd:lab:1';

export interface DomainXmlOptions {
  /** libvirt's domain type: hardware virtualization, or emulation. */
  readonly type: 'kvm' | 'qemu';
}

/** The domain's name, `LAB-SEAT`. Where two labs come to the same name, libvirt refuses the second UUID. */
export function domainName(seat: Pick<Seat, 'lab' | 'name'>): string {
  return `${seat.lab}-${seat.name}`;
}

/**
 * A seat as a libvirt domain document (libvirt's docs/formatdomain), the same text for the same seat. The
 * backing chain is left to libvirt, which reads it from the overlay. Throws `bad-argument` for text that XML
 * cannot hold.
 */
export function domainXml(seat: Seat, options: DomainXmlOptions): string {
  const document = new DOMImplementation().createDocument(null, 'domain', null);
  const root = document.documentElement!;
  fill(document, root, domain(seat, options), 1);
  return `${new XMLSerializer().serializeToString(document)}\n`;
}

/** An element as a value: name, attributes, and text or children. */
interface Node {
  readonly name: string;
  readonly namespace?: string;
  readonly attributes: Readonly<Record<string, string | number>>;
  readonly text?: string;
  readonly children: readonly Node[];
}

function node(name: string, attributes: Node['attributes'] = {}, ...children: readonly Node[]): Node {
  return { name, attributes, children };
}

function text(name: string, content: string | number, attributes: Node['attributes'] = {}): Node {
  return { name, attributes, text: String(content), children: [] };
}

function domain(seat: Seat, { type }: DomainXmlOptions): Node {
  return node(
    'domain',
    { type },
    text('name', domainName(seat)),
    text('uuid', seat.uuid),
    text('title', `${seat.name} of ${seat.lab}`),
    node(
      'metadata',
      {},
      {
        ...node('cowherd:seat', {
          lab: seat.lab,
          name: seat.name,
          ...(seat.master === undefined ? {} : { master: seat.master }),
        }),
        namespace: metadataNamespace,
      },
    ),
    text('memory', seat.memoryMiB, { unit: 'MiB' }),
    text('vcpu', seat.cpus),
    node('os', {}, text('type', 'hvm', { arch: 'x86_64', machine: 'pc' })),
    node('features', {}, node('acpi'), node('apic')),
    node('cpu', { mode: type === 'kvm' ? 'host-passthrough' : 'maximum' }),
    node('clock', { offset: 'utc' }),
    text('on_poweroff', 'destroy'),
    text('on_reboot', 'restart'),
    text('on_crash', 'destroy'),
    node('devices', {}, ...devices(seat)),
  );
}

function devices(seat: Seat): Node[] {
  return [
    disk(seat),
    ...(seat.cdrom === undefined ? [] : [cdrom(seat.cdrom)]),
    ...network(seat),
    node(
      'serial',
      { type: 'pty' },
      node('log', { file: seat.serialLog, append: 'on' }),
      node('target', { port: 0 }),
    ),
    node('console', { type: 'pty' }, node('target', { type: 'serial', port: 0 })),
    ...graphics(seat),
  ];
}

const diskTargets: Readonly<Record<DiskBus, string>> = { virtio: 'vda', ide: 'hda', sata: 'sda' };

function disk(seat: Seat): Node {
  const { path, format, bus } = seat.disk;
  return node(
    'disk',
    { type: 'file', device: 'disk' },
    node('driver', { name: 'qemu', type: format, discard: 'unmap' }),
    node('source', { file: path }),
    node('target', { dev: diskTargets[bus], bus }),
    // Disks report at most 20 characters.
    text('serial', seat.uuid.replaceAll('-', '').slice(0, 20)),
    node('boot', { order: 1 }),
  );
}

function cdrom(path: string): Node {
  return node(
    'disk',
    { type: 'file', device: 'cdrom' },
    node('driver', { name: 'qemu', type: 'raw' }),
    node('source', { file: path }),
    node('target', { dev: 'hdc', bus: 'ide' }),
    node('readonly'),
    node('boot', { order: 2 }),
  );
}

function network(seat: Seat): Node[] {
  const { kind } = seat.network;
  if (kind === 'none') return [];
  const source =
    seat.network.kind === 'network' || seat.network.kind === 'bridge'
      ? [node('source', { [seat.network.kind]: seat.network.name })]
      : [];
  const card = [node('mac', { address: seat.mac }), ...source, node('model', { type: 'virtio' })];
  return [node('interface', { type: kind }, ...card)];
}

function graphics(seat: Seat): Node[] {
  if (seat.graphics === 'none') return [node('controller', { type: 'usb', model: 'none' })];
  return [
    node('input', { type: 'tablet', bus: 'usb' }),
    node('graphics', { type: 'vnc', port: -1, autoport: 'yes', listen: '127.0.0.1' }),
    node('video', {}, node('model', { type: 'vga' })),
  ];
}

/** Writes a value into an element, children on lines of their own. */
function fill(document: Document, element: Element, value: Node, depth: number): void {
  for (const [name, content] of Object.entries(value.attributes)) {
    element.setAttribute(name, checked(String(content), `${value.name}/@${name}`));
  }
  if (value.text !== undefined) {
    element.appendChild(document.createTextNode(checked(value.text, value.name)));
    return;
  }
  if (value.children.length === 0) return;
  for (const child of value.children) {
    element.appendChild(document.createTextNode(`\n${'  '.repeat(depth)}`));
    const made = child.namespace
      ? document.createElementNS(child.namespace, child.name)
      : document.createElement(child.name);
    fill(document, made, child, depth + 1);
    element.appendChild(made);
  }
  element.appendChild(document.createTextNode(`\n${'  '.repeat(depth - 1)}`));
}

/** XML 1.0 has no way to write most control characters, and attributes lose line ends and tabs. */
function checked(content: string, field: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is refused
  if (/[\x00-\x1f\x7f-\x9f\ufffe\uffff]|\p{Surrogate}/u.test(content)) {
    throw new DiskError('bad-argument', `${JSON.stringify(content)} cannot be written into a domain's XML`, {
      field,
    });
  }
  return content;
}
