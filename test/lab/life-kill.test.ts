import { describe } from 'vitest';
import { have } from '../support/programs.ts';
import { lifeKillSuite } from './life-kill-suite.ts';

const qemu = have('qemu-img') && have('qemu-io');

describe.skipIf(!qemu)('a life of a lab, killed at random moments', () => {
  lifeKillSuite({ roll: 3, move: 3, movePool: 3, promote: 2, gc: 2 });
});

/** Takes minutes: COWHERD_LONG=1 runs it. */
describe.skipIf(!qemu || process.env.COWHERD_LONG !== '1')('killed a hundred times each', () => {
  lifeKillSuite({ roll: 100, move: 100, movePool: 100, promote: 100, gc: 100 });
});
