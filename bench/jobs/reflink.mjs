// The same where the file system can share blocks between files (a loop device, as root).
import { existsSync, mkdirSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { derive, makeDisk } from '../images.mjs';
import { quietly } from '../process.mjs';
import { convertJob } from './support.mjs';

export const title = 'reflink';

/** A file system of its own inside `folder`, mounted while `use` runs. */
function mounted(folder, kind, bytes) {
  const image = join(folder, `${kind}.img`);
  const mount = join(folder, kind);
  writeFileSync(image, '');
  truncateSync(image, bytes);
  quietly([`mkfs.${kind}`, '-q', image], folder);
  mkdirSync(mount, { recursive: true });
  quietly(['mount', '-o', 'loop', image, mount], folder);
  return {
    mount,
    end() {
      quietly(['umount', mount], folder);
      rmSync(image);
    },
  };
}

export function* jobs(world) {
  if (process.getuid?.() !== 0) return;
  for (const kind of ['xfs', 'btrfs']) {
    if (!existsSync(`/usr/sbin/mkfs.${kind}`) && !existsSync(`/sbin/mkfs.${kind}`)) continue;
    const { mount, end } = mounted(world.folder, kind, world.size * 2);
    try {
      const raw = makeDisk(world.folder, world.size);
      quietly(['cp', '--sparse=always', raw, mount], world.folder);
      const inside = { ...world, folder: mount };
      const qcow2 = derive(mount, raw, 'disk.qcow2', ['-O', 'qcow2']);
      for (const [from, to] of [
        [raw, 'qcow2'],
        [qcow2, 'raw'],
      ]) {
        const args = ['-O', to];
        const name = `${from === raw ? 'raw' : 'qcow2'} → ${to} on ${kind}`;
        yield convertJob(inside, { name, goal: { wall: 0.25 }, from, to, args, peerArgs: [[]] });
        yield convertJob(inside, {
          name: `${name}, against -C`,
          goal: { wall: 0.9 },
          from,
          to,
          args,
          peerArgs: [['-C']],
        });
      }
    } finally {
      end();
    }
  }
}
