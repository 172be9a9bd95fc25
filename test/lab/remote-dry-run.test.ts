import { chmodSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { haveLibvirtd, startLibvirtd, type TestLibvirtd } from '../support/libvirtd.ts';
import { mustRun, tempDir } from '../support/programs.ts';
import { LabBench } from './support.ts';

interface Said {
  readonly hosts: readonly { host: string; files: readonly string[]; domains: readonly string[] }[];
}

describe.skipIf(!haveLibvirtd)('--dry-run of labs whose hosts have pools of their own', () => {
  let bench: LabBench;
  let libvirt: TestLibvirtd;
  const pool = (...names: string[]) => bench.path('pool', ...names);
  const files = () => readdirSync(pool()).sort();
  const domains = async () =>
    (await mustRun('virsh', ['-c', libvirt.uri, 'list', '--all', '--name']))
      .split('\n')
      .filter(Boolean)
      .sort();

  beforeAll(async () => {
    bench = new LabBench(await tempDir('dry-'));
    chmodSync(bench.dir.path, 0o755);
    libvirt = await startLibvirtd();
    mkdirSync(bench.path('masters'));
    writeFileSync(bench.path('masters/m.raw'), new Uint8Array(8 << 20).fill(0x5a, 0, 1 << 20));
    bench.write('lab.yaml', {
      ...{ seats: ['s1', 's2'], runner: 'libvirt', memory: '16M', network: 'none' },
      hosts: [{ name: 'a', libvirt: libvirt.uri, pool: pool() }],
      disk: { size: '16M' },
      disks: [{ name: 'data', size: '4M' }],
      seed: {},
    });
  }, 120_000);
  afterAll(async () => {
    await libvirt?.[Symbol.asyncDispose]();
    await bench?.[Symbol.asyncDispose]();
  }, 60_000);

  it('names the files and domains that are made, thrown away and removed', async () => {
    const said = async (verb: string, ...words: string[]) => {
      const text = await bench.must(verb, ...words, '--dry-run');
      const [one] = (await bench.json<Said>(verb, 'lab.yaml', ...words, '--dry-run')).hosts;
      expect(text).toContain(`a: files ${one.files.join(', ')}; domains ${one.domains.join(', ')}`);
      return { files: [...one.files].sort(), domains: [...one.domains].sort() };
    };
    const up = await said('up');
    await bench.must('up');
    // Records aside.
    expect(up).toEqual({
      files: files().filter((name) => !name.endsWith('.json')),
      domains: await domains(),
    });

    const before = new Map(files().map((name) => [name, readFileSync(pool(name))]));
    const reset = await said('reset', 's1');
    expect(reset).toEqual({ files: ['s1+data.qcow2', 's1.qcow2'], domains: ['class-s1'] });
    for (const name of files()) expect(readFileSync(pool(name)).equals(before.get(name)!)).toBe(true);

    const down = await said('down');
    expect(files()).toEqual([...before.keys()]);
    await bench.must('down');
    expect(down).toEqual({
      files: [...before.keys()],
      domains: ['class-s1', 'class-s2'],
    });
    expect([files(), await domains()]).toEqual([[], []]);
  }, 100_000);
});
