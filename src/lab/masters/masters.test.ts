import { execFileSync } from 'node:child_process';
import { existsSync, linkSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { have } from '../../../test/support/programs.ts';
import { DiskError } from '../../errors.ts';
import { isImmutable, setImmutable } from '../../platform/file-facts.ts';
import { processMark } from '../../platform/process-identity.ts';
import { takeHold } from '../guard/guard.ts';
import { lockPool } from '../pool/pool-lock.ts';
import { collect } from './collect.ts';
import { findVersion, folderLock, masterVersions, nextNumber, orphanedRecords } from './library.ts';
import { nameForVersionsOf, parseMasterName, versionOfFile } from './name.ts';
import { publishMaster } from './publish.ts';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'cowherd-masters-'));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

const publish = (
  name: string,
  make: (path: string) => void | Promise<void>,
  format: 'raw' | 'qcow2' = 'raw',
) =>
  publishMaster({
    folder,
    name,
    format,
    origin: { how: 'test' },
    now: () => 0,
    make: async (path) => make(path),
  });

/** Whether the folder for temporary files is on a file system that has the flag, and we may set it. */
function haveImmutable(): boolean {
  const path = join(mkdtempSync(join(tmpdir(), 'cowherd-flag-')), 'file');
  writeFileSync(path, '');
  try {
    setImmutable(path, true);
    setImmutable(path, false);
    return true;
  } catch {
    return false;
  } finally {
    rmSync(dirname(path), { recursive: true });
  }
}

describe('names of versions', () => {
  it('are read and refused', () => {
    expect(parseMasterName('debian-12@3')).toEqual({ name: 'debian-12', number: 3 });
    expect(parseMasterName('debian-12')).toEqual({ name: 'debian-12', number: undefined });
    for (const text of ['', '@1', 'a@0', 'a@x', 'a/b', '.a', 'a@1@2'])
      expect(() => parseMasterName(text), text).toThrow(DiskError);
    expect(versionOfFile('/x/a@12.qcow2')).toEqual({ name: 'a', number: 12, format: 'qcow2' });
    expect(versionOfFile('/x/a.qcow2')).toBeUndefined();
  });

  it('come from the names of images', () => {
    expect(nameForVersionsOf('/m/debian-12.qcow2')).toBe('debian-12');
    expect(nameForVersionsOf('/m/debian-12@4.raw')).toBe('debian-12');
    expect(nameForVersionsOf('/m/My image.img')).toBe('My-image');
    expect(nameForVersionsOf('/m/.qcow2')).toBe('master');
  });
});

