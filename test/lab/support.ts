import { readdirSync, statSync, writeFileSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { cowherd } from '../../src/lab/cowherd.ts';
import { testContext } from '../support/cli-context.ts';
import { mustRun, run, type TempDir, tempDir } from '../support/programs.ts';

/** What a command said and how it ended. */
export interface Answer {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

/** A folder with a master image and lab files, and commands that run in it as a user would type them. */
export class LabBench implements AsyncDisposable {
  readonly dir: TempDir;

  constructor(dir: TempDir) {
    this.dir = dir;
  }

  path(...names: string[]): string {
    return join(this.dir.path, ...names);
  }

  /** Writes a lab file: `lab`, `master` and `seats` have values to play with, the rest is as given. */
  write(name: string, values: Readonly<Record<string, unknown>> = {}): string {
    const lab = { lab: 'class', master: 'masters/m.raw', seats: 5, runner: 'files', ...values };
    // JSON is YAML.
    writeFileSync(
      this.path(name),
      Object.entries(lab)
        .map(([key, value]) => `${key}: ${JSON.stringify(value)}\n`)
        .join(''),
    );
    return name;
  }

  async run(...args: string[]): Promise<Answer> {
    const context = testContext({ program: 'cowherd', cwd: this.dir.path, env: {}, columns: 120 });
    const code = await cowherd(args, context);
    return { code, out: context.out(), err: context.err() };
  }

  /** As `run`, but an exit code other than 0 throws with what was said. */
  async must(...args: string[]): Promise<string> {
    const answer = await this.run(...args);
    if (answer.code !== 0)
      throw new Error(`cowherd ${args.join(' ')}: ${answer.code}\n${answer.out}${answer.err}`);
    return answer.out;
  }

  async json<T = Record<string, unknown>>(...args: string[]): Promise<T> {
    const { out } = await this.run(...args, '--output', 'json');
    return JSON.parse(out) as T;
  }

  /** Every file below the folder, with all that a change would change. */
  snapshot(folder = this.dir.path): Record<string, string> {
    const seen: Record<string, string> = {};
    const look = (path: string) => {
      const stat = statSync(path, { bigint: true });
      seen[path] = `${stat.ino} ${stat.mode.toString(8)} ${stat.size} ${stat.mtimeNs} ${stat.ctimeNs}`;
      if (stat.isDirectory()) for (const name of readdirSync(path)) look(join(path, name));
    };
    look(folder);
    return seen;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // A test that fails may leave a master immutable.
    await run('chattr', ['-R', '-i', this.dir.path]).catch(() => undefined);
    await this.dir.remove();
  }
}

/** A bench with `masters/m.raw`: 64 MiB, the first of it not zero. */
export async function labBench(): Promise<LabBench> {
  const bench = new LabBench(await tempDir('cowherd-lab-'));
  await mkdir(bench.path('masters'));
  const data = new Uint8Array(3 * 1024 * 1024).fill(0x5a);
  writeFileSync(bench.path('masters', 'm.raw'), data);
  await mustRun('truncate', ['-s', '64M', bench.path('masters', 'm.raw')]);
  return bench;
}

/** Names in the pool, records and hidden files aside. */
export function poolNames(bench: LabBench, pool = 'class'): string[] {
  return readdirSync(bench.path(pool))
    .filter((name) => !name.startsWith('.'))
    .sort();
}

/** qemu-img's verdict on an image: throws unless it finds no errors. */
export async function qemuCheck(path: string): Promise<void> {
  await mustRun('qemu-img', ['check', '-q', '-f', 'qcow2', path]);
}

/** Boots seats of lab.yaml until their guests have switched off: what each said on its console. */
export async function bootToEnd(
  bench: LabBench,
  ...seats: string[]
): Promise<readonly { readonly seat: string; readonly said: string }[]> {
  const { started } = await bench.json<{ started: { seat: string; lines: string[] }[] }>(
    ...['start', 'lab.yaml', ...seats, '--watch'],
  );
  return started.map(({ seat, lines }) => ({ seat, said: lines.join('\n') }));
}
