import { isDiskError } from '../../src/errors.ts';
import { applySnapshot, createSnapshot, deleteSnapshot } from '../../src/operations/snapshot.ts';
import { readAll, type Session } from './session.ts';

/** Snapshots are few, and named by the order in which they were taken. */
const mostSnapshots = 5;

export interface SnapshotOperation {
  readonly kind: 'snapshot';
  readonly action: 'create' | 'apply' | 'delete';
  /** Which of those there are, counted around. */
  readonly which: number;
}

interface Taken {
  readonly name: string;
  readonly content: Uint8Array;
}

const takenBy = new WeakMap<Session, { next: number; list: Taken[] }>();

/** Takes, applies or deletes a snapshot; what cannot be done with those there are is done to another one. */
export async function runSnapshot(session: Session, { action, which }: SnapshotOperation): Promise<void> {
  let taken = takenBy.get(session);
  if (taken === undefined) {
    taken = { next: 1, list: [] };
    takenBy.set(session, taken);
  }
  // A size that changes would make the operations drawn after it reach past the end.
  const fitting = taken.list.filter(({ content }) => content.length === session.image.size);
  if (action === 'apply' && fitting.length > 0) return apply(session, fitting[which % fitting.length]!);
  if (taken.list.length > 0 && (action === 'delete' || taken.list.length >= mostSnapshots)) {
    const { name } = taken.list[which % taken.list.length]!;
    await deleteSnapshot(session.image, { name });
    taken.list = taken.list.filter((one) => one.name !== name);
    return;
  }
  const content = await readAll(session.image);
  const name = `s${taken.next}`;
  // Taking a snapshot makes all durable that was written before.
  const flush = session.model.flush(session.disk.tick());
  try {
    await createSnapshot(session.image, name, 1_700_000_000_000);
  } catch (error) {
    // A narrow refcount cannot count one reference more: then nothing has happened.
    if (isDiskError(error, 'out-of-range') && error.field === 'refcount_bits') return;
    throw error;
  }
  flush.done(session.disk.tick());
  taken.next += 1;
  taken.list.push({ name, content });
}

async function apply({ image, model, disk }: Session, { name, content }: Taken): Promise<void> {
  const edit = model.write(disk.tick(), 0, content);
  await applySnapshot(image, name);
  edit.done(disk.tick());
  // Durable on return.
  model.flush(disk.tick()).done(disk.tick());
}