describe('a folder of masters', () => {
  it('gives numbers, records, and images that nobody may write', async () => {
    const first = await publish('m', (path) => writeFileSync(path, new Uint8Array(512).fill(1)));
    const second = await publish('m', (path) => writeFileSync(path, new Uint8Array(1024).fill(2)));
    expect([first.label, second.label]).toEqual(['m@1', 'm@2']);
    expect(readdirSync(folder).sort()).toEqual(['.cowherd', 'm@1.json', 'm@1.raw', 'm@2.json', 'm@2.raw']);
    expect(statSync(second.path).mode & 0o777).toBe(0o444);
    expect(findVersion(folder, 'm').record).toMatchObject({
      master: 'm@2',
      size: 1024,
      created: '1970-01-01T00:00:00.000Z',
      origin: { how: 'test' },
    });
    expect(findVersion(folder, 'm@1').path).toBe(join(folder, 'm@1.raw'));
    expect(() => findVersion(folder, 'm@3')).toThrow('There is no master "m@3"');
    rmSync(first.path);
    expect(orphanedRecords(folder)).toEqual([first.recordPath]);
    expect(masterVersions(folder).map((one) => one.label)).toEqual(['m@2']);
  });

  it('never gives a number again that a record has', async () => {
    const first = await publish('m', (path) => writeFileSync(path, new Uint8Array(512)));
    rmSync(first.path);
    expect(nextNumber(folder, 'm')).toBe(2);
  });

  /** As a run leaves it that was killed before the image had its name, or `named` just after. */
  const cutOff = (label: string, named: boolean) => {
    // No process has so high a number.
    const mark = processMark().replace(/^\d+/, '999999999');
    const hidden = join(folder, `.${label}.raw.cowherd-${mark}.0123456789ab.part`);
    writeFileSync(hidden, new Uint8Array(512), { mode: 0o444 });
    const record = { version: 1, master: label, format: 'raw', size: 512, content: 'x', created: '' };
    writeFileSync(join(folder, `${label}.json`), JSON.stringify({ ...record, origin: { how: 'test' } }));
    if (named) linkSync(hidden, join(folder, `${label}.raw`));
    return hidden;
  };

  it('gives the number of a version that was cut off to the next one, and takes away what is left of it', async () => {
    await publish('m', (path) => writeFileSync(path, new Uint8Array(512)));
    cutOff('m@2', false);
    expect(nextNumber(folder, 'm')).toBe(2);
    const next = await publish('m', (path) => writeFileSync(path, new Uint8Array(1024)));
    expect(next.label).toBe('m@2');
    expect(findVersion(folder, 'm').record).toMatchObject({ master: 'm@2', size: 1024 });
    expect(readdirSync(folder).sort()).toEqual(['.cowherd', 'm@1.json', 'm@1.raw', 'm@2.json', 'm@2.raw']);
  });

  it('gives nobody the number of one that was whole, while a killed attempt to bring its image back lies there', async () => {
    for (const kept of ['m@1.raw.content.json', 'm@1.raw.dependents']) {
      await publish('m', (path) => writeFileSync(path, new Uint8Array(512)));
      const remembered = join(folder, '.cowherd', kept);
      if (kept.endsWith('.dependents')) {
        await takeHold({
          id: 'x',
          lab: 'x',
          state: 's',
          files: [join(folder, 'm@1.raw')],
          disks: [],
          immutable: false,
        });
        rmSync(join(folder, '.cowherd/m@1.raw.content.json'));
      }
      expect(existsSync(remembered)).toBe(true);
      rmSync(join(folder, 'm@1.raw'));
      cutOff('m@1', false);
      const next = await publish('m', (path) => writeFileSync(path, new Uint8Array(1024)));
      expect(next.label).toBe('m@2');
      expect(existsSync(join(folder, 'm@1.json'))).toBe(true);
      rmSync(folder, { recursive: true });
    }
  });

  it.skipIf(!haveImmutable())(
    'goes on, and gc too, where a second name was left of a master that is immutable now',
    async () => {
      const image = join(folder, 'm@1.raw');
      for (const clear of [
        () => publish('m', (path) => writeFileSync(path, new Uint8Array(512))),
        () => collect(folder, { keep: 5, places: [], forgetGone: false }),
      ]) {
        rmSync(image, { force: true });
        const hidden = cutOff('m@1', true);
        setImmutable(image, true);
        try {
          await clear();
          expect(existsSync(hidden)).toBe(false);
          expect(isImmutable(image)).toBe(true);
        } finally {
          setImmutable(image, false);
        }
      }
    },
  );

  it('waits with a finished image for who works on the masters', async () => {
    const { path, what } = folderLock(folder);
    const held: Disposable[] = [];
    const version = await publish('m', async (image) => {
      writeFileSync(image, new Uint8Array(512));
      held.push(await lockPool(path, what));
      setTimeout(() => held[0][Symbol.dispose](), 200);
    });
    expect(version.label).toBe('m@1');
  });

  it('has nothing of an image that could not be made', async () => {
    await expect(
      publish('m', (path) => {
        writeFileSync(path, 'half');
        throw new Error('no more');
      }),
    ).rejects.toThrow('no more');
    expect(readdirSync(folder)).toEqual([]);
  });

  it.skipIf(!have('qemu-img'))('knows the content of what qemu-img made', async () => {
    const make = (path: string) => {
      execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', path, '1M'], { stdio: 'ignore' });
    };
    const version = await publish('q', make, 'qcow2');
    expect(version.record!.size).toBe(1024 * 1024);
    const raw = await publish('r', (path) => writeFileSync(path, new Uint8Array(1024 * 1024)));
    expect(raw.record!.content).toBe(version.record!.content);
    expect(existsSync(version.path)).toBe(true);
  });
});
