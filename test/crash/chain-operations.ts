import { type DiskError, isDiskError } from '../../src/errors.ts';
import { isWritable, type OptionValues } from '../../src/formats/driver.ts';
import { amendImage } from '../../src/operations/amend.ts';
import { checkImage } from '../../src/operations/check.ts';
import { commitImage } from '../../src/operations/commit.ts';
import { changeBacking, copyDifferences } from '../../src/operations/rebase.ts';
import { fileNames, openChain, openLive, type Session, withClosed } from './session.ts';

/** Operations on an image as a whole, done by a program of their own: the image is closed and opened for them.

 * None of them changes what it reads as. */
export type WholeImageOperation =
  | { readonly kind: 'commit' }
  | { readonly kind: 'rebase'; readonly to: 'other' | 'backing' | 'none' }
  | { readonly kind: 'repair'; readonly repair: 'leaks' | 'all' }
  | { readonly kind: 'amend'; readonly values: OptionValues };

/** A snapshot's clusters that were never written show what lies below: a chain that changes would change them. */
function hasSnapshots({ snapshots }: Session): boolean {
  return snapshots.some(({ deleted }) => deleted === Number.POSITIVE_INFINITY);
}

export async function runCommit(session: Session): Promise<void> {
  if (hasSnapshots(session) || session.image.backing === undefined) return;
  await withClosed(session, async () => {
    await using image = await openLive(session, { writable: true, writableBacking: 1 });
    await commitImage(image, { depth: 1 });
  });
}

export async function runRebase(
  session: Session,
  { to }: Extract<WholeImageOperation, { kind: 'rebase' }>,
): Promise<void> {
  if (hasSnapshots(session) || session.image.backing === undefined) return;
  // Of a format whose backing file cannot change there is nothing to rebase.
  if (!isWritable(session.image.layer) || !session.image.layer.setBacking) return;
  const { scenario, disk, formats } = session;
  await withClosed(session, async () => {
    await using image = await openLive(session, { writable: true });
    if (to === 'none') {
      await copyDifferences(image, { kind: 'none' });
      await changeBacking(image, undefined);
      return;
    }
    const { format } = scenario[to]!;
    const around = { formats, scenario: { ...scenario, format } };
    await using next = await openChain(around, () => disk.store(disk.fileOf(fileNames[to])), {
      writable: false,
    });
    await copyDifferences(image, { kind: 'image', image: next });
    await changeBacking(image, { path: fileNames[to], format });
  });
}

export async function runRepair(
  session: Session,
  { repair }: Extract<WholeImageOperation, { kind: 'repair' }>,
): Promise<void> {
  await withClosed(session, async () => {
    await using image = await openLive(session, { writable: true, checking: true });
    await checkImage(image.layer, { repair }, session.formats);
  });
}

export async function runAmend(
  session: Session,
  { values }: Extract<WholeImageOperation, { kind: 'amend' }>,
): Promise<void> {
  const driver = session.formats.find(({ name }) => name === session.scenario.format)!;
  await withClosed(session, async () => {
    const before = await versionOf(session);
    try {
      await amendImage(() => openLive(session, { writable: true }), driver, values);
    } catch (error) {
      if (!isDiskError(error) || !mayRefuse(values, before, error)) throw error;
    }
  });
}

async function versionOf(session: Session): Promise<unknown> {
  await using image = await openLive(session, { writable: false });
  return (await image.layer.details()).formatSpecific?.data.compat;
}

/** Whether it is known beforehand that such an image cannot become that; then nothing has happened. */
function mayRefuse(values: OptionValues, version: unknown, { code, field }: DiskError): boolean {
  const isOld = version === '0.10';
  if (values.refcount_bits !== undefined) {
    if (field !== 'refcount_bits') return false;
    // Version 2 knows 16 bits; a narrow width cannot hold what snapshots share.
    return code === 'bad-argument' ? isOld : code === 'unsupported' && Number(values.refcount_bits) < 16;
  }
  if (values.lazy_refcounts === true) return isOld && code === 'bad-argument' && field === 'lazy_refcounts';
  if (values.compat !== '0.10') return false;
  // What version 2 has no place for: other refcounts, features, bitmaps, snapshots of another size or with zeroes.
  return code === 'bad-argument'
    ? ['refcount_bits', 'data_file', 'compat', 'snapshots'].includes(field ?? '')
    : code === 'unsupported' && ['bitmaps', 'L2 entry'].includes(field ?? '');
}
