import type { FormatDriver } from '../driver.ts';
import { checkVpc } from './check.ts';
import { createVpc } from './create.ts';
import { footerBytes, hasCookie } from './footer.ts';
import { openVpc, readDynamicHeader, readFooters } from './open.ts';
import { createOptions } from './options.ts';
import { readParentReference } from './parent.ts';

/** VHD, the disks of Virtual PC, Hyper-V and Azure ("Virtual Hard Disk Image Format Specification", 2006). */
export const vpc: FormatDriver = {
  name: 'vpc',
  createOptions,
  openOptions: [{ name: 'force_size_calc', type: 'string' }],
  // A fixed disk looks like a raw one: as with QEMU, its format must be given.
  probe: ({ head }) => (head.length >= footerBytes && hasCookie(head, 'conectix') ? 100 : 0),
  open: openVpc,
  async references(source) {
    const { footer } = await readFooters(source);
    if (footer.type !== 'differencing') return [];
    const parent = await readParentReference(source, await readDynamicHeader(source, footer));
    return [{ ...parent, role: 'backing file' }];
  },
  create: createVpc,
  check: checkVpc,
};
