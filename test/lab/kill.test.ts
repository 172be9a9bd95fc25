import { describe } from 'vitest';
import { killSuite } from './kill-suite.ts';

describe('killed at random moments', () => {
  killSuite({ up: 8, reset: 8, down: 4 });
});
