import { describe, expect, it } from 'vitest';
import { DiskError } from '../../errors.ts';
import { assertMakeable, parseLab } from './load.ts';
import { editDistance, nearest } from './nearest.ts';

const where = { name: 'lab.yaml', file: '/srv/labs/lab.yaml' };
const parse = (text: string) => parseLab(text, where);

/** Lab files that are wrong. The golden file holds each with what the user is told. */
const wrong: readonly string[] = [
  '',
  '# nothing but a comment\n',
  '- lab\n- master\n',
  'lab: networking\n',
  'lab: networking\nmaster: m.qcow2\nseats: forty\n',
  'lab: networking\nmaster: m.qcow2\nseats: 0\n',
  'lab: networking\nmaster: m.qcow2\nseats: 1.5\n',
  'lab: networking\nmaster: m.qcow2\nseats: 100000\n',
  'lab: networking\nmaster: m.qcow2\nseats:\n',
  'lab: networking\nmaster: m.qcow2\nseats: []\n',
  'lab: networking\nmaster: m.qcow2\nseats: [ann, bob, "a b", .hidden]\n',
  'lab: networking\nmaster: m.qcow2\nseats: [1, 2, 3]\n',
  'lab: networking\nmaster: m.qcow2\nseats:\n  - ann\n  - Bob\n  - bob\n',
  'lab: networking\nmaster: m.qcow2\nseats: {cuont: 40}\n',
  'lab: networking\nmaster: m.qcow2\nseats: {count: 40, name: student}\n',
  'lab: networking\nmaster: m.qcow2\nseats: {count: 40, name: "stu/{nn}"}\n',
  'lab: networking\nmaster: m.qcow2\nseats: {count: 40, first: -1}\n',
  'lab: networking\nmastre: m.qcow2\nseats: 40\n',
  'lab: networking\nmaster: {path: m.qcow2, fromat: raw}\nseats: 40\n',
  'lab: networking\nmaster: {path: m.qcow2, format: vmdk}\nseats: 40\n',
  'lab: networking\nmaster: [a, b]\nseats: 40\n',
  'lab: ../evil\nmaster: m.qcow2\nseats: 40\n',
  'lab: 7\nmaster: m.qcow2\nseats: 40\n',
  'lab: networking\nmaster: m.qcow2\nseats: 40\nmemory: lots\n',
  'lab: networking\nmaster: m.qcow2\nseats: 40\nmemory: 0.3K\n',
  'lab: networking\nmaster: m.qcow2\nseats: 40\nmemory: 2\n',
  'lab: networking\nmaster: m.qcow2\nseats: 40\ncpus: 0\nnetwork: wifi\nrunner: docker\n',
  'lab: networking\nmaster: m.qcow2\nseats: 40\ndisk: 40G\n',
  'lab: networking\nmaster: m.qcow2\nseats: 40\ndisk:\n  size: 40\n  buss: ide\n',
  'lab: networking\nmaster: m.qcow2\nseats: 40\nnetwork: {brigde: br0}\n',
  'lab: networking\nmaster: m.qcow2\nseats: 40\nseats: 41\n',
  'lab: networking\n\tmaster: m.qcow2\nseats: 40\n',
  'lab: networking\nmaster: m.qcow2: x\nseats: 40\n',
  'lab: "networking\nmaster: m.qcow2\n',
  'lab: networking\n  master: m.qcow2\nseats: 40\n',
  'lab: &a [*a]\nmaster: m\nseats: 1\n',
  'a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: [*c,*c,*c,*c,*c,*c,*c,*c,*c]\n',
  '{"lab": "json", "master": 3, "seats": true}',
];

