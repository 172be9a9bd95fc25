// Copying a disk's content between raw and qcow2.
import { derive, makeChain, makeDisk } from '../images.mjs';
import { convertJob } from './support.mjs';

export const title = 'convert';

const plain = { wall: 0.95, cpu: 0.8 };

export function* jobs(world) {
  const { folder, size } = world;
  const raw = makeDisk(folder, size);
  yield convertJob(world, {
    name: 'raw → qcow2',
    goal: plain,
    from: raw,
    to: 'qcow2',
    args: ['-O', 'qcow2'],
  });
  const qcow2 = derive(folder, raw, 'disk.qcow2', ['-O', 'qcow2']);
  yield convertJob(world, { name: 'qcow2 → raw', goal: plain, from: qcow2, to: 'raw', args: ['-O', 'raw'] });
  yield convertJob(world, {
    name: 'qcow2 → qcow2',
    goal: plain,
    from: qcow2,
    to: 'qcow2',
    args: ['-O', 'qcow2'],
  });
  const chain = makeChain(folder, qcow2, size);
  yield convertJob(world, {
    name: 'chain of 4 → qcow2',
    goal: plain,
    from: chain,
    to: 'qcow2',
    args: ['-O', 'qcow2'],
  });
}
