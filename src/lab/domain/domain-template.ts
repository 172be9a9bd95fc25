import { DOMParser, type Document, type Element, XMLSerializer } from '@xmldom/xmldom';
import { DiskError } from '../../errors.ts';
import type { Seat } from '../seats/seat.ts';
import {
  cdrom,
  type DomainXmlOptions,
  diskSource,
  domainName,
  extraDisks,
  graphics,
  metadataNamespace,
  network,
  networkSource,
  seatMark,
  serialPort,
  systemDisk,
  systemDiskType,
  tpm,
} from './domain-xml.ts';
import { seatMac } from './identity.ts';
import { checked, fill, type Node, node } from './xml-node.ts';

/** An existing domain's XML, as `virsh dumpxml --inactive` gives it, that seats are made like. */
export interface DomainTemplate {
  /** Names it in messages: a domain, a file. */
  readonly name: string;
  readonly xml: string;
  /** The lab file's keys that were written there: only these overrule the template. */
  readonly given: ReadonlySet<string>;
}

/**
 * The template with everything of its own replaced that must be the seat's: name, UUID, metadata, the system disk's image,
 * MAC addresses, serial log, firmware variables. All else stays as it is, whatever it may be, but for what the lab file
 * says otherwise. Throws `bad-argument` for a template that is no domain, or whose other disks all seats would write to.
 */
export function domainFromTemplate(seat: Seat, template: DomainTemplate, options: DomainXmlOptions): string {
  const document = parse(template);
  const edit = new Editor(document);
  const { root } = edit;
  setType(edit, options.type);
  root.removeAttribute('id');
  edit.setText(root, 'name', domainName(seat));
  edit.setText(root, 'uuid', seat.uuid);
  edit.setText(root, 'title', `${seat.name} of ${seat.lab}`);
  markOwner(edit, seat);
  identify(edit, seat);
  size(edit, seat, template.given);
  const devices = edit.child(root, 'devices') ?? edit.append(root, node('devices'));
  editDisks(edit, devices, seat, template, options);
  editNetwork(edit, devices, seat, template.given);
  editPorts(edit, devices, seat, template.given);
  return `${new XMLSerializer().serializeToString(document.documentElement!)}\n`;
}

/** A template for emulation makes seats of that kind; one for hardware virtualization does where there is any. */
function setType(edit: Editor, type: DomainXmlOptions['type']): void {
  const { root } = edit;
  if (type === 'kvm' && root.getAttribute('type') === 'qemu') return;
  root.setAttribute('type', type);
  const cpu = edit.child(root, 'cpu');
  // Which emulation has not.
  if (type === 'qemu' && cpu?.getAttribute('mode') === 'host-passthrough')
    cpu.setAttribute('mode', 'maximum');
}

function parse({ name, xml }: DomainTemplate): Document {
  const wrong = (cause?: unknown) =>
    new DiskError('bad-argument', `The template ${name} is no libvirt domain's XML`, {
      field: 'template',
      cause,
    });
  let document: Document;
  try {
    document = new DOMParser({
      onError: (level, message) => {
        if (level !== 'warning') throw new Error(String(message));
      },
    }).parseFromString(xml, 'text/xml');
  } catch (cause) {
    throw wrong(cause);
  }
  if (document.documentElement?.nodeName !== 'domain') throw wrong();
  return document;
}

/** A domain's first elements, as libvirt writes them: its schema has groups in there, which a validator finds in one piece only. */
const first: readonly string[] = [
  ...['name', 'uuid', 'genid', 'title', 'description', 'metadata'],
  ...['maxMemory', 'memory', 'currentMemory', 'vcpu'],
];

/** Changes to a document that leave what is around them as it is. */
class Editor {
  readonly root: Element;
  readonly #document: Document;

  constructor(document: Document) {
    this.#document = document;
    this.root = document.documentElement!;
  }

  children(parent: Element, name?: string): Element[] {
    return Array.from(parent.childNodes).filter(
      (one): one is Element => one.nodeType === 1 && (name === undefined || one.nodeName === name),
    );
  }

  child(parent: Element, name: string): Element | undefined {
    return this.children(parent, name)[0];
  }

