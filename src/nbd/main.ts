/** The program `cow-nbd` (by a link also `qemu-nbd`). Serving images over NBD is not built yet, and it says so. */
import { processContext } from '../cli/process-context.ts';
import { cowNbd } from './cow-nbd.ts';

process.exitCode = await cowNbd(process.argv.slice(2), processContext('cow-nbd'));
