import { protocolOf } from '../../reference.ts';
import type { NodeDriver } from '../node-driver.ts';
import { blkdebugDriver } from './blkdebug.ts';
import { fileDriver, hostDeviceDriver } from './file.ts';
import { compressDriver, copyOnReadDriver, preallocateDriver, throttleDriver } from './filters.ts';
import { httpDrivers } from './http.ts';
import { nbdDriver } from './nbd.ts';
import { nullDrivers } from './null.ts';

/** The nodes that are no formats. To add one: its file here, and its line. */
export const nodeDrivers: readonly NodeDriver[] = [
  fileDriver,
  hostDeviceDriver,
  ...nullDrivers,
  ...httpDrivers,
  nbdDriver,
  blkdebugDriver,
  throttleDriver,
  copyOnReadDriver,
  compressDriver,
  preallocateDriver,
];

/** Drivers that QEMU 7.2 has and we do not: refused by name, so that nobody takes them for slips. */
const absentDrivers: ReadonlySet<string> = new Set(
  `blklogwrites blkverify copy-before-write ftp ftps gluster host_cdrom iscsi iser nfs nvme quorum rbd
   replication snapshot-access ssh vvfat`.split(/\s+/),
);

/** What file names of these begin with (`fat:` is vvfat's). */
const absentProtocols: ReadonlySet<string> = new Set(
  `blklogwrites blkverify fat ftp ftps gluster gluster+rdma gluster+tcp gluster+unix host_cdrom iscsi iser nfs nvme rbd ssh`.split(
    /\s+/,
  ),
);

/** Whether a new image can be laid into what is there by that name: QEMU creates nothing by protocol but on files. */
export function takesNewImages(name: string): boolean {
  return nbdDriver.prefixes!.includes(protocolOf(name) ?? '');
}

export const isAbsentDriver = (name: string) => absentDrivers.has(name);
export const isAbsentProtocol = (name: string) => absentProtocols.has(name);