  append(parent: Element, value: Node): Element {
    const made = value.namespace
      ? this.#document.createElementNS(value.namespace, value.name)
      : this.#document.createElement(value.name);
    const depth = this.#depth(parent);
    fill(this.#document, made, value, depth + 1);
    const after = parent === this.root ? this.#before(value.name) : undefined;
    if (after) {
      parent.insertBefore(made, after.nextSibling);
      parent.insertBefore(this.#document.createTextNode(`\n${'  '.repeat(depth)}`), made);
      return made;
    }
    const last = parent.lastChild;
    const blank = last?.nodeType === 3 && (last.nodeValue ?? '').trim() === '' ? last : null;
    parent.insertBefore(this.#document.createTextNode(`\n${'  '.repeat(depth)}`), blank);
    parent.insertBefore(made, blank);
    if (!blank) parent.appendChild(this.#document.createTextNode(`\n${'  '.repeat(depth - 1)}`));
    return made;
  }

  /** The element that one of this name comes after, where that matters. */
  #before(name: string): Element | undefined {
    return this.children(this.root)
      .filter((one) => first.slice(0, first.indexOf(name) + 1).includes(one.nodeName))
      .sort((a, b) => first.indexOf(a.nodeName) - first.indexOf(b.nodeName))
      .at(-1);
  }

  remove(element: Element | undefined): void {
    if (!element) return;
    const before = element.previousSibling;
    if (before?.nodeType === 3 && (before.nodeValue ?? '').trim() === '')
      before.parentNode!.removeChild(before);
    element.parentNode!.removeChild(element);
  }

  /** Replaces the children of these names by others, the rest stays. */
  replace(parent: Element, names: readonly string[], values: readonly Node[]): void {
    for (const name of names) for (const one of this.children(parent, name)) this.remove(one);
    for (const value of values) this.append(parent, value);
  }

  setText(parent: Element, name: string, content: string): Element {
    const element = this.child(parent, name) ?? this.append(parent, node(name));
    element.textContent = checked(content, name);
    return element;
  }

  #depth(element: Element): number {
    let depth = 0;
    for (let one = element.parentNode; one; one = one.parentNode) depth += 1;
    return depth;
  }
}

function markOwner(edit: Editor, seat: Seat): void {
  const metadata = edit.child(edit.root, 'metadata') ?? edit.append(edit.root, node('metadata'));
  for (const one of edit.children(metadata)) {
    if (one.namespaceURI === metadataNamespace) edit.remove(one);
  }
  edit.append(metadata, seatMark(seat));
}

/** What libvirt compares with the UUID, or keeps by the template's name. */
function identify(edit: Editor, seat: Seat): void {
  const genid = edit.child(edit.root, 'genid');
  if (genid) genid.textContent = seat.uuid;
  for (const sysinfo of edit.children(edit.root, 'sysinfo')) {
    for (const entry of edit.children(edit.child(sysinfo, 'system') ?? sysinfo, 'entry')) {
      if (entry.getAttribute('name') === 'uuid') entry.textContent = seat.uuid;
    }
  }
  const os = edit.child(edit.root, 'os');
  const nvram = os && edit.child(os, 'nvram');
  // Without a path, libvirt names it after the domain.
  if (nvram) nvram.textContent = '';
}

function size(edit: Editor, seat: Seat, given: ReadonlySet<string>): void {
  if (given.has('memory')) {
    for (const name of ['memory', 'currentMemory']) {
      if (name === 'currentMemory' && !edit.child(edit.root, name)) continue;
      edit.setText(edit.root, name, String(seat.memoryMiB)).setAttribute('unit', 'MiB');
    }
  }
  if (given.has('cpus')) {
    edit.setText(edit.root, 'vcpu', String(seat.cpus)).removeAttribute('current');
    const cpu = edit.child(edit.root, 'cpu');
    if (cpu) edit.remove(edit.child(cpu, 'topology'));
  }
  if (given.has('firmware')) {
    const os = edit.child(edit.root, 'os');
    if (!os) return;
    for (const name of ['loader', 'nvram', 'firmware']) edit.remove(edit.child(os, name));
    if (seat.firmware === 'uefi') os.setAttribute('firmware', 'efi');
    else os.removeAttribute('firmware');
  }
}

function editDisks(
  edit: Editor,
  devices: Element,
  seat: Seat,
  template: DomainTemplate,
  options: DomainXmlOptions,
): void {
  const kindOf = (disk: Element) => disk.getAttribute('device') ?? 'disk';
  const disks = edit.children(devices, 'disk');
  const [system, ...others] = disks.filter((one) => kindOf(one) === 'disk' || kindOf(one) === 'lun');
  if (system === undefined) edit.append(devices, systemDisk(seat, options));
  else {
    system.setAttribute('type', systemDiskType(seat, options));
    system.setAttribute('device', 'disk');
    // How the disk is cached is the template's affair; what it holds is the seat's.
    const driver = edit.child(system, 'driver') ?? edit.append(system, node('driver', { name: 'qemu' }));
    driver.setAttribute('type', seat.disk.format);
    const values = diskSource(seat, options).filter((one) => one.name !== 'driver');
    edit.replace(system, ['source', 'backingStore', 'mirror', 'auth', 'encryption', 'serial'], values);
  }
  const shared = others.find((one) => !edit.child(one, 'readonly') && !edit.child(one, 'shareable'));
  if (shared) {
    const source = edit.child(shared, 'source');
    const what = source?.getAttribute('file') ?? source?.getAttribute('dev') ?? 'of another kind';
    throw new DiskError(
      'bad-argument',
      `The template ${template.name} has a second disk (${what}), which all seats would write to`,
      { field: 'template', detail: { fix: "take it out of the template; 'disks:' gives each seat its own" } },
    );
  }
  const used = new Set(disks.map((one) => edit.child(one, 'target')?.getAttribute('dev')));
  for (const value of extraDisks(seat)) {
    const target = value.children.find((one) => one.name === 'target')!.attributes;
    const dev = freeName(String(target.dev).slice(0, 2), used);
    edit.append(devices, withTarget(value, { dev, bus: target.bus }));
  }
  const drive = { ide: 'hd', sata: 'sd' }[driveBus(edit)];
  const insert = (path: string) =>
    edit.append(devices, cdrom(path, { dev: freeName(drive, used), bus: driveBus(edit) }));
  if (seat.cdrom !== undefined) {
    const own = disks.find((one) => kindOf(one) === 'cdrom');
    if (own) {
      own.setAttribute('type', 'file');
      edit.replace(own, ['source', 'backingStore'], [node('source', { file: seat.cdrom })]);
    } else insert(seat.cdrom);
  }
  if (seat.seed !== undefined) insert(seat.seed);
}

function withTarget(value: Node, target: Node['attributes']): Node {
  return {
    ...value,
    children: value.children.map((one) => (one.name === 'target' ? node('target', target) : one)),
  };
}

function freeName(prefix: string, used: Set<string | null | undefined>): string {
  for (let code = 97; ; code++) {
    const name = prefix + String.fromCharCode(code);
    if (used.has(name)) continue;
    used.add(name);
    return name;
  }
}

/** The old PC has IDE, every later machine has not. */
function driveBus(edit: Editor): 'ide' | 'sata' {
  const os = edit.child(edit.root, 'os');
  const machine = (os && edit.child(os, 'type')?.getAttribute('machine')) ?? 'pc';
  return /^pc(-i440fx.*)?$/.test(machine) ? 'ide' : 'sata';
}

function editNetwork(edit: Editor, devices: Element, seat: Seat, given: ReadonlySet<string>): void {
  const cards = edit.children(devices, 'interface');
  if (given.has('network')) {
    if (seat.network.kind === 'none') {
      for (const one of cards) edit.remove(one);
      return;
    }
    if (cards.length === 0) {
      for (const value of network(seat)) edit.append(devices, value);
      return;
    }
    cards[0].setAttribute('type', seat.network.kind);
    edit.replace(cards[0], ['source', 'virtualport'], networkSource(seat));
  }
  for (const [i, card] of cards.entries()) {
    const address = i === 0 ? seat.mac : seatMac(seat.lab, `${seat.name}/${i}`);
    edit.replace(card, ['mac'], [node('mac', { address })]);
    // The host's name for the card, where it was given one.
    edit.remove(edit.child(card, 'target'));
  }
}

function editPorts(edit: Editor, devices: Element, seat: Seat, given: ReadonlySet<string>): void {
  const value = serialPort(seat);
  const serial = edit.child(devices, 'serial');
  if (serial)
    edit.replace(
      serial,
      ['log'],
      value.children.filter((one) => one.name === 'log'),
    );
  else edit.append(devices, value);
  for (const channel of edit.children(devices, 'channel')) {
    const source = edit.child(channel, 'source');
    // A socket that libvirt named after the template.
    if (source?.getAttribute('mode') === 'bind') edit.remove(source);
  }
  if (given.has('graphics')) {
    for (const name of ['graphics', 'video', 'audio', 'sound']) {
      for (const one of edit.children(devices, name)) edit.remove(one);
    }
    const values = graphics(seat).filter((one) => one.name === 'graphics' || one.name === 'video');
    for (const one of values) edit.append(devices, one);
  } else {
    for (const one of edit.children(devices, 'graphics')) {
      if (!one.hasAttribute('port')) continue;
      one.setAttribute('port', '-1');
      one.setAttribute('autoport', 'yes');
    }
  }
  if (given.has('tpm')) edit.replace(devices, ['tpm'], seat.tpm ? [tpm()] : []);
}
