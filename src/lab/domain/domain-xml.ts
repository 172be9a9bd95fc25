import type { DiskBus, DiskEncryption, Seat, SeatDisk } from '../seats/seat.ts';
import { documentText, type Node, node, text } from './xml-node.ts';

/** Namespace of what we write into a domain's `<metadata>`. */
export const metadataNamespace = 'urn:x-cowherd:lab:1';

/** libvirt's domain type: hardware virtualization, emulation, or the driver that has no guests. */
export type DomainType = 'kvm' | 'qemu' | 'test';

export interface DomainXmlOptions {
  readonly type: DomainType;
  /**
   * The image that the disk stands on, where it is a single file that everybody may read: libvirt is told then to leave its
   * owner as it is, since it would give it to QEMU's user and not give it back.
   */
  readonly backing?: { readonly path: string; readonly format: string };
  /** The disk is an export of an NBD server (`cowherd serve`) and no file: then it is raw to the guest's host. */
  readonly served?: ServedAt;
}

/** Where an NBD server is, as other hosts see it. */
export type ServedAt =
  | { readonly socket: string; readonly tls: boolean }
  | { readonly host: string; readonly port: number; readonly tls: boolean };

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
  return documentText(domain(seat, options));
}

function domain(seat: Seat, options: DomainXmlOptions): Node {
  const { type } = options;
  return node(
    'domain',
    { type },
    text('name', domainName(seat)),
    text('uuid', seat.uuid),
    text('title', `${seat.name} of ${seat.lab}`),
    node('metadata', {}, seatMark(seat)),
    text('memory', seat.memoryMiB, { unit: 'MiB' }),
    text('vcpu', seat.cpus),
    node(
      'os',
      // libvirt finds the firmware, and makes each domain its own copy of the variables.
      seat.firmware === 'uefi' ? { firmware: 'efi' } : {},
      text('type', 'hvm', { arch: 'x86_64', machine: 'pc' }),
      ...kernel(seat),
    ),
    node('features', {}, node('acpi'), node('apic')),
    node('cpu', { mode: type === 'kvm' ? 'host-passthrough' : 'maximum' }),
    node('clock', { offset: 'utc' }),
    text('on_poweroff', 'destroy'),
    text('on_reboot', seat.once ? 'destroy' : 'restart'),
    text('on_crash', 'destroy'),
    node('devices', {}, ...devices(seat, options)),
  );
}

function kernel(seat: Seat): Node[] {
  if (!seat.kernel) return [];
  const { path, initrd, commandLine } = seat.kernel;
  return [text('kernel', path), text('initrd', initrd), text('cmdline', commandLine)];
}

/** Whose domain it is, in a namespace of our own. */
export function seatMark({
  lab,
  name,
  master,
  content,
}: Pick<Seat, 'lab' | 'name' | 'master' | 'content'>): Node {
  return {
    ...node('cowherd:seat', {
      lab,
      name,
      ...(master === undefined ? {} : { master }),
      ...(content === undefined ? {} : { content }),
    }),
    namespace: metadataNamespace,
  };
}

function devices(seat: Seat, options: DomainXmlOptions): Node[] {
  return [
    systemDisk(seat, options),
    ...extraDisks(seat),
    ...(seat.cdrom === undefined ? [] : [cdrom(seat.cdrom, { dev: 'hdc', bus: 'ide' }, 2)]),
    ...(seat.seed === undefined ? [] : [cdrom(seat.seed, { dev: 'hdd', bus: 'ide' })]),
    ...network(seat),
    serialPort(seat),
    node('console', { type: 'pty' }, node('target', { type: 'serial', port: 0 })),
    ...graphics(seat),
    ...(seat.tpm ? [tpm()] : []),
  ];
}

const diskTargets: Readonly<Record<DiskBus, string>> = { virtio: 'vd', ide: 'hd', sata: 'sd' };

/** What the system disk is, whatever it is plugged into. */
export function diskSource(
  seat: Seat,
  { backing, served }: Pick<DomainXmlOptions, 'backing' | 'served'>,
): Node[] {
  const { format } = seat.disk;
  if (served) {
    return [
      node('driver', { name: 'qemu', type: 'raw', discard: 'unmap' }),
      node(
        'source',
        { protocol: 'nbd', name: seat.name, ...(served.tls ? { tls: 'yes' } : {}) },
        'socket' in served
          ? node('host', { transport: 'unix', socket: served.socket })
          : node('host', { name: served.host, port: served.port }),
      ),
      text('serial', seat.uuid.replaceAll('-', '').slice(0, 20)),
    ];
  }
  return [
    node('driver', { name: 'qemu', type: format, discard: 'unmap' }),
    diskFile(seat.disk),
    ...(backing === undefined
      ? []
      : [
          node(
            'backingStore',
            { type: 'file' },
            node('format', { type: backing.format }),
            node('source', { file: backing.path }, node('seclabel', { model: 'dac', relabel: 'no' })),
            node('backingStore'),
          ),
        ]),
    // Disks report at most 20 characters.
    text('serial', seat.uuid.replaceAll('-', '').slice(0, 20)),
  ];
}

