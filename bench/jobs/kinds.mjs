// The formats in every shape that both programs write. `grainwise`: what QEMU writes one grain or cluster after the other.
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { derive } from '../images.mjs';

const kind = (name, format, ...options) => ({
  name,
  format,
  args: ['-O', format, ...options.flatMap((option) => ['-o', option])],
  // A fixed VHD has nothing at its start to be known by.
  open: ['-f', format],
});

export const raw = kind('raw', 'raw');
export const qcow2 = kind('qcow2', 'qcow2');

/** Those of other programs than QEMU, or that it keeps for them. */
export const others = [
  { ...kind('VMDK sparse', 'vmdk', 'subformat=monolithicSparse'), grainwise: true },
  kind('VMDK flat', 'vmdk', 'subformat=monolithicFlat'),
  { ...kind('VMDK split sparse', 'vmdk', 'subformat=twoGbMaxExtentSparse'), grainwise: true },
  kind('VMDK split flat', 'vmdk', 'subformat=twoGbMaxExtentFlat'),
  { ...kind('VMDK streamOptimized', 'vmdk', 'subformat=streamOptimized'), grainwise: true },
  kind('VDI', 'vdi'),
  kind('VDI static', 'vdi', 'static=on'),
  kind('VHD', 'vpc', 'force_size=on'),
  kind('VHD fixed', 'vpc', 'subformat=fixed,force_size=on'),
  kind('VHDX', 'vhdx'),
  kind('VHDX fixed', 'vhdx', 'subformat=fixed'),
  { ...kind('qcow', 'qcow'), grainwise: true },
  kind('QED', 'qed'),
  kind('Parallels', 'parallels'),
];

/** An image of that kind with the content of `disk`, made by qemu-img in a folder of its own. */
export function imageOf(folder, disk, { name, args }) {
  const own = `from-${name.replaceAll(' ', '-')}`;
  mkdirSync(join(folder, own), { recursive: true });
  return derive(folder, disk, `${own}/disk.img`, args);
}
