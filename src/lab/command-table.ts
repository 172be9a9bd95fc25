import { helpCommands } from './command-table/help.ts';
import { imageCommands } from './command-table/images.ts';
import { labCommands } from './command-table/lab.ts';
import { masterCommands } from './command-table/masters.ts';
import { seatWorkCommands } from './command-table/seat-work.ts';
import type { CommandSpec } from './command-table/spec.ts';

/** In the order of the help. */
export const commands: readonly CommandSpec[] = [
  ...labCommands,
  ...seatWorkCommands,
  ...masterCommands,
  ...imageCommands,
  ...helpCommands,
];
