import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { isDiskError } from '../errors.ts';
import { backingNameIn } from './backing-name.ts';
import {
  assertNoDependents,
  forgetDependents,
  knownDependents,
  recordDependents,
  recordsFor,
} from './dependents.ts';

/** A qcow2 header that names a backing file, as `qemu-img create -b` lays it out. */
function header(backing: string | undefined, at = 512): Uint8Array {
  const bytes = new Uint8Array(at + 1024);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, 0x514649fb);
  view.setUint32(4, 3);
  if (backing !== undefined) {
    const name = new TextEncoder().encode(backing);
    view.setUint32(12, at);
    view.setUint32(16, name.length);
    bytes.set(name, at);
  }
  return bytes;
}

describe('dependents beside an image', () => {
  let dir: string;
  const lab = { by: 'a7d1', label: 'lab one' };
  const at = (...names: string[]) => join(dir, ...names);

  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'cowherd-dependents-'));
    mkdirSync(at('masters'));
    mkdirSync(at('pool'));
    writeFileSync(at('masters', 'm.qcow2'), header(undefined));
  });
  afterEach(() => rmSync(dir, { recursive: true, force: true }));

  it('refuses a write while a recorded overlay names the image, and names three', async () => {
    const overlays = ['a', 'b', 'c', 'd', 'e'].map((name) => at('pool', `${name}.qcow2`));
    await recordDependents(at('masters', 'm.qcow2'), overlays, lab);
    await assertNoDependents(at('masters', 'm.qcow2'));
    for (const path of overlays) writeFileSync(path, header('../masters/m.qcow2'));
    const error = await assertNoDependents(at('masters', 'm.qcow2')).catch((cause: unknown) => cause);
    expect(isDiskError(error, 'in-use')).toBe(true);
    expect((error as Error).message).toMatch(
      /a\.qcow2, .*b\.qcow2, .*c\.qcow2 and 2 more.*--corrupt-dependents/,
    );
    await assertNoDependents(at('masters', 'm.qcow2'), { force: true });
    await assertNoDependents(at('masters', 'm.qcow2'), { except: overlays });
  });

  it('ignores entries that are gone or stand on something else', async () => {
    writeFileSync(at('masters', 'other.qcow2'), header(undefined));
    const paths = [at('pool', 'gone.qcow2'), at('pool', 'moved.qcow2'), at('pool', 'flat.qcow2')];
    writeFileSync(paths[1], header('../masters/other.qcow2'));
    writeFileSync(paths[2], header(undefined));
    await recordDependents(at('masters', 'm.qcow2'), paths, lab);
    expect(await knownDependents(at('masters', 'm.qcow2'))).toEqual([]);
  });

  it('counts what it cannot understand as a dependent', async () => {
    writeFileSync(at('pool', 'x.vmdk'), 'KDMV');
    writeFileSync(at('pool', 'j.qcow2'), header('json:{"driver":"qcow2"}'));
    await recordDependents(at('masters', 'm.qcow2'), [at('pool', 'x.vmdk'), at('pool', 'j.qcow2')], lab);
    expect(await knownDependents(at('masters', 'm.qcow2'))).toHaveLength(2);
  });

  it('finds the record through a symbolic link, and a name far into the first cluster', async () => {
    symlinkSync('m.qcow2', at('masters', 'link.qcow2'));
    writeFileSync(at('pool', 'a.qcow2'), header(at('masters', 'm.qcow2'), 60_000));
    await recordDependents(at('masters', 'link.qcow2'), [at('pool', 'a.qcow2')], lab);
    expect(await knownDependents(at('masters', 'm.qcow2'))).toEqual([
      { path: at('pool', 'a.qcow2'), label: 'lab one' },
    ]);
  });

  it('keeps recorders apart, writes nothing twice, and leaves no folder behind', async () => {
    const master = at('masters', 'm.qcow2');
    await recordDependents(master, [at('pool', 'a.qcow2')], { ...lab, note: { mode: 0o644 } });
    const file = at('masters', '.cowherd', 'm.qcow2.dependents', 'a7d1.json');
    const before = statSync(file, { bigint: true });
    await recordDependents(master, [at('pool', 'a.qcow2')], { ...lab, note: { mode: 0o644 } });
    expect(statSync(file, { bigint: true }).mtimeNs).toBe(before.mtimeNs);
    expect(statSync(file, { bigint: true }).ino).toBe(before.ino);
    await recordDependents(master, [at('pool', 'b.qcow2')], { by: 'b', label: 'lab two' });
    expect(recordsFor(master).map((one) => [one.label, one.note])).toEqual([
      ['lab one', { mode: 0o644 }],
      ['lab two', undefined],
    ]);
    await forgetDependents(master, 'a7d1');
    expect(recordsFor(master)).toHaveLength(1);
    await forgetDependents(master, 'b');
    expect(existsSync(at('masters', '.cowherd'))).toBe(false);
    expect(readdirSync(at('masters'))).toEqual(['m.qcow2']);
  });

  it('refuses by a damaged record, naming it, and allows a new file', async () => {
    await recordDependents(at('masters', 'm.qcow2'), [], lab);
    const file = at('masters', '.cowherd', 'm.qcow2.dependents', 'a7d1.json');
    writeFileSync(file, '{"by":1}');
    await expect(assertNoDependents(at('masters', 'm.qcow2'))).rejects.toMatchObject({
      code: 'corrupt',
      path: file,
    });
    truncateSync(file, 0);
    await expect(assertNoDependents(at('masters', 'm.qcow2'))).rejects.toMatchObject({ code: 'corrupt' });
    await assertNoDependents(at('masters', 'new.qcow2'));
  });
});

describe('backingNameIn', () => {
  it('survives headers that lie', () => {
    expect(backingNameIn(new Uint8Array(10))).toBeUndefined();
    expect(backingNameIn(new Uint8Array(512))).toBeUndefined();
    expect(backingNameIn(header(undefined))).toBeNull();
    expect(backingNameIn(header('m.raw'))).toBe('m.raw');
    const lying = header('m.raw');
    const view = new DataView(lying.buffer);
    view.setUint32(16, 0xffffffff);
    expect(backingNameIn(lying)).toBe('');
    view.setUint32(16, 5);
    view.setUint32(8, 7);
    expect(backingNameIn(lying)).toBe('');
  });
});