describe('a lab file', () => {
  it('needs three lines; the rest has defaults', () => {
    const { mistake, ...spec } = parse('lab: networking-101\nmaster: masters/debian-12.qcow2\nseats: 3\n');
    expect(mistake).toBeTypeOf('function');
    expect(spec).toEqual({
      file: '/srv/labs/lab.yaml',
      name: 'networking-101',
      master: { path: '/srv/labs/masters/debian-12.qcow2' },
      pool: '/srv/labs/networking-101',
      poolText: 'networking-101',
      seats: ['student-01', 'student-02', 'student-03'],
      runner: 'qemu',
      memoryMiB: 1024,
      cpus: 1,
      network: { kind: 'user' },
      cdrom: undefined,
      uri: undefined,
      template: undefined,
      given: new Set(['lab', 'master', 'seats']),
      disk: { size: undefined, bus: 'virtio', preallocation: 'off' },
      overcommit: undefined,
      disks: [],
      seed: undefined,
      graphics: 'none',
      firmware: 'bios',
      tpm: false,
      guard: 'read-only',
      guest: 'any',
    });
  });

  it('takes every key', () => {
    const spec = parse(
      [
        'lab: l',
        'master: {path: /images/m.img, format: raw}',
        'seats: {count: 3, name: "pc{n}-{x}", first: 9}'.replace('-{x}', ''),
        'pool: ../pool',
        'runner: files',
        'memory: 1.5 GiB',
        'cpus: 4',
        'network: {bridge: br0}',
        'cdrom: tools.iso',
        'disk: {size: 40g, bus: ide}',
        'graphics: vnc',
        'guard: immutable',
        'guest: demo',
      ].join('\n'),
    );
    expect(spec).toMatchObject({
      master: { path: '/images/m.img', format: 'raw' },
      seats: ['pc9', 'pc10', 'pc11'],
      pool: '/srv/pool',
      memoryMiB: 1536,
      network: { kind: 'bridge', name: 'br0' },
      cdrom: '/srv/labs/tools.iso',
      disk: { size: 40 * 1024 ** 3, bus: 'ide' },
    });
    expect(parse('{"lab": "l", "master": "m", "seats": ["ann", "bob"], "memory": 64}').memoryMiB).toBe(64);
  });

  it('keeps the names of seats when their number grows', () => {
    const names = (seats: number) => parse(`lab: l\nmaster: m\nseats: ${seats}`).seats;
    expect(names(120).slice(0, 40)).toEqual(names(40));
    expect(names(1000).at(-1)).toBe('student-1000');
  });

  it('says of every mistake where it is, what is wrong and what to write', async () => {
    const told = wrong.map((text) => {
      try {
        assertMakeable(parse(text));
      } catch (error) {
        expect(error).toBeInstanceOf(DiskError);
        expect((error as DiskError).detail.report).toMatch(/^lab\.yaml:\d+:\d+: /);
        return `${text}\n-----\n${(error as DiskError).detail.report}\n`;
      }
      throw new Error(`accepted: ${text}`);
    });
    await expect(told.join('\n==========\n')).toMatchFileSnapshot(
      '../../../test/golden/lab-file-mistakes.txt',
    );
  });

  it('says of UTF-16 that it is none of ours, and takes a mark of UTF-8', () => {
    const text = 'lab: l\nmaster: m\nseats: 1\n';
    const wide = [...text].map((letter) => `${letter}\0`).join('');
    expect(() => parse(wide)).toThrow(/the lab file is no text, or is UTF-16/);
    expect(parse(`\ufeff${text}`).name).toBe('l');
  });

  it('shows at most ten mistakes', () => {
    const keys = Array.from({ length: 14 }, (_, i) => `wrongkey${i}: 1`).join('\n');
    const error = (() => {
      try {
        return parse(`lab: l\nmaster: m\nseats: 1\n${keys}\n`);
      } catch (cause) {
        return cause as DiskError;
      }
    })() as DiskError;
    expect(String(error.detail.report).match(/lab\.yaml:/g)).toHaveLength(10);
    expect(error.detail.report).toContain('… and 4 more');
  });

  it('blames a value later, with its line', () => {
    const error = parse('lab: l\nmaster: gone.qcow2\nseats: 1\n').mistake(
      ['master'],
      'there is no such image',
    );
    expect(error.detail.report).toMatch(/^lab\.yaml:2:9: there is no such image\n/);
  });
});

describe('nearest', () => {
  it('counts a swap of neighbours as one edit and gives up on strangers', () => {
    expect(editDistance('mastre', 'master')).toBe(1);
    expect(editDistance('', 'abc')).toBe(3);
    expect(nearest('Seat', ['lab', 'seats', 'master'])).toBe('seats');
    expect(nearest('xyzzy', ['lab', 'seats', 'master'])).toBeUndefined();
  });
});
