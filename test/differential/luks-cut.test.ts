import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createImageFile } from '../../src/node.ts';
import { lines } from './harness.ts';

/** Where its key is, a slot that has none, the payload, and its last byte. */
const cuts = {
  header: 500,
  slot: 100_000,
  empty: 600_000,
  payload: 2_100_000,
  last: 2_068_480 + 1024 * 1024 - 1,
};
const secret = '--object secret,id=s,data=abc';

async function world(path: string): Promise<void> {
  mkdirSync(path);
  const whole = join(path, 'whole.luks');
  await createImageFile(whole, {
    format: 'luks',
    size: 1024 * 1024,
    options: { 'key-secret': 's', 'iter-time': 0 },
    secret: async () => new TextEncoder().encode('abc'),
  });
  const bytes = readFileSync(whole);
  for (const [name, length] of Object.entries(cuts)) {
    writeFileSync(join(path, `${name}.luks`), bytes.subarray(0, length));
  }
}

lines(
  'LUKS that is cut short',
  Object.keys(cuts).flatMap((name) => {
    const image = `--image-opts driver=luks,file.filename=${name}.luks,key-secret=s`;
    return [`info ${name}.luks`, `info -f luks ${name}.luks`, `convert ${secret} ${image} out.raw`];
  }),
  { world },
);

lines(
  'LUKS that is cut short, and changed',
  ['header', 'slot', 'empty'].map(
    (name) =>
      `amend ${secret} --object secret,id=n,data=def --image-opts driver=luks,file.filename=${name}.luks,key-secret=s ` +
      '-o state=active,new-secret=n,iter-time=10',
  ),
  { world },
);
