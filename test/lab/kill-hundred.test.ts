import { describe } from 'vitest';
import { killSuite } from './kill-suite.ts';

/** Takes two minutes: COWHERD_LONG=1 runs it. */
describe.skipIf(process.env.COWHERD_LONG !== '1')('killed a hundred times at random moments', () => {
  killSuite({ up: 40, reset: 40, down: 20 });
});
