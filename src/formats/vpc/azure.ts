import type { Layer } from '../driver.ts';
import { FixedLayer } from './fixed-layer.ts';

const MiB = 1024 * 1024;
const GiB = 1024 * MiB;

/** What stands in the way of an upload, and what to do about it. */
export interface AzureProblem {
  readonly problem: string;
  readonly advice: string;
}

/**
 * What Azure would refuse about an image: it takes fixed VHDs, of whole MiB by their footer's size, up to 2040 GiB, in
 * a file that ends with the footer right after the disk ("Prepare a Windows VHD or VHDX to upload to Azure").
 */
export function azureProblems(layer: Layer): AzureProblem[] {
  const convert = 'cow-img convert -O vpc -o subformat=fixed,force_size SOURCE TARGET.vhd';
  if (!(layer instanceof FixedLayer)) {
    const kind = layer.format === 'vpc' ? 'a VHD that is not fixed' : `an image in ${layer.format} format`;
    return [{ problem: `Azure takes fixed VHDs; this is ${kind}`, advice: convert }];
  }
  const problems: AzureProblem[] = [];
  const { footer, source } = layer;
  if (footer.currentSize !== layer.size) {
    problems.push({
      problem: `The footer says ${footer.currentSize} bytes, the geometry ${layer.size}: Azure goes by the footer`,
      advice: convert,
    });
  }
  if (footer.currentSize % MiB !== 0 || footer.currentSize === 0) {
    const whole = Math.max(1, Math.ceil(footer.currentSize / MiB));
    problems.push({
      problem: `The disk has ${footer.currentSize} bytes, which are not whole MiB`,
      advice: `cow-img convert to raw, cow-img resize -f raw FILE ${whole}M, then ${convert}`,
    });
  }
  if (footer.currentSize > 2040 * GiB) {
    problems.push({
      problem: 'The disk has more than 2040 GiB',
      advice: 'make it smaller in the guest first',
    });
  }
  if (source.size !== footer.currentSize + 512) {
    problems.push({
      problem: `The file has ${source.size} bytes where the disk and its footer take ${footer.currentSize + 512}`,
      advice: convert,
    });
  }
  return problems;
}
