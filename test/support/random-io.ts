import { readFileSync } from 'node:fs';
import { openImageFile } from '../../src/node.ts';

/*
 * A program: opens the qcow2 image of its second argument, reads or writes at random places of it (`idle`: none), and says how much
 * memory it has taken at most, in KiB. The third argument is the budget for L2 tables, in bytes.
 */

const [how, file, budget] = process.argv.slice(2);
const pieces = 1000;
const piece = 4096;

async function main(): Promise<void> {
  if (how !== 'idle') {
    const layerOptions = budget === undefined ? {} : { 'l2-cache-size': Number(budget) };
    await using image = await openImageFile(file, {
      format: 'qcow2',
      writable: how === 'write',
      layerOptions,
    });
    const bytes = new Uint8Array(piece).fill(7);
    let state = 1;
    for (let done = 0; done < pieces; done++) {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      const at = Math.floor((state / 2 ** 32) * (image.size / piece)) * piece;
      if (how === 'write') await image.write(at, bytes);
      else await image.read(at, bytes);
    }
  }
  process.stdout.write(/VmHWM:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'latin1'))![1]);
}

main();
