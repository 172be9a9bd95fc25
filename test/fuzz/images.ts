import { createImage, openImage } from '../../src/image/open.ts';
import { Random } from '../crash/random.ts';
import { stamped } from '../crash/session.ts';
import { SparseBytes } from '../crash/sparse-bytes.ts';
import { SparseStore } from '../crash/sparse-store.ts';

/** A sound image to start from. */
export interface SeedImage {
  readonly name: string;
  readonly format: string;
  readonly content: SparseBytes;
}

const KiB = 1024;

interface Plan {
  readonly size: number;
  readonly options: Readonly<Record<string, string | number | boolean>>;
  readonly backing?: boolean;
  readonly pack?: boolean;
}

/** Small, and between them with every structure that we write ourselves. */
const plans: readonly Plan[] = [
  { size: 300 * KiB, options: { cluster_size: 512 } },
  { size: 300 * KiB, options: { cluster_size: 512, compat: '0.10' }, backing: true },
  { size: 200 * KiB, options: { cluster_size: 1024, refcount_bits: 1 } },
  { size: 200 * KiB, options: { cluster_size: 4096, lazy_refcounts: true }, backing: true },
  { size: 256 * KiB, options: { cluster_size: 4096, refcount_bits: 64 }, pack: true },
  { size: 1024 * KiB, options: { cluster_size: 65536, refcount_bits: 8 }, pack: true },
];

/** Images of our own. Others come as files (see the test). */
export async function ownSeeds(): Promise<SeedImage[]> {
  const seeds: SeedImage[] = [];
  for (const [i, plan] of plans.entries()) {
    const content = new SparseBytes();
    const store = new SparseStore(content, 'seed');
    const backing = plan.backing ? { path: 'backing', format: 'raw' } : undefined;
    await createImage(store, 'qcow2', plan.size, plan.options, { backing });
    const image = await openFuzzed(store, 'qcow2', true);
    const random = new Random(i);
    const grain = Math.max(512, image.layer.grain);
    for (let step = 0; step < 10; step += 1) {
      const at = random.below(Math.floor(plan.size / grain)) * grain;
      const length = Math.min(plan.size - at, random.between(1, 4) * grain);
      if (step % 5 === 4) await image.zero(at, length);
      else await image.write(at, stamped(step, length));
    }
    await image.flush();
    await image[Symbol.asyncDispose]();
    seeds.push({ name: `own ${JSON.stringify(plan)}`, format: 'qcow2', content });
  }
  return seeds;
}

/** What a seed may name as its backing or data file. */
const neighbour = SparseBytes.of(stamped(7, 96 * KiB));

/** The data file of a store, the same one at every opening: what is written there must be found again. */
const dataFiles = new WeakMap<SparseStore, SparseBytes>();

/** Opens an image whose references all lead to one small raw file. */
export function openFuzzed(
  store: SparseStore,
  format: string | undefined,
  writable: boolean,
  metadataOnly = false,
  checking = false,
) {
  return openImage(store, {
    format,
    writable,
    metadataOnly,
    checking,
    locks: 'none',
    resolve: async (_, { role }) => {
      if (role === 'backing') return new SparseStore(neighbour.fork(), 'backing');
      let data = dataFiles.get(store);
      if (data === undefined) {
        data = neighbour.fork();
        dataFiles.set(store, data);
      }
      return new SparseStore(data, 'data');
    },
  });
}
