import { mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { have, mustRun } from '../support/programs.ts';
import { buildProgram, type Ended, runProgram } from './kill.ts';
import { type LabBench, labBench, qemuCheck } from './support.ts';

describe('cowherd demo', () => {
  let bench: LabBench;
  let program: string;
  let first: Ended;
  beforeAll(async () => {
    bench = await labBench();
    program = await buildProgram(bench);
    first = await runProgram(program, bench, ['demo', 'show']);
  }, 180_000);
  afterAll(async () => {
    await bench[Symbol.asyncDispose]();
  });

  it('runs to its end and shows the five scenes', () => {
    expect(first.code, first.output).toBe(0);
    expect([...first.output.matchAll(/^(\d) {2}\S/gm)].map((match) => match[1])).toEqual([
      '1',
      '2',
      '3',
      '4',
      '5',
    ]);
    expect(first.output).toContain('$ cowherd up examples/classroom.yaml');
    expect(first.output).toContain('as it was (its whole content compared)');
    expect(first.output).toMatch(/1 seat reset in .* ms: student-07/);
    expect(first.output).toMatch(/40 copies of the master +[\d.]+ GiB/);
  });

  it.skipIf(!have('qemu-system-x86_64'))('boots all forty, two of them again, and one anew', () => {
    const boots = [...first.output.matchAll(/cowherd seat=(\S+) boots=(\d+) /g)].map(
      (match) => `${match[1]} ${match[2]}`,
    );
    expect(boots.filter((boot) => boot.endsWith(' 1'))).toHaveLength(41);
    expect(boots.slice(-3).sort()).toEqual(['student-07 1', 'student-07 2', 'student-23 2']);
  });

  it.skipIf(!have('qemu-img'))(
    'leaves images that qemu-img accepts, and nothing outside .demo and examples',
    async () => {
      expect(readdirSync(bench.path('show')).sort()).toEqual(['.demo', 'examples']);
      await qemuCheck(bench.path('show/.demo/masters/demo.qcow2'));
      for (const seat of ['student-01', 'student-07', 'student-40']) {
        await qemuCheck(bench.path(`show/.demo/classroom/${seat}.qcow2`));
      }
      expect(readFileSync(bench.path('show/examples/classroom.yaml'), 'utf8')).toContain('seats: 40');
    },
  );

  it('can be run again, and goes on without QEMU', async () => {
    const environment = process.env.COWHERD_QEMU;
    process.env.COWHERD_QEMU = '/nonexistent/qemu';
    try {
      const second = await runProgram(program, bench, ['demo', 'show']);
      expect(second.code, second.output).toBe(0);
      expect(second.output).toContain('$ cowherd down examples/classroom.yaml --stop');
      expect(second.output).toContain('Booting needs QEMU, which was not found.');
      expect(second.output).toContain('apt-get install qemu-system-x86');
    } finally {
      if (environment === undefined) delete process.env.COWHERD_QEMU;
      else process.env.COWHERD_QEMU = environment;
    }
  }, 120_000);

  describe('leaves alone what is not its own', () => {
    /** A run that is refused before it has touched anything. */
    async function refused(folder: string): Promise<string> {
      const before = bench.snapshot();
      const { code, output } = await runProgram(program, bench, ['demo', folder]);
      expect(code, output).toBe(1);
      expect(bench.snapshot()).toEqual(before);
      return output;
    }
    const lab = 'lab: classroom\nmaster: ../my/golden.qcow2\nseats: 2\nrunner: files\npool: ../pool\n';

    it.each([true, false])('a lab file of the same name, its master and seats (made: %s)', async (made) => {
      const folder = `own-${made}`;
      mkdirSync(bench.path(folder, 'examples'), { recursive: true });
      mkdirSync(bench.path(folder, 'my'));
      writeFileSync(bench.path(folder, 'examples/classroom.yaml'), lab);
      await mustRun('cp', [bench.path('masters/m.raw'), bench.path(folder, 'my/golden.raw')]);
      const qcow2 = bench.path(folder, 'my/golden.qcow2');
      await mustRun('qemu-img', ['convert', '-O', 'qcow2', bench.path('masters/m.raw'), qcow2]);
      if (made) await bench.must('up', `${folder}/examples/classroom.yaml`);
      const output = await refused(folder);
      expect(output).toContain("'examples/classroom.yaml' is not the demo's");
      expect(output).toContain('cowherd demo');
    });

    it('its own lab file, edited', async () => {
      mkdirSync(bench.path('edited/examples'), { recursive: true });
      const text = readFileSync(bench.path('show/examples/classroom.yaml'), 'utf8');
      writeFileSync(bench.path('edited/examples/classroom.yaml'), text.replace('40', '30'));
      expect(await refused('edited')).toContain("is not the demo's");
    });

    it('a .demo that leads elsewhere', async () => {
      mkdirSync(bench.path('elsewhere/masters'), { recursive: true });
      writeFileSync(bench.path('elsewhere/masters/demo.qcow2'), 'precious');
      mkdirSync(bench.path('link'));
      symlinkSync('../elsewhere', bench.path('link/.demo'));
      expect(await refused('link')).toContain('elsewhere');
    });
  });
});
