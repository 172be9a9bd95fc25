/** What a disk or a drive is plugged into. */
export type ApplianceBus = 'ide' | 'sata' | 'scsi' | 'virtio';
export type ApplianceFirmware = 'bios' | 'uefi';

/** A virtual machine as an OVF descriptor tells of it. */
export interface Appliance {
  readonly name: string;
  readonly description?: string;
  readonly memoryMiB: number;
  readonly cpus: number;
  readonly firmware: ApplianceFirmware;
  /** In the order in which the machine has them. */
  readonly disks: readonly ApplianceDisk[];
  readonly networkCards: readonly NetworkCard[];
  /** It has drives for removable discs; what is in them is not kept. */
  readonly opticalDrives: number;
  /** What else it has and this tool does not know, by the descriptor's names for it. */
  readonly unknown: readonly string[];
}

export interface ApplianceDisk {
  readonly id: string;
  readonly bus: ApplianceBus;
  /** The controller as the descriptor names it (`lsilogic`, `AHCI`). */
  readonly controller?: string;
  /** Guest bytes, as promised. */
  readonly capacity?: number;
  /** Bytes that the promise is counted in. */
  readonly capacityUnit?: number;
  /** The file that holds it; absent: an empty disk. */
  readonly file?: ApplianceFile;
}

/** A file of the package. */
export interface ApplianceFile {
  readonly href: string;
  /** Bytes, as promised. */
  readonly size?: number;
  readonly gzip: boolean;
}

export interface NetworkCard {
  /** As the descriptor names it (`E1000`, `VmxNet3`). */
  readonly model?: string;
  readonly network?: string;
  /** `xx:xx:xx:xx:xx:xx`, lower case. */
  readonly mac?: string;
}
