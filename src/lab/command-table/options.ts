import type { OptionSpec } from './spec.ts';

export const output: OptionSpec = {
  flags: '--output <format>',
  help: 'for people or for programs',
  choices: ['human', 'json'],
};
export const stop: OptionSpec = { flags: '--stop', help: 'shut it down first, where it runs' };
export const dryRun: OptionSpec = { flags: '--dry-run', help: 'only say what would be done' };
/** How seats are named, for descriptions. */
export const seatsHelp = 'Seats: student-03,student-10..17, wildcards (student-1*), or all.';
export const force: OptionSpec = { flags: '--force', help: 'replace a file that is there' };
