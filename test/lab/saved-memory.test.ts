import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { haveLibvirtd, startLibvirtd, type TestLibvirtd } from '../support/libvirtd.ts';
import { mustRun } from '../support/programs.ts';
import { bootDisk, endlessGuest } from '../support/seats.ts';
import { LabBench, qemuCheck } from './support.ts';

interface Status {
  readonly seats: readonly { readonly name: string; readonly state: string }[];
}

describe.skipIf(!haveLibvirtd)('a guest whose memory was saved', () => {
  let libvirtd: TestLibvirtd;
  let bench: LabBench;
  const virsh = (...words: string[]) => mustRun('virsh', ['-c', libvirtd.uri, ...words]);
  const states = async (lab: string) =>
    Object.fromEntries(
      (await bench.json<Status>('status', lab)).seats.map(({ name, state }) => [name, state]),
    );
  /** Seats, by name, whose domains have a saved memory. */
  const kept = async () =>
    (await virsh('list', '--all', '--name', '--with-managed-save')).split(/\s+/).filter(Boolean);
  async function saveMemory(lab: string, seat: string): Promise<void> {
    await bench.must('start', `${lab}.yaml`, seat);
    await virsh('managedsave', `${lab}-${seat}`);
  }

  beforeAll(async () => {
    libvirtd = await startLibvirtd();
    bench = new LabBench(libvirtd.dir);
    mkdirSync(bench.path('masters'));
    bootDisk(bench.dir, 'masters/m', endlessGuest);
    const common = { seats: ['s1', 's2'], memory: '16M', network: 'none', disk: { size: '8M' } };
    bench.write('near.yaml', { ...common, lab: 'near', runner: { libvirt: libvirtd.uri } });
    bench.write('grown.yaml', {
      ...common,
      ...{ lab: 'near', runner: { libvirt: libvirtd.uri }, disk: { size: '16M' }, pool: 'near' },
    });
    const host = { name: 'a', libvirt: libvirtd.uri, pool: bench.path('A') };
    mkdirSync(host.pool);
    bench.write('far.yaml', { ...common, lab: 'far', runner: 'libvirt', hosts: [host] });
  }, 60_000);
  afterAll(async () => {
    for (const lab of ['near.yaml', 'far.yaml']) await bench?.run('down', lab, '--stop');
    await libvirtd?.[Symbol.asyncDispose]();
  }, 60_000);

  it('goes on over its disk as it was: that is neither changed nor copied meanwhile', async () => {
    await bench.must('up', 'near.yaml');
    await saveMemory('near', 's1');
    const disk = bench.path('near/s1.qcow2');
    expect(await states('near.yaml')).toEqual({ s1: 'saved', s2: 'off' });
    // The daemon forgets why a domain is off.
    await libvirtd.kill();
    await libvirtd.restart();
    expect(await states('near.yaml')).toEqual({ s1: 'saved', s2: 'off' });
    const before = readFileSync(disk);
    const names = readdirSync(bench.dir.path).sort();
    for (const args of [
      ['compact', 'near.yaml'],
      ['compact', 'near.yaml', 's1', '--dry-run'],
      ['compact', 'near/s1.qcow2'],
      ['serve', 'near.yaml', 's1'],
      ['save', 'near.yaml', 's1', 'work.qcow2'],
      ['promote', 'near.yaml', 's1', '--anyway'],
      ['flatten', 'near.yaml', 's1'],
      ['export', 's1', 'out.ova', '--lab', 'near.yaml'],
      ['export', 'near/s1.qcow2', 'out.ova'],
      ['diff', 'near.yaml', 's1'],
      ['diff', 'near/s1.qcow2'],
      ['seal', 'near/s1.qcow2', '--name', 'sealed'],
      ['build', 'sealed', '--from', 'near/s1.qcow2'],
      ['up', 'grown.yaml'],
      ['move', 'near', 'elsewhere'],
      ['move', 'masters/m.raw', 'masters/n.raw'],
    ]) {
      const { code, err } = await bench.run(...args);
      expect([args, code, err]).toEqual([
        args,
        1,
        expect.stringContaining('virsh managedsave-remove near-s1'),
      ]);
      expect(readFileSync(disk).equals(before)).toBe(true);
    }
    expect(readdirSync(bench.dir.path).filter((name) => !names.includes(name) && name !== 'masters')).toEqual(
      [],
    );
    // The others are not held up by it.
    await bench.must('compact', 'near.yaml', 's2');
    expect(await bench.must('up', 'near.yaml')).toContain('nothing to do');

    expect(await bench.must('start', 'near.yaml', 's1')).toContain('go on from a saved memory: s1');
    expect(await virsh('domstate', '--reason', 'near-s1')).toContain('running (restored)');
    expect(await kept()).toEqual([]);
    await bench.must('stop', 'near.yaml', '--now');
    await bench.must('save', 'near.yaml', 's1', 'work.qcow2');
    await qemuCheck(disk);
  }, 120_000);

  it('loses its memory with its disk, and that is said before', async () => {
    for (const args of [
      ['reset', 'near.yaml', 's1'],
      ['restore', 'near.yaml', 's1', 'work.qcow2'],
      ['down', 'near.yaml'],
    ]) {
      await saveMemory('near', 's1');
      expect(await bench.must(...args, '--dry-run')).toContain('The saved memory of s1 would go');
      expect(await bench.json(...args, '--dry-run')).toMatchObject({ saved: ['s1'] });
      expect(await kept()).toEqual(['near-s1']);
      expect(await bench.must(...args)).toContain('The saved memory of s1 went');
      expect(await kept()).toEqual([]);
    }
    expect(existsSync(bench.path('near'))).toBe(false);
  }, 120_000);

  it('gets no new disk in the place of one that is gone', async () => {
    await bench.must('up', 'near.yaml');
    await saveMemory('near', 's1');
    renameSync(bench.path('near/s1.qcow2'), bench.path('gone'));
    for (const verb of ['plan', 'up']) {
      const { code, out, err } = await bench.run(verb, 'near.yaml');
      expect([verb, code, out + err]).toEqual([
        verb,
        1,
        expect.stringContaining('a memory was saved over it'),
      ]);
    }
    expect(existsSync(bench.path('near/s1.qcow2'))).toBe(false);
    renameSync(bench.path('gone'), bench.path('near/s1.qcow2'));
    await bench.must('down', 'near.yaml');
  }, 120_000);

  it('is told from those that are off on a host with a pool of its own', async () => {
    await bench.must('up', 'far.yaml');
    await saveMemory('far', 's1');
    expect(await states('far.yaml')).toEqual({ s1: 'saved', s2: 'off' });
    expect(await bench.must('stop', 'far.yaml')).toContain('None of 2 seats was running');
    await bench.must('start', 'far.yaml', 's1');
    expect(await virsh('domstate', '--reason', 'far-s1')).toContain('running (restored)');
    await virsh('managedsave', 'far-s1');
    rmSync(bench.path('A/s1.qcow2'));
    expect(await bench.run('up', 'far.yaml')).toMatchObject({
      code: 1,
      err: expect.stringContaining('a memory was saved over it'),
    });
    expect(existsSync(bench.path('A/s1.qcow2'))).toBe(false);
    for (const args of [
      ['reset', 'far.yaml', 'all'],
      ['down', 'far.yaml'],
    ]) {
      expect(await bench.must(...args, '--dry-run')).toContain('The saved memory of s1 would go');
      expect(await kept()).toEqual(['far-s1']);
      expect(await bench.must(...args)).toContain('The saved memory of s1 went');
      expect(await kept()).toEqual([]);
      if (args[0] === 'reset') await saveMemory('far', 's1');
    }
  }, 120_000);
});
