import { assemble, type Program } from './assembler/assemble.ts';
import { seatListing } from './seat-asm.ts';

let assembled: Program | undefined;

/** The demo guest's program: the disk's first sectors, and the constants of its listing. Assembled once. */
export function seatProgram(): Program {
  assembled ??= assemble(seatListing);
  return assembled;
}
