import type { FormatDriver } from '../driver.ts';
import { amendOptions, amendQcow2 } from './amend.ts';
import { checkQcow2, repairRefcounts } from './check/index.ts';
import { magic } from './constants.ts';
import { createQcow2 } from './create.ts';
import { measureQcow2 } from './measure.ts';
import { openQcow2 } from './open.ts';
import { createOptions } from './options.ts';
import { referencesOf } from './references.ts';
import { openOptions } from './runtime-options.ts';

/** The fewest bytes that QEMU takes for a qcow2 header. */
const headerBytes = 112;

/** The qcow2 format, versions 2 and 3 (docs/interop/qcow2). */
export const qcow2: FormatDriver = {
  name: 'qcow2',
  createOptions,
  openOptions,
  canPack: true,
  probe({ head }) {
    if (head.length < headerBytes) return 0;
    const view = new DataView(head.buffer, head.byteOffset, head.byteLength);
    return view.getUint32(0) === magic && view.getUint32(4) >= 2 ? 100 : 0;
  },
  open: (source, context) => openQcow2(source, context, { repairDirty: repairRefcounts }),
  references: referencesOf,
  create: createQcow2,
  check: checkQcow2,
  measure: measureQcow2,
  amendOptions,
  amend: amendQcow2,
};
