import { mkdirSync, writeFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { makeDemoMaster } from '../../src/lab/guest/demo-master.ts';
import { haveLibvirtd, startLibvirtd, type TestLibvirtd } from '../support/libvirtd.ts';
import { mustRun } from '../support/programs.ts';
import { bootToEnd, LabBench } from './support.ts';

const MiB = 1024 * 1024;

describe.skipIf(!haveLibvirtd)('encrypted seats under libvirt', () => {
  let libvirtd: TestLibvirtd;
  let bench: LabBench;
  const seat = (n: number) => bench.path(`class/student-0${n}.qcow2`);

  /** Boots seats to their end: what each guest counts on its own disk. */
  async function boot(...seats: string[]): Promise<readonly string[]> {
    const started = await bootToEnd(bench, ...seats);
    return started.map(({ said }) => /^cowherd (seat=\S+ boots=\d+)/.exec(said)?.[1] ?? said).sort();
  }

  beforeAll(async () => {
    libvirtd = await startLibvirtd();
    bench = new LabBench(libvirtd.dir);
    mkdirSync(bench.path('masters'));
    await makeDemoMaster(bench.path('masters', 'demo.raw'), {
      size: 8 * MiB,
      payloadBytes: 0,
      label: 'demo',
    });
    writeFileSync(bench.path('lab.key'), 'Xq7-horse-staple', { mode: 0o600 });
    bench.write('lab.yaml', {
      master: 'masters/demo.raw',
      seats: 2,
      runner: { libvirt: libvirtd.uri },
      guest: 'demo',
      memory: '16M',
      network: 'none',
      encrypt: { 'passphrase-file': 'lab.key' },
    });
    await bench.must('up');
  }, 120_000);
  afterAll(async () => {
    await bench?.run('down', '--stop');
    await libvirtd?.[Symbol.asyncDispose]();
  }, 120_000);

  it('boot by secrets that libvirt keeps, and with no other key; a reset makes them new', async () => {
    const virsh = (...words: string[]) => mustRun('virsh', ['-c', libvirtd.uri, ...words]);
    expect(await boot()).toEqual(['seat=student-01 boots=1', 'seat=student-02 boots=1']);
    expect(await boot('student-01')).toEqual(['seat=student-01 boots=2']);
    for (const n of [1, 2]) {
      const info = JSON.parse(await mustRun('qemu-img', ['info', '--output=json', seat(n)]));
      expect(info['format-specific'].data.encrypt.format).toBe('luks');
      expect(await virsh('dumpxml', '--inactive', `class-student-0${n}`)).toMatch(
        /<encryption format='luks'/,
      );
    }
    // Each seat has a key of its own, and no log tells the lab's.
    const secrets = (await virsh('secret-list')).match(/[0-9a-f]{8}-[0-9a-f-]{27}/g) ?? [];
    expect(new Set(secrets).size).toBe(2);
    expect(libvirtd.log()).not.toContain('Xq7-horse-staple');

    await bench.must('reset', 'lab.yaml', 'student-01');
    expect(await boot()).toEqual(['seat=student-01 boots=1', 'seat=student-02 boots=2']);
    // With another key in libvirt the guest has no disk: the seat's own is given again by `start`.
    writeFileSync(bench.path('wrong'), 'another one');
    for (const id of secrets) await virsh('secret-set-value', '--plain', id, '--file', bench.path('wrong'));
    await expect(virsh('start', 'class-student-01')).rejects.toThrow(/secret|password|keyslot/i);
    expect(await boot('student-01')).toEqual(['seat=student-01 boots=2']);
  }, 300_000);
});
