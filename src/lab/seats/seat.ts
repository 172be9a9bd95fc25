/**
 * One seat of a lab as a runner and the domain XML need it: a plain value, everything decided, paths absolute.
 * The lab makes it from the specification; nothing here is looked up or defaulted later.
 */
export interface Seat {
  /** The lab's name. */
  readonly lab: string;
  /** The seat's name, unique in its lab (`student-07`). */
  readonly name: string;
  /** RFC 9562 text form, lower case. The same on every run. */
  readonly uuid: string;
  /** `52:54:00:xx:xx:xx`, lower case. */
  readonly mac: string;
  /** The host that it runs on, by its name in the lab file, where that has several. */
  readonly host?: string;
  /** Where its domain was when that was last known, if that is not where the lab file has it now. */
  readonly former?: FormerHome;
  readonly memoryMiB: number;
  readonly cpus: number;
  readonly disk: SeatDisk;
  readonly network: SeatNetwork;
  /** Absolute path of an ISO image, read-only to the guest. The disk is tried first at boot. */
  readonly cdrom?: string;
  /** Absolute path of an image with what makes the guest this seat's (cloud-init's NoCloud), in a second drive. */
  readonly seed?: string;
  /** A kernel to boot in place of what the disks hold. */
  readonly kernel?: SeatKernel;
  /** A restart switches the machine off. */
  readonly once?: boolean;
  /** More disks, of this seat alone, empty at first. */
  readonly disks?: readonly SeatDisk[];
  /** Absolute path of its libvirt definition. */
  readonly definition: string;
  /** Where its lab's pool has lain before, by the lab's own records: a domain that was defined there may be this seat's. */
  readonly origin?: PoolOrigin;
  /** Absolute path of the file that the serial port COM1 is written to. */
  readonly serialLog: string;
  /** Absolute path of the master, for the domain's metadata and for messages. */
  readonly master?: string;
  /** `contentDigest` of the master, where nothing but the domain's metadata can keep it. */
  readonly content?: string;
  /** 'none' gives the guest no display adapter; 'vnc' and 'spice' a card, and a way to see it. */
  readonly graphics: Graphics;
  /** How the machine boots. With UEFI each seat has firmware variables of its own. */
  readonly firmware: Firmware;
  /** A trusted platform module of its own, emulated. */
  readonly tpm?: boolean;
}

/** Earlier places of a pool, and where it was made. */
export interface PoolOrigin {
  /** `poolUuid` of the folder that it was made in. */
  readonly id: string;
  /** Real paths. */
  readonly places: readonly string[];
  /** The pool is a copy of one that lay on this file system (`fileSystemAt`), which may be there still. */
  readonly copiedFrom?: string;
  /** What that copy was made from is gone for good. */
  readonly isGone?: boolean;
}

/** The libvirt that has had a seat's domain. */
export interface FormerHome {
  /** Undefined: the lab had no hosts. */
  readonly host?: string;
  /** Undefined: it was not written down. */
  readonly uri?: string;
}

/** A kernel that the hypervisor loads by itself. */
export interface SeatKernel {
  /** Absolute paths. */
  readonly path: string;
  readonly initrd: string;
  readonly commandLine: string;
}

export const firmwares = ['bios', 'uefi'] as const;
export type Firmware = (typeof firmwares)[number];

export const graphicsKinds = ['none', 'vnc', 'spice'] as const;
export type Graphics = (typeof graphicsKinds)[number];

export interface SeatDisk {
  /** Absolute path. */
  readonly path: string;
  /** QEMU's driver name (`qcow2`, `raw`). Always given, so that nothing a guest wrote is ever probed. */
  readonly format: string;
  readonly bus: DiskBus;
  /** The path leads to a block device. */
  readonly block?: boolean;
  /** Its guest data is encrypted (LUKS inside qcow2). */
  readonly encryption?: DiskEncryption;
}

/** Where the passphrase of a seat's disks comes from. */
export interface DiskEncryption {
  readonly lab: string;
  readonly seat: string;
  /** Absolute path of the lab's passphrase; undefined: the lab file does not say. */
  readonly passphraseFile?: string;
  /** UUID of libvirt's secret for it. */
  readonly secret: string;
}

export const diskBuses = ['virtio', 'ide', 'sata'] as const;
export type DiskBus = (typeof diskBuses)[number];

/** Whether the host's room for a disk is set aside when it is made. */
export const preallocations = ['off', 'falloc'] as const;
export type Preallocation = (typeof preallocations)[number];

export type SeatNetwork =
  | { readonly kind: 'none' }
  /** The hypervisor's own NAT without privileges; guests do not see each other. */
  | { readonly kind: 'user' }
  /** A libvirt network by name. */
  | { readonly kind: 'network'; readonly name: string }
  /** A host bridge by name. */
  | { readonly kind: 'bridge'; readonly name: string };
