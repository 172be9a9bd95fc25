import { spawnSync } from 'node:child_process';
import {
  chownSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { processPlace } from './process-identity.ts';
import { createPrivateFolder, sweepPrivateFolders } from './scratch-folder.ts';

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'cowherd-scratch-'));
});
afterEach(() => rmSync(dir, { recursive: true }));

it('private folders whose process was killed are swept, and nobody else’s', () => {
  const { pid } = spawnSync('true');
  const gone = `${pid}-1.${processPlace()}.0123456789ab`;
  const make = (name: string) => {
    mkdirSync(join(dir, name));
    writeFileSync(join(dir, name, 'key'), 'secret');
  };
  using mine = createPrivateFolder('define', dir);
  expect(statSync(mine.path).mode & 0o777).toBe(0o700);
  const strange = [`cowherd-define-${gone}`, `other-define.cowherd-${gone}`, 'cowherd-probe-abcdef'];
  const elsewhere = `cowherd-host.cowherd-${pid}-1.00000000.0123456789ab`;
  for (const name of [
    `cowherd-define.cowherd-${gone}`,
    `cowherd-secret.cowherd-${gone}`,
    'cowherd-define-Y7AYks',
  ])
    make(name);
  for (const name of [...strange, elsewhere]) make(name);
  const left = () =>
    readdirSync(dir)
      .filter((name) => join(dir, name) !== mine.path)
      .sort();
  sweepPrivateFolders(dir);
  // One without a mark, and one of another boot or container, may still be in use.
  expect(left()).toEqual([...strange, elsewhere, 'cowherd-define-Y7AYks'].sort());
  sweepPrivateFolders(dir, Date.now() + 25 * 3600 * 1000);
  expect(left()).toEqual([...strange].sort());
  if (process.geteuid?.() === 0) {
    const theirs = `cowherd-define.cowherd-${gone}`;
    make(theirs);
    chownSync(join(dir, theirs), 65534, 65534);
    utimesSync(join(dir, theirs), 0, 0);
    sweepPrivateFolders(dir);
    expect(left()).toContain(theirs);
  }
});
