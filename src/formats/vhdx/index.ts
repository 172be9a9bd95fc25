import type { FormatDriver } from '../driver.ts';
import { checkVhdx } from './check.ts';
import { hasSignature } from './checksum.ts';
import { createVhdx } from './create.ts';
import { openVhdx, readDisk } from './open.ts';
import { createOptions } from './options.ts';
import { parentReference } from './parent.ts';

/** VHDX, the disks of Hyper-V since Windows Server 2012 (Microsoft Open Specification MS-VHDX). */
export const vhdx: FormatDriver = {
  name: 'vhdx',
  createOptions,
  probe: ({ head }) => (head.length >= 8 && hasSignature(head, 'vhdxfile') ? 100 : 0),
  open: openVhdx,
  async references(source) {
    const { disk } = await readDisk(source);
    return disk.parent ? [{ ...parentReference(disk.parent, source.name), role: 'backing file' }] : [];
  },
  create: createVhdx,
  check: checkVhdx,
};
