import { isDiskError } from '../../src/errors.ts';
import { changeBitmap, listBitmaps } from '../../src/operations/bitmap.ts';
import type { Session } from './session.ts';

const mostBitmaps = 4;

export interface BitmapOperation {
  readonly kind: 'bitmap';
  readonly action: 'add' | 'remove' | 'clear' | 'toggle' | 'merge';
  /** Which of those there are, counted around. */
  readonly which: number;
  readonly granularity: number;
}

/** Changes a bitmap; what cannot be done with those there are is done to a new one. */
export async function runBitmap({ image, disk, model }: Session, operation: BitmapOperation): Promise<void> {
  const { action, which, granularity } = operation;
  // Every change of bitmaps makes all durable that was written before.
  const flush = model.flush(disk.tick());
  const bitmaps = await listBitmaps(image);
  // While it records, a bitmap is marked as in use; a crash or a failure of the disk leaves it so.
  const bitmap = bitmaps[which % Math.max(1, bitmaps.length)];
  try {
    if (bitmap === undefined || (action === 'add' && bitmaps.length < mostBitmaps)) {
      const used = new Set(bitmaps.map(({ name }) => name));
      let number = 0;
      while (used.has(`b${number}`)) number += 1;
      await changeBitmap(image, `b${number}`, { kind: 'add', granularity, enabled: which % 3 !== 0 });
    } else if (action === 'remove' || action === 'add') {
      await changeBitmap(image, bitmap.name, { kind: 'remove' });
    } else if (action === 'merge') {
      const source = bitmaps[granularity % bitmaps.length]!.name;
      await changeBitmap(image, bitmap.name, { kind: 'merge', source });
    } else {
      const kind = action === 'clear' ? 'clear' : bitmap.enabled ? 'disable' : 'enable';
      await changeBitmap(image, bitmap.name, { kind });
    }
  } catch (error) {
    // One that was left in use can only be removed: a clear answer.
    if (isDiskError(error, 'in-use') && error.field === 'bitmap') return;
    // Version 2 has none.
    if (isDiskError(error, 'unsupported') && error.field === 'bitmap') return;
    throw error;
  }
  flush.done(disk.tick());
}
