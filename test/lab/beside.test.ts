import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { haveLibvirtd, startLibvirtd, type TestLibvirtd } from '../support/libvirtd.ts';
import { mustRun } from '../support/programs.ts';
import { LabBench } from './support.ts';

describe.skipIf(!haveLibvirtd)('what somebody added to a seat by virsh', () => {
  let libvirtd: TestLibvirtd;
  let bench: LabBench;
  const virsh = (...words: string[]) => mustRun('virsh', ['-q', '-c', libvirtd.uri, ...words]);
  const extra = () => bench.path('more data.qcow2');
  const common = { seats: ['one', 'two'], memory: '16M', network: 'none', graphics: 'none' };

  beforeAll(async () => {
    libvirtd = await startLibvirtd();
    bench = new LabBench(libvirtd.dir);
    for (const folder of ['masters', 'pool']) mkdirSync(bench.path(folder));
    await mustRun('truncate', ['-s', '8M', bench.path('masters/m.raw')]);
    await mustRun('qemu-io', ['-f', 'raw', '-c', 'write -P 9 1M 64k', bench.path('masters/m.raw')]);
    await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', extra(), '1M']);
  }, 120_000);
  afterAll(async () => {
    await libvirtd?.[Symbol.asyncDispose]();
  }, 120_000);

  const starts = async (domain: string) => /Autostart:\s+enable/.test(await virsh('dominfo', domain));
  const attach = () => virsh('attach-disk', 'class-one', extra(), 'vdz', '--subdriver', 'qcow2', '--config');

  async function check(): Promise<void> {
    await virsh('autostart', 'class-one');
    await attach();
    const dry = await bench.run('reset', 'lab.yaml', 'all', '--dry-run');
    expect([dry.code, dry.err]).toEqual([
      0,
      expect.stringMatching(/one: '.*more data.qcow2' would be detached/),
    ]);
    expect(await virsh('domblklist', 'class-one')).toContain('more data');
    const real = await bench.run('reset', 'lab.yaml', 'all');
    expect([real.code, real.err]).toEqual([0, expect.stringMatching(/one: '.*more data.qcow2' is detached/)]);
    expect(await virsh('domblklist', 'class-one')).not.toContain('more data');
    expect(existsSync(extra())).toBe(true);
    expect([await starts('class-one'), await starts('class-two')]).toEqual([true, false]);
    // Nothing more to say.
    expect((await bench.run('reset', 'lab.yaml', 'all')).err).toBe('');
    expect([await starts('class-one'), await starts('class-two')]).toEqual([true, false]);
  }

  it('is told of where it goes with a reset; a seat that starts with its host goes on doing so', async () => {
    bench.write('lab.yaml', { ...common, runner: { libvirt: libvirtd.uri } });
    await bench.must('up');
    await check();
    await bench.must('save', 'lab.yaml', 'one', 'work.qcow2');
    await virsh('snapshot-create-as', 'class-one', 'the thesis');
    await attach();
    for (const command of [
      ['restore', 'lab.yaml', 'one', 'work.qcow2'],
      ['reset', 'lab.yaml', 'one'],
    ]) {
      const { code, err } = await bench.run(...command, '--dry-run');
      expect([code, err]).toEqual([
        0,
        expect.stringMatching(/one: the snapshot 'the thesis' would go with its disk/),
      ]);
      expect(err).toMatch(/one: '.*more data.qcow2' would be detached/);
    }
    const { code, err } = await bench.run('restore', 'lab.yaml', 'one', 'work.qcow2');
    expect([code, err]).toEqual([
      0,
      expect.stringMatching(/one: the snapshot 'the thesis' goes with its disk/),
    ]);
    expect(await virsh('snapshot-list', 'class-one', '--name')).not.toContain('thesis');
    expect(await starts('class-one')).toBe(true);
    await bench.must('down');
  }, 120_000);

  it('is told of by up and plan where a changed definition takes it away', async () => {
    bench.write('lab.yaml', { ...common, runner: { libvirt: libvirtd.uri } });
    await bench.must('up');
    await attach();
    const told = /one: its domain is defined anew, without '.*more data\.qcow2' that somebody attached/;
    for (const command of ['plan', 'up']) expect(await bench.must(command)).not.toMatch(told);
    bench.write('lab.yaml', { ...common, memory: '24M', runner: { libvirt: libvirtd.uri } });
    for (const command of [['plan'], ['up', '--dry-run']]) expect(await bench.must(...command)).toMatch(told);
    expect(await virsh('domblklist', 'class-one')).toContain('more data');
    const { notes } = await bench.json<{ notes: string[] }>('up');
    expect(notes).toEqual([expect.stringMatching(told)]);
    expect(await virsh('domblklist', 'class-one')).not.toContain('more data');
    expect(existsSync(extra())).toBe(true);
    expect((await bench.json<{ notes: string[] }>('up')).notes).toEqual([]);
    await bench.must('down');
  }, 120_000);

  it('is not lost where a reset is killed: the next up has the seat start with its host again', async () => {
    bench.write('lab.yaml', { ...common, runner: { libvirt: libvirtd.uri } });
    await bench.must('up');
    await virsh('autostart', 'class-one');
    const folder = bench.path('bin');
    mkdirSync(folder);
    const real = (await mustRun('which', ['virsh'])).trim();
    const path = process.env.PATH;
    for (const last of ['define', 'autostart']) {
      // All that libvirt hears ends there, as with a process that is killed.
      const script = `#!/bin/sh\nsed -u '/^${last} /Q' | '${real}' "$@"\n`;
      writeFileSync(`${folder}/virsh`, script, { mode: 0o755 });
      process.env.PATH = `${folder}:${path}`;
      try {
        expect([last, (await bench.run('reset', 'lab.yaml', 'one')).code]).toEqual([last, 1]);
      } finally {
        process.env.PATH = path;
      }
      const defined = (await virsh('list', '--all', '--name')).includes('class-one');
      expect([last, defined]).toEqual([last, last === 'autostart']);
      if (defined) expect(await starts('class-one')).toBe(false);
      await bench.must('up');
      expect([last, await starts('class-one'), await starts('class-two')]).toEqual([last, true, false]);
      expect(await bench.must('up')).toContain('nothing to do');
    }
    // Who wants it otherwise says so once.
    await virsh('autostart', 'class-one', '--disable');
    await bench.must('reset', 'lab.yaml', 'all');
    await bench.must('up');
    expect(await starts('class-one')).toBe(false);
    await virsh('autostart', 'class-one');
    await bench.must('down');
    expect(existsSync(bench.path('class'))).toBe(false);
  }, 120_000);

  it('on a host with a pool of its own too', async () => {
    const hosts = [{ name: 'left', libvirt: libvirtd.uri, pool: bench.path('pool') }];
    bench.write('lab.yaml', { ...common, runner: 'libvirt', hosts });
    await bench.must('up');
    await check();
    await bench.must('down');
  }, 120_000);
});
