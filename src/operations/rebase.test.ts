import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { testContext } from '../../test/support/cli-context.ts';
import { have, mustRun, run, tempDir } from '../../test/support/programs.ts';
import { cowImg } from '../cli/cow-img.ts';

const missing = !have('qemu-img') || !have('qemu-io');

/** A layer of a chain: how it is made, and what qemu-io does to it. */
const layer = fc.record({
  compat: fc.constantFrom('0.10', '1.1', '1.1'),
  clusterBytes: fc.constantFrom(512, 4096, 65536, 1 << 20),
  sectors: fc.integer({ min: 100, max: 6000 }),
  writes: fc.array(
    fc.record({
      kind: fc.constantFrom('write', 'write', 'zero', 'packed'),
      at: fc.double({ min: 0, max: 1, noNaN: true }),
      sectors: fc.integer({ min: 1, max: 700 }),
      pattern: fc.integer({ min: 0, max: 255 }),
    }),
    { maxLength: 5 },
  ),
});
type LayerPlan = typeof layer extends fc.Arbitrary<infer Plan> ? Plan : never;

describe.skipIf(missing)('chains as random as they come, judged by qemu-img', () => {
  it('read the same after rebase and after commit', { timeout: 120_000 }, async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.tuple(layer, layer, layer),
        layer,
        fc.constantFrom('mid', 'base', 'other', 'none'),
        fc.constantFrom(1, 2),
        async (chain, other, target, depth) => {
          await using dir = await tempDir('cowherd-chains-');
          const image = (...args: string[]) => mustRun('qemu-img', args, { cwd: dir.path });
          const make = async (name: string, plan: LayerPlan, below?: string) => {
            const { compat, clusterBytes, sectors, writes } = plan;
            const options = `compat=${compat},cluster_size=${clusterBytes}`;
            const backing = below ? ['-b', below, '-F', 'qcow2'] : [];
            await image(
              'create',
              '-q',
              '-f',
              'qcow2',
              '-o',
              options,
              ...backing,
              name,
              String(sectors * 512),
            );
            for (const { kind, at, pattern, ...write } of writes) {
              const length = Math.min(write.sectors, sectors);
              const offset = Math.floor(at * (sectors - length)) * 512;
              const cluster = Math.floor(offset / clusterBytes) * clusterBytes;
              const command =
                kind === 'zero' && compat === '1.1'
                  ? `write -z ${offset} ${length * 512}`
                  : kind === 'packed' && cluster + clusterBytes <= sectors * 512
                    ? `write -c -P ${pattern} ${cluster} ${clusterBytes}`
                    : `write -P ${pattern} ${offset} ${length * 512}`;
              // A packed write over what is there already may be refused.
              await run('qemu-io', ['-f', 'qcow2', '-c', command, name], { cwd: dir.path });
            }
          };
          const cow = async (...args: string[]) => {
            const context = testContext({ cwd: dir.path });
            const words = args.map((word) => (/^(base|mid|top|other)$/.test(word) ? dir.file(word) : word));
            expect(await cowImg(words, context), `${args.join(' ')}: ${context.err()}`).toBe(0);
          };
          const same = async (name: string, content: string) => {
            await image('check', '-q', '-f', 'qcow2', name);
            await image('compare', '-q', '-f', 'qcow2', '-F', 'raw', name, content);
          };

          await make('base', chain[0]);
          await make('mid', chain[1], 'base');
          await make('top', chain[2], 'mid');
          await make('other', other);
          await image('convert', '-O', 'raw', 'top', 'content.img');

          await cow('commit', '-q', '-d', ...(depth === 2 ? ['-b', 'base'] : []), 'top');
          // Over a base that is longer the committed image is longer too: compare what the overlay had.
          await image(
            'create',
            '-q',
            '-u',
            '-f',
            'qcow2',
            '-b',
            depth === 2 ? 'base' : 'mid',
            '-F',
            'qcow2',
            'view',
            String(chain[2].sectors * 512),
          );
          await same('view', 'content.img');
          await same('top', 'content.img');

          await cow(
            'rebase',
            '-q',
            ...(target === 'none' ? ['-b', ''] : ['-b', target, '-F', 'qcow2']),
            'top',
          );
          await same('top', 'content.img');
          await cow('amend', '-o', 'compat=0.10', 'top');
          await same('top', 'content.img');
          await cow('amend', '-o', 'compat=1.1,refcount_bits=64,lazy_refcounts=on', 'top');
          await same('top', 'content.img');
        },
      ),
      {
        numRuns: Number(process.env.COWHERD_CHAIN_RUNS ?? 12),
        interruptAfterTimeLimit: 90_000,
        endOnFailure: true,
      },
    );
  });
});