/** An encrypted one names the secret by which libvirt opens it. */
function diskFile({ path, block, encryption }: Pick<SeatDisk, 'path' | 'block' | 'encryption'>): Node {
  const secret = encryption && node('secret', { type: 'passphrase', uuid: encryption.secret });
  return node(
    'source',
    block ? { dev: path } : { file: path },
    ...(secret ? [node('encryption', { format: 'luks' }, secret)] : []),
  );
}

/**
 * libvirt's definition of the secret of a seat's disks (its docs/formatsecret). Its value is kept in memory, and never told to
 * anybody but QEMU.
 */
export function secretXml(encryption: DiskEncryption): string {
  const { lab, seat, secret } = encryption;
  return documentText(
    node(
      'secret',
      { ephemeral: 'yes', private: 'yes' },
      text('uuid', secret),
      text('description', `the disks of ${seat} of ${lab}`),
    ),
  );
}

/** libvirt's type of the system disk. */
export function systemDiskType({ disk }: Seat, { served }: Pick<DomainXmlOptions, 'served'>): string {
  if (served) return 'network';
  return disk.block ? 'block' : 'file';
}

export function systemDisk(seat: Seat, options: DomainXmlOptions): Node {
  const { bus } = seat.disk;
  return node(
    'disk',
    { type: systemDiskType(seat, options), device: 'disk' },
    ...diskSource(seat, options),
    node('target', { dev: `${diskTargets[bus]}a`, bus }),
    node('boot', { order: 1 }),
  );
}

/** Disks after the first: `vdb`, `vdc` … */
export function extraDisks(seat: Seat): Node[] {
  return (seat.disks ?? []).map(({ format, bus, ...disk }, i) =>
    node(
      'disk',
      { type: 'file', device: 'disk' },
      node('driver', { name: 'qemu', type: format, discard: 'unmap' }),
      diskFile(disk),
      node('target', { dev: `${diskTargets[bus]}${String.fromCharCode(98 + i)}`, bus }),
    ),
  );
}

export function cdrom(
  path: string,
  target: { readonly dev: string; readonly bus: string },
  order?: number,
): Node {
  return node(
    'disk',
    { type: 'file', device: 'cdrom' },
    node('driver', { name: 'qemu', type: 'raw' }),
    node('source', { file: path }),
    node('target', target),
    node('readonly'),
    ...(order === undefined ? [] : [node('boot', { order })]),
  );
}

export function serialPort(seat: Seat): Node {
  return node(
    'serial',
    { type: 'pty' },
    node('log', { file: seat.serialLog, append: 'off' }),
    node('target', { port: 0 }),
  );
}

/** Emulated by swtpm; libvirt keeps its state by the domain's UUID, so that each seat has its own. */
export function tpm(): Node {
  return node('tpm', { model: 'tpm-crb' }, node('backend', { type: 'emulator', version: '2.0' }));
}

export function network(seat: Seat): Node[] {
  const { kind } = seat.network;
  if (kind === 'none') return [];
  const card = [
    node('mac', { address: seat.mac }),
    ...networkSource(seat),
    node('model', { type: 'virtio' }),
  ];
  return [node('interface', { type: kind }, ...card)];
}

/** Where the network card leads. */
export function networkSource({ network }: Pick<Seat, 'network'>): Node[] {
  return network.kind === 'network' || network.kind === 'bridge'
    ? [node('source', { [network.kind]: network.name })]
    : [];
}

export function graphics(seat: Seat): Node[] {
  if (seat.graphics === 'none') return [node('controller', { type: 'usb', model: 'none' })];
  return [
    node('input', { type: 'tablet', bus: 'usb' }),
    screen(seat.graphics),
    node('video', {}, node('model', { type: seat.graphics === 'spice' ? 'qxl' : 'vga' })),
  ];
}

/** Each running guest gets a free port of this machine. */
export function screen(type: 'vnc' | 'spice'): Node {
  return node('graphics', { type, port: -1, autoport: 'yes', listen: '127.0.0.1' });
}
