import { isDiskError } from '../../src/errors.ts';
import { applySnapshot, createSnapshot, deleteSnapshot } from '../../src/operations/snapshot.ts';
import { readAll, type Session, type TakenSnapshot } from './session.ts';

/** Snapshots are few, and named by the order in which they were taken. */
const mostSnapshots = 5;

export interface SnapshotOperation {
  readonly kind: 'snapshot';
  readonly action: 'create' | 'apply' | 'delete';
  /** Which of those there are, counted around. */
  readonly which: number;
}

/** Takes, applies or deletes a snapshot; what cannot be done with those there are is done to another one. */
export async function runSnapshot(session: Session, { action, which }: SnapshotOperation): Promise<void> {
  const there = session.snapshots.filter(({ deleted }) => deleted === Number.POSITIVE_INFINITY);
  const chosen = there[which % there.length];
  if (chosen !== undefined && action === 'apply') return apply(session, chosen);
  if (chosen !== undefined && (action === 'delete' || there.length >= mostSnapshots)) {
    chosen.deleted = session.disk.tick();
    await deleteSnapshot(session.image, { name: chosen.name });
    return;
  }
  await create(session);
}

async function create({ image, model, disk, snapshots }: Session): Promise<void> {
  const content = await readAll(image);
  const number = 1 + Math.max(0, ...snapshots.map(({ name }) => Number(name.slice(1))));
  const taken: TakenSnapshot = {
    name: `s${number}`,
    content,
    issued: disk.tick(),
    done: Number.POSITIVE_INFINITY,
    deleted: Number.POSITIVE_INFINITY,
  };
  snapshots.push(taken);
  // Taking a snapshot makes all durable that was written before.
  const flush = model.flush(disk.tick());
  try {
    await createSnapshot(image, taken.name, 1_700_000_000_000);
  } catch (error) {
    taken.deleted = disk.tick();
    // A narrow refcount cannot count one reference more: then nothing has happened.
    if (isDiskError(error, 'out-of-range') && error.field === 'refcount_bits') return;
    throw error;
  }
  taken.done = disk.tick();
  flush.done(taken.done);
}

async function apply({ image, model, disk }: Session, { name, content }: TakenSnapshot): Promise<void> {
  const resize = model.resize(disk.tick(), content.length);
  const edit = model.write(disk.tick(), 0, content);
  await applySnapshot(image, name);
  resize.done(disk.tick());
  edit.done(disk.tick());
  // Durable on return.
  model.flush(disk.tick()).done(disk.tick());
}
