import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { makeDemoMaster } from '../../src/lab/guest/demo-master.ts';
import { haveLibvirtd, startLibvirtd, type TestLibvirtd } from '../support/libvirtd.ts';
import { mustRun } from '../support/programs.ts';
import { LabBench } from './support.ts';

const MiB = 1024 * 1024;

describe.skipIf(!haveLibvirtd)('a domain of somebody else', () => {
  let libvirtd: TestLibvirtd;
  let bench: LabBench;
  const virsh = (...words: string[]) => mustRun('virsh', ['-q', '-c', libvirtd.uri, ...words]);
  const disk = () => bench.path('class/one.qcow2');

  /** Defines the domain `other vm`, which is off, over a disk. */
  async function define(source: string): Promise<void> {
    const xml = `<domain type='qemu'><name>other vm</name><memory unit='MiB'>16</memory><os><type arch='x86_64'>hvm</type></os>
      <devices><disk type='file' device='disk'><driver name='qemu' type='qcow2'/>${source}<target dev='vda' bus='virtio'/></disk></devices></domain>`;
    writeFileSync(bench.path('other.xml'), xml);
    await virsh('define', bench.path('other.xml'));
  }

  beforeAll(async () => {
    libvirtd = await startLibvirtd();
    bench = new LabBench(libvirtd.dir);
    for (const name of ['masters', 'else where']) mkdirSync(bench.path(name));
    await makeDemoMaster(bench.path('masters/demo.raw'), { size: 8 * MiB, payloadBytes: 0 });
    bench.write('lab.yaml', {
      ...{ master: 'masters/demo.raw', seats: ['one', 'two'], runner: { libvirt: libvirtd.uri } },
      ...{ guest: 'demo', memory: '16M', network: 'none' },
    });
  }, 120_000);
  beforeEach(async () => {
    await bench.must('up', 'lab.yaml');
    await mustRun('qemu-io', ['-f', 'qcow2', '-c', 'write -P 7 1M 64k', disk()]);
  });
  afterAll(async () => {
    await bench?.run('down', '--stop');
    await libvirtd?.[Symbol.asyncDispose]();
  }, 120_000);

  async function refusesAll(told: RegExp): Promise<void> {
    await bench.must('save', 'lab.yaml', 'one', 'saved.qcow2', '--force');
    const before = readFileSync(disk());
    const commands = [
      ...[
        ['reset', 'lab.yaml', 'one'],
        ['reset', 'lab.yaml', 'all', '--dry-run'],
        ['reset', 'lab.yaml', 'all', '--stop'],
      ],
      ...[
        ['down', 'lab.yaml'],
        ['down', 'lab.yaml', '--dry-run'],
        ['start', 'lab.yaml', 'one'],
        ['serve', 'lab.yaml', 'one'],
      ],
      ...[
        ['compact', 'lab.yaml', 'one'],
        ['restore', 'lab.yaml', 'one', 'saved.qcow2'],
      ],
    ];
    for (const command of commands) {
      const { code, err } = await bench.run(...command);
      expect([command, code, err]).toEqual([command, 1, expect.stringMatching(told)]);
      expect(err).toContain(`virsh -c '${libvirtd.uri}' undefine 'other vm'`);
      expect(readFileSync(disk()).equals(before)).toBe(true);
    }
    // The other seat is nobody's business.
    await bench.must('reset', 'lab.yaml', 'two');
  }

  it('keeps the disk under its image, wherever that lies', async () => {
    const [top, middle] = ['top', 'mid dle'].map((name) => bench.path('else where', `${name}.qcow2`));
    const create = (base: string, path: string) =>
      mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', '-F', 'qcow2', '-b', base, path]);
    await create(disk(), middle);
    await create(middle, top);
    await define(`<source file='${top}'/>`);
    await refusesAll(/The domain 'other vm' uses '.*top\.qcow2', which stands on '.*one\.qcow2'/);
    await mustRun('qemu-io', ['-f', 'qcow2', '-c', 'read -P 7 1M 64k', top]);
    // As it says.
    await virsh('undefine', 'other vm');
    for (const path of [top, middle]) renameSync(path, `${path}.gone`);
    await bench.must('reset', 'lab.yaml', 'one');
  }, 120_000);

  it('keeps the disk that it has too, as a file or as a volume of a pool', async () => {
    await virsh('pool-create-as', 'class', 'dir', '--target', bench.path('class'));
    for (const source of [`<source file='${disk()}'/>`, undefined]) {
      if (source !== undefined) await define(source);
      else {
        await virsh('undefine', 'other vm');
        const xml = readFileSync(bench.path('other.xml'), 'utf8');
        const volume = xml.replace("disk type='file'", "disk type='volume'");
        writeFileSync(
          bench.path('other.xml'),
          volume.replace(/<source[^>]*>/, "<source pool='class' volume='one.qcow2'/>"),
        );
        await virsh('define', bench.path('other.xml'));
      }
      await refusesAll(/The domain 'other vm' has '.*one\.qcow2' too/);
    }
    await virsh('undefine', 'other vm');
    await virsh('pool-destroy', 'class');
    await bench.must('down', 'lab.yaml');
  }, 120_000);

  it('does no harm by images that are not there, no images, or closed', async () => {
    await define(`<source file='/dev/null'/>`);
    await bench.must('reset', 'lab.yaml', 'one');
    await virsh('undefine', 'other vm');
    await define(`<source file='${bench.path('never.qcow2')}'/>`);
    await bench.must('reset', 'lab.yaml', 'one');
    await virsh('undefine', 'other vm');
  }, 120_000);

  it('may be another seat of the lab: that is seen without the documents of all', async () => {
    const seats = Array.from({ length: 14 }, (_, i) => `s${i}`);
    bench.write('many.yaml', {
      ...{ lab: 'many', master: 'masters/demo.raw', seats, runner: { libvirt: libvirtd.uri } },
      ...{ guest: 'demo', memory: '16M', network: 'none' },
    });
    await bench.must('up', 'many.yaml');
    const counted = bench.path('bin');
    mkdirSync(counted);
    const real = (await mustRun('which', ['virsh'])).trim();
    const said = bench.path('said to virsh');
    writeFileSync(`${counted}/virsh`, `#!/bin/sh\ntee -a '${said}' | '${real}' "$@"\n`, { mode: 0o755 });
    const path = process.env.PATH;
    process.env.PATH = `${counted}:${path}`;
    try {
      await bench.must('reset', 'many.yaml', 's1');
    } finally {
      process.env.PATH = path;
    }
    const documents = readFileSync(said, 'utf8').match(/^dumpxml (?!--inactive).*$/gm) ?? [];
    // Those of the other lab's two seats, which are foreign here.
    expect(documents).toHaveLength(2);

    const above = bench.path('else where/s1.qcow2');
    await mustRun('qemu-img', [
      ...['create', '-q', '-f', 'qcow2', '-F', 'qcow2', '-b', bench.path('many/s1.qcow2'), above],
    ]);
    await virsh('attach-disk', 'many-s9', above, 'vdb', '--subdriver', 'qcow2', '--config');
    const { code, err } = await bench.run('reset', 'many.yaml', 's1');
    expect([code, err]).toEqual([
      1,
      expect.stringMatching(/The domain 'many-s9' uses '.*', which stands on '.*s1\.qcow2'/),
    ]);
    await virsh('detach-disk', 'many-s9', 'vdb', '--config');
    await bench.must('reset', 'many.yaml', 's1');
    await bench.must('down', 'many.yaml');
  }, 120_000);
});
