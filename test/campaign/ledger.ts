import {
  appendFileSync,
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';

/** What a unit of work came to. */
export interface UnitResult {
  readonly group: string;
  /** States or inputs that were judged. */
  readonly count: number;
  /** Seconds of processor time. */
  readonly cpu: number;
  readonly wall: number;
  readonly failures: readonly string[];
}

/**
 * A folder that says which units of a long campaign are done, by a file each. Several processes may work from one
 * folder, and a later run goes on where one was ended: a unit is claimed by a file with the claimer's process number.
 */
export class Ledger {
  constructor(readonly folder: string) {
    mkdirSync(folder, { recursive: true });
  }

  /** True when the unit is this process's now. */
  claim(unit: string): boolean {
    if (existsSync(this.#file(unit, 'json'))) return false;
    const path = this.#file(unit, 'claim');
    try {
      const fd = openSync(path, 'wx');
      writeSync(fd, String(process.pid));
      closeSync(fd);
      return true;
    } catch {
      const owner = Number(existsSync(path) ? readFileSync(path, 'utf8') : 0);
      if (owner === 0 || isAlive(owner)) return false;
      rmSync(path, { force: true });
      return this.claim(unit);
    }
  }

  finish(unit: string, result: UnitResult): void {
    const path = this.#file(unit, 'json');
    writeFileSync(`${path}.part`, JSON.stringify(result));
    renameSync(`${path}.part`, path);
    rmSync(this.#file(unit, 'claim'), { force: true });
    for (const failure of result.failures)
      appendFileSync(join(this.folder, 'failures.txt'), `${failure}\n\n`);
  }

  results(): UnitResult[] {
    return readdirSync(this.folder)
      .filter((name) => name.endsWith('.json'))
      .map((name) => JSON.parse(readFileSync(join(this.folder, name), 'utf8')) as UnitResult);
  }

  /** Totals by group, in lines. */
  report(): string {
    const groups = new Map<string, { count: number; cpu: number; failures: number }>();
    for (const { group, count, cpu, failures } of this.results()) {
      const sum = groups.get(group) ?? { count: 0, cpu: 0, failures: 0 };
      const next = { count: sum.count + count, cpu: sum.cpu + cpu, failures: sum.failures + failures.length };
      groups.set(group, next);
    }
    const all = [...groups.values()].reduce(
      (sum, one) => ({
        count: sum.count + one.count,
        cpu: sum.cpu + one.cpu,
        failures: sum.failures + one.failures,
      }),
      { count: 0, cpu: 0, failures: 0 },
    );
    const line = (name: string, { count, cpu, failures }: typeof all) =>
      `${name}: ${count} judged, ${failures} failures, ${(count / Math.max(cpu, 0.001)).toFixed(0)} a second of CPU`;
    return [...[...groups].sort().map(([name, sum]) => line(name, sum)), line('all', all)].join('\n');
  }

  #file(unit: string, kind: string): string {
    return join(this.folder, `${unit.replace(/[^a-z0-9]+/gi, '-')}.${kind}`);
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}
