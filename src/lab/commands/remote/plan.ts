export { plan as run } from './up.ts';
