import { writeFile } from 'node:fs/promises';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { expectSame, readAll } from '../contract/model.ts';
import { mustRun, run, tempDir } from '../support/programs.ts';
import { cow, fileOf, type Kind, kinds, long, openKind, optionsOf, qemuIsThere } from './kinds.ts';

const size = 5 * (1 << 20) + 33 * 512;

interface Step {
  readonly verb: 'write' | 'zero' | 'discard';
  readonly at: number;
  readonly length: number;
  readonly value: number;
}

/** Both ends anywhere, on a sector, or on a boundary that formats have. */
const step: fc.Arbitrary<Step> = fc
  .record({
    verb: fc.constantFrom(
      'write' as const,
      'write' as const,
      'write' as const,
      'zero' as const,
      'discard' as const,
    ),
    at: fc.nat(size - 1),
    length: fc.oneof(fc.integer({ min: 1, max: 5000 }), fc.integer({ min: 1, max: 2_500_000 })),
    unit: fc.constantFrom(1, 512, 4096, 65536),
    value: fc.integer({ min: 1, max: 255 }),
  })
  .map(({ verb, at, length, unit, value }) => {
    const aligned = verb === 'discard' ? Math.max(unit, 512) : unit;
    const from = at - (at % aligned);
    const to = Math.min(size, from + Math.ceil(length / aligned) * aligned);
    return { verb, at: from, length: to - from, value };
  });

/** Who goes on with the image that the one before leaves. */
const turns = fc.array(
  fc.tuple(fc.constantFrom('qemu' as const, 'ours' as const), fc.array(step, { minLength: 1, maxLength: 6 })),
  {
    minLength: 2,
    maxLength: long ? 8 : 4,
  },
);

async function theirTurn(path: string, { format }: Kind, steps: readonly Step[]): Promise<void> {
  const commands = steps.flatMap(({ verb, at, length, value }) => [
    '-c',
    verb === 'write'
      ? `write -P ${value} ${at} ${length}`
      : `${verb === 'zero' ? 'write -z' : 'discard'} ${at} ${length}`,
  ]);
  await mustRun('qemu-io', ['-f', format, '-d', 'unmap', ...commands, path]);
}

async function ourTurn(path: string, kind: Kind, steps: readonly Step[]): Promise<void> {
  await using image = await openKind(path, kind, true);
  for (const { verb, at, length, value } of steps) {
    if (verb === 'write') await image.write(at, new Uint8Array(length).fill(value));
    else if (verb === 'zero') await image.zero(at, length);
    else await image.discard(at, length);
  }
}

describe.skipIf(!qemuIsThere)('QEMU and we write one image in turns', () => {
  it.each(kinds.filter(({ stream }) => !stream))('$name', async (kind) => {
    await using dir = await tempDir('cowherd-turns-');
    const { format } = kind;
    const property = fc.asyncProperty(fc.boolean(), turns, async (madeByQemu, plan) => {
      await mustRun('sh', ['-c', 'rm -f *'], { cwd: dir.path });
      const path = fileOf(dir.path, kind, 'i');
      const make = ['create', '-q', '-f', format, ...optionsOf(kind), path, `${size}`];
      if (madeByQemu) await mustRun('qemu-img', make);
      else await cow(...make);
      let model = new Uint8Array(size);
      for (const [who, steps] of plan) {
        await (who === 'qemu' ? theirTurn : ourTurn)(path, kind, steps);
        await using image = await openKind(path, kind);
        const seen = await readAll(image);
        // What a discarded range reads as is the format's affair, and the same to both.
        for (const { verb, at, length, value } of steps) {
          if (verb === 'discard') model.set(seen.subarray(at, at + length), at);
          else model.fill(verb === 'zero' ? 0 : value, at, at + length);
        }
        const discards = steps.some(({ verb }) => verb === 'discard');
        if (!discards) expectSame(seen, model, `after ${who}`);
        model = seen.slice();
        await writeFile(dir.file('model'), model);
        const compared = await run('qemu-img', [
          'compare',
          '-f',
          'raw',
          '-F',
          format,
          dir.file('model'),
          path,
        ]);
        expect(compared.stdout + compared.stderr, `after ${who}`).toBe('Images are identical.\n');
        const checked = await run('qemu-img', ['check', '-q', '-f', format, path]);
        expect([0, 63], checked.stderr).toContain(checked.code);
      }
    });
    await fc.assert(property, { numRuns: long ? 25 : 1 });
  });
});
