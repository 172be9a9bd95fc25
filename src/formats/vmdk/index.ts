import { viewOf } from '../../bytes/numbers.ts';
import type { FormatDriver } from '../driver.ts';
import { checkVmdk } from './check.ts';
import { cowdMagic, hostedMagic } from './constants.ts';
import { createVmdk } from './create.ts';
import { looksLikeDescriptor } from './descriptor.ts';
import { openVmdk, referencesOf } from './open.ts';
import { createOptions } from './options.ts';

/** VMware's disks: descriptors with extents of every kind, or one sparse extent that has the descriptor inside. */
export const vmdk: FormatDriver = {
  name: 'vmdk',
  createOptions,
  canPack: true,
  probe({ head }) {
    if (head.length < 4) return 0;
    const magic = viewOf(head).getUint32(0, true);
    if (magic === hostedMagic || magic === cowdMagic) return 100;
    return looksLikeDescriptor(head.subarray(0, 512)) ? 100 : 0;
  },
  open: openVmdk,
  references: referencesOf,
  create: createVmdk,
  check: checkVmdk,
};
