import { viewOf } from '../../bytes/numbers.ts';
import type { FormatDriver } from '../driver.ts';
import { checkVdi } from './check.ts';
import { createVdi } from './create.ts';
import { headerBytes, vdiSignature } from './header.ts';
import { openVdi, readVdiHeader } from './layer.ts';

/** VirtualBox's disk image: dynamic, static, and (for reading) differencing. */
export const vdi: FormatDriver = {
  name: 'vdi',
  createOptions: [
    { name: 'size', type: 'size', help: 'Virtual disk size' },
    { name: 'static', type: 'boolean', help: 'VDI static (pre-allocated) image', default: false },
  ],
  probe({ head }) {
    return head.length >= headerBytes && viewOf(head).getUint32(0x40, true) === vdiSignature ? 100 : 0;
  },
  open: openVdi,
  async references(source) {
    const { parent } = await readVdiHeader(source);
    return parent === undefined ? [] : [{ role: 'backing file', path: `{${parent}}.vdi`, format: 'vdi' }];
  },
  create: createVdi,
  check: checkVdi,
};
