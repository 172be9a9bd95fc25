// The other hypervisors' formats, to and from qcow2.
import { derive, makeDisk } from '../images.mjs';
import { convertJob } from './support.mjs';

export const title = 'formats';

const kinds = [
  { name: 'VMDK sparse', format: 'vmdk', options: ['-o', 'subformat=monolithicSparse'] },
  { name: 'VMDK streamOptimized', format: 'vmdk', options: ['-o', 'subformat=streamOptimized'] },
  { name: 'VDI', format: 'vdi', options: [] },
  { name: 'VHD', format: 'vpc', options: ['-o', 'force_size=on'] },
  { name: 'VHDX', format: 'vhdx', options: [] },
];

export function* jobs(world) {
  const { folder, size } = world;
  const raw = makeDisk(folder, size);
  const qcow2 = derive(folder, raw, 'disk.qcow2', ['-O', 'qcow2']);
  const goal = { wall: 0.9 };
  for (const [index, { name, format, options }] of kinds.entries()) {
    if (!world.has(format)) continue;
    const to = ['-O', format, ...options];
    yield convertJob(world, { name: `qcow2 → ${name}`, goal, from: qcow2, to: format, args: to });
    const other = derive(folder, raw, `disk-${index}.${format}`, to);
    yield convertJob(world, {
      name: `${name} → qcow2`,
      goal,
      from: other,
      to: 'qcow2',
      args: ['-O', 'qcow2'],
    });
  }
}
