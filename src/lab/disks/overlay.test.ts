import { mkdtempSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ExtensionType } from '../../formats/qcow2/constants.ts';
import { encodeNewImage } from '../../formats/qcow2/create.ts';
import { backingPathOf, encodeProvenance, provenanceOf, readImageHead } from './overlay.ts';

const provenance = { v: 1, lab: 'class', seat: 'ann', master: 'cowherd1:00' } as const;
const image = (data: Uint8Array, backing = '../m.raw') =>
  encodeNewImage(
    1024 * 1024,
    {},
    {
      backing: { path: backing, format: 'raw' },
      extensions: [{ type: ExtensionType.provenance, data }],
    },
  ).bytes;

describe('the head of an image', () => {
  let dir: string;
  let path: string;
  beforeAll(() => {
    dir = mkdtempSync(join(tmpdir(), 'cowherd-head-'));
    path = join(dir, 'ann.qcow2');
  });
  afterAll(() => rmSync(dir, { recursive: true, force: true }));

  it('tells where an overlay comes from', () => {
    writeFileSync(path, image(encodeProvenance(provenance)));
    const head = readImageHead(path)!;
    expect(head).toMatchObject({ format: 'qcow2', size: 1024 * 1024, provenance });
    expect(head.backing).toEqual({ path: '../m.raw', format: 'raw' });
    expect(head.apparent).toBe(statSync(path).size);
    expect(backingPathOf(head)).toBe(join(dir, '../m.raw'));
    expect(backingPathOf({ path, backing: { path: 'nbd:localhost:1' } })).toBeUndefined();
    expect(backingPathOf({ path, backing: { path: 'file:/srv/a:b.raw' } })).toBe('/srv/a:b.raw');
    const described = (text: string) => backingPathOf({ path, backing: { path: `json:${text}` } });
    const file = '{"driver": "file", "filename": "/srv/a:b.raw"}';
    expect(described(`{"driver": "qcow2", "file": ${file}}`)).toBe('/srv/a:b.raw');
    expect(described(`{"driver": "throttle", "file": {"driver": "raw", "file": ${file}}}`)).toBe(
      '/srv/a:b.raw',
    );
    expect(described('{"driver": "raw", "file.filename": "a.raw"}')).toBe(join(dir, 'a.raw'));
    expect(described('{"filename": "nbd:localhost:1"}')).toBeUndefined();
    expect(described('{"driver": "nbd", "host": "localhost"}')).toBeUndefined();
    expect(described('{')).toBeUndefined();
  });

  it('believes no extension that is not ours', () => {
    for (const text of [
      '',
      '{',
      'null',
      '[]',
      '{"v":2,"lab":"a","seat":"b","master":"c"}',
      '{"v":1,"lab":1}',
      '\xff',
    ]) {
      const data = Uint8Array.from(text, (char) => char.charCodeAt(0));
      expect(provenanceOf({ extensions: [{ type: ExtensionType.provenance, data }] })).toBeUndefined();
    }
  });

  it('survives files of all kinds, and headers that lie', () => {
    expect(readImageHead(join(dir, 'nothing'))).toBeUndefined();
    expect(readImageHead(dir)).toMatchObject({ format: 'other' });
    writeFileSync(path, '');
    expect(readImageHead(path)).toMatchObject({ format: 'other', apparent: 0 });
    const whole = image(encodeProvenance(provenance));
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.nat(600), fc.nat(255)), { maxLength: 8 }),
        fc.nat(whole.length),
        (changes, length) => {
          const bytes = whole.slice();
          for (const [at, value] of changes) bytes[at] = value;
          writeFileSync(path, bytes);
          truncateSync(path, length);
          const head = readImageHead(path)!;
          expect(head.apparent).toBe(length);
          if (head.damage === undefined && head.provenance)
            expect(typeof head.provenance.seat).toBe('string');
        },
      ),
      { numRuns: 500 },
    );
  });
});
