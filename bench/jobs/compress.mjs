// Compressed qcow2, both ways.
import { derive, makeDisk } from '../images.mjs';
import { convertJob } from './support.mjs';

export const title = 'compress';

export function* jobs(world) {
  const { folder, size } = world;
  const raw = makeDisk(folder, size);
  const packed = (type) => ['-c', '-O', 'qcow2', '-o', `compression_type=${type}`];
  yield convertJob(world, {
    name: 'raw → qcow2 -c zlib',
    goal: { wall: 0.45 },
    from: raw,
    to: 'qcow2',
    args: packed('zlib'),
  });
  yield convertJob(world, {
    name: 'raw → qcow2 -c zstd',
    goal: { wall: 0.7 },
    from: raw,
    to: 'qcow2',
    args: packed('zstd'),
  });
  const zlib = derive(folder, raw, 'disk-zlib.qcow2', ['-W', '-m', '8', ...packed('zlib')]);
  yield convertJob(world, {
    name: 'qcow2 zlib → raw',
    goal: { wall: 0.7 },
    from: zlib,
    to: 'raw',
    args: ['-O', 'raw'],
  });
}
