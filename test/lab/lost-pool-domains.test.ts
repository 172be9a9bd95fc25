import { mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { haveLibvirtd, startLibvirtd, type TestLibvirtd } from '../support/libvirtd.ts';
import { mustRun } from '../support/programs.ts';
import { LabBench } from './support.ts';

/*
 * Seats of a lost pool that are given up, and that the lab file does not list any more: only the hypervisor and the master's record know of
 * them.
 */
describe.skipIf(!haveLibvirtd)('--forget-gone under libvirt', () => {
  let libvirtd: TestLibvirtd;
  let bench: LabBench;
  const domains = async () =>
    (await mustRun('virsh', ['-c', libvirtd.uri, 'list', '--all', '--name']))
      .split('\n')
      .filter((name) => name !== '')
      .sort();

  const write = (seats: number, isOverHosts: boolean) =>
    bench.write('lab.yaml', {
      seats,
      network: 'none',
      ...(isOverHosts
        ? { runner: 'libvirt', hosts: [{ name: 'one', libvirt: libvirtd.uri }] }
        : { runner: { libvirt: libvirtd.uri } }),
    });

  /** Three seats, of which the lab file then lists two, in a pool that is away. */
  async function lose(isOverHosts: boolean): Promise<void> {
    write(3, isOverHosts);
    await bench.must('up');
    expect(await domains()).toHaveLength(3);
    renameSync(bench.path('class'), bench.path('away'));
    write(2, isOverHosts);
    expect((await bench.run('up')).err).toContain('--forget-gone');
  }

  beforeAll(async () => {
    libvirtd = await startLibvirtd();
    bench = new LabBench(libvirtd.dir);
    mkdirSync(bench.path('masters'));
    writeFileSync(bench.path('masters/m.raw'), new Uint8Array(1024 * 1024).fill(7));
  }, 60_000);
  afterEach(async () => {
    await bench.run('down', '--stop', '--forget-gone');
    rmSync(bench.path('away'), { recursive: true, force: true });
  });
  afterAll(() => libvirtd?.[Symbol.asyncDispose](), 60_000);

  it.each([false, true])('leaves no domain of a seat that is not listed (over hosts: %s)', async (hosts) => {
    await lose(hosts);
    expect(await bench.must('down', '--forget-gone', '--dry-run')).toContain('Would forget 3 seats');
    expect(await domains()).toHaveLength(3);
    expect(await bench.must('down', '--forget-gone')).toContain('Forgot 3 seats');
    expect(await domains()).toEqual([]);
    rmSync(bench.path('away'), { recursive: true });
    await lose(hosts);
    await bench.must('up', '--forget-gone');
    expect(await domains()).toEqual(['class-student-01', 'class-student-02']);
  });

  it('forgets nothing while one of them runs', async () => {
    await lose(false);
    renameSync(bench.path('away'), bench.path('class'));
    await mustRun('virsh', ['-c', libvirtd.uri, 'start', 'class-student-03']);
    renameSync(bench.path('class'), bench.path('away'));
    for (const verb of ['down', 'up']) {
      const { code, err } = await bench.run(verb, '--forget-gone');
      expect([verb, code, err]).toEqual([verb, 1, expect.stringMatching(/student-03.*/)]);
    }
    expect(await domains()).toHaveLength(3);
    await bench.must('down', '--forget-gone', '--stop');
    expect(await domains()).toEqual([]);
  });

  it('leaves a domain of another lab of the same name, whose pool is away too', async () => {
    await lose(false);
    mkdirSync(bench.path('other'));
    const theirs = (name: string) => bench.path(`other/${name}`);
    for (const name of ['class-student-01', 'class-student-03']) {
      const xml = await mustRun('virsh', ['-c', libvirtd.uri, 'dumpxml', name]);
      await mustRun('virsh', ['-c', libvirtd.uri, 'undefine', name]);
      writeFileSync(bench.path('d.xml'), xml.replaceAll(bench.path('class/'), theirs('class/')));
      await mustRun('virsh', ['-c', libvirtd.uri, 'define', bench.path('d.xml')]);
    }
    await bench.must('down', '--forget-gone');
    expect(await domains()).toEqual(['class-student-01', 'class-student-03']);
    for (const name of await domains()) await mustRun('virsh', ['-c', libvirtd.uri, 'undefine', name]);
  });

  it('makes nothing anew while the work of a seat that is not listed lies in a snapshot', async () => {
    await lose(false);
    const xml = await mustRun('virsh', ['-c', libvirtd.uri, 'dumpxml', 'class-student-03']);
    writeFileSync(
      bench.path('d.xml'),
      xml.replace(bench.path('class/student-03.qcow2'), bench.path('snapshot.qcow2')),
    );
    await mustRun('virsh', ['-c', libvirtd.uri, 'define', bench.path('d.xml')]);
    const { code, err } = await bench.run('up', '--forget-gone');
    expect([code, err]).toEqual([1, expect.stringContaining("'student-03' is another file now")]);
    expect(await domains()).toHaveLength(3);
    await mustRun('virsh', ['-c', libvirtd.uri, 'undefine', 'class-student-03']);
  });
});
