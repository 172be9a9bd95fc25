import { CliFailure } from './failure.ts';

/** The value of `--output`, absent meaning human. Throws in qemu-img's words for any other. */
export function outputFormat(value: string | undefined): 'human' | 'json' {
  if (value === undefined || value === 'human') return 'human';
  if (value === 'json') return 'json';
  throw new CliFailure('--output must be used with human or json as argument.');
}
