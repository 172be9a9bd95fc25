/** The program `cowherd`. A command is added by its file in commands/ and its entry in command-table.ts. */
import { processContext } from '../cli/process-context.ts';
import { cowherd } from './cowherd.ts';

process.exitCode = await cowherd(process.argv.slice(2), processContext('cowherd'));
