// One command as a whole process: wall and CPU seconds and peak memory, as GNU time and the kernel count them.
import { spawnSync } from 'node:child_process';
import { readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** Node parses the certificates that this variable names at every start, 80 ms of it: some machine's setting, not our work. */
const { NODE_EXTRA_CA_CERTS: _, ...env } = process.env;

const report = join(tmpdir(), `cowherd-bench-${process.pid}.time`);

/**
 * Runs `argv` to its end and throws when it fails.
 * @param {readonly string[]} argv
 * @param {{ cwd: string, input?: string }} where
 * @returns {{ wall: number, cpu: number, peak: number }} seconds, seconds (children included), MiB (the largest process)
 */
export function timed(argv, { cwd, input }) {
  const started = process.hrtime.bigint();
  const result = spawnSync('/usr/bin/time', ['-q', '-o', report, '-f', '%U %S %M', '--', ...argv], {
    cwd,
    env,
    input: input ?? '',
    stdio: ['pipe', 'pipe', 'pipe'],
    maxBuffer: 256 * 1024 * 1024,
  });
  const wall = Number(process.hrtime.bigint() - started) / 1e9;
  if (result.status !== 0) {
    throw new Error(`${argv.join(' ')}: exit code ${result.status}\n${result.stderr ?? result.error}`);
  }
  const [user, system, kibibytes] = readFileSync(report, 'utf8').trim().split(' ').map(Number);
  rmSync(report, { force: true });
  return { wall, cpu: user + system, peak: kibibytes / 1024 };
}

/**
 * Runs a command that is not measured and gives what it printed; throws when it fails.
 * @param {readonly string[]} argv
 */
export function quietly([command, ...args], cwd) {
  const result = spawnSync(command, args, { cwd, encoding: 'utf8', maxBuffer: 256 * 1024 * 1024 });
  if (result.status !== 0) {
    throw new Error(
      `${command} ${args.join(' ')}: exit code ${result.status}\n${result.stderr ?? result.error}`,
    );
  }
  return result.stdout;
}
