import { isDiskError } from '../../errors.ts';
import type { Image } from '../../image/image.ts';
import { type BitmapAction, changeBitmaps } from '../../operations/bitmap.ts';
import type { CliContext, Command } from '../context.ts';
import { CliFailure } from '../failure.ts';
import { ImageArguments } from '../image-arguments.ts';
import { explain } from '../messages.ts';
import { openForVerb } from '../open-image.ts';
import { sizeArgument } from '../sizes.ts';
import { flag, readOptions, valued } from '../verb-options.ts';

const kinds = ['add', 'remove', 'clear', 'enable', 'disable'] as const;

/** An action as it was asked for, with its place in a row of them. */
type Wanted = { readonly kind: (typeof kinds)[number] } | { readonly kind: 'merge'; readonly source: string };

interface BitmapArguments {
  format?: string;
  /** Zero is as good as none. */
  granularity?: bigint;
  sourceFile?: string;
  sourceFormat?: string;
  force: boolean;
  readonly actions: Wanted[];
  readonly images: ImageArguments;
}

/** `bitmap`: one or several actions, in their order, on a persistent bitmap of an image. */
export const run: Command = async (args, context) => {
  const wish: BitmapArguments = { force: false, actions: [], images: new ImageArguments(context) };
  const operands = readOptions(
    args,
    'b:f:F:g:',
    [
      ...ImageArguments.options,
      ...kinds.map((kind) => flag(kind)),
      valued('merge'),
      valued('granularity', 'g'),
      valued('source-file', 'b'),
      valued('source-format', 'F'),
      flag('corrupt-dependents'),
    ],
    (key, value) => take(context, wish, key, value),
  );
  checkArguments(wish, operands);
  const [path, name] = operands;
  const { images, format, force } = wish;
  await using image = await openForVerb(context, path, {
    images,
    format,
    writable: true,
    backing: 'ignore',
    corruptDependents: force,
  });
  await using source = await openSource(context, wish);
  await performAll(wish, image, name, source?.image);
  return 0;
};

function take(context: CliContext, wish: BitmapArguments, key: string, value: string): void {
  const kind = kinds.find((one) => one === key);
  if (kind) wish.actions.push({ kind });
  else if (key === 'merge') wish.actions.push({ kind: 'merge', source: value });
  else if (key === 'b') wish.sourceFile = value;
  else if (key === 'f') wish.format = value;
  else if (key === 'F') wish.sourceFormat = value;
  else if (key === 'g') wish.granularity = sizeArgument(context, 'granularity', value) || undefined;
  else if (key === 'corrupt-dependents') wish.force = true;
  else wish.images.take(key, value);
}

function checkArguments(wish: BitmapArguments, operands: readonly string[]): void {
  const has = (kind: Wanted['kind']) => wish.actions.some((action) => action.kind === kind);
  const refuse = (message: string) => new CliFailure(message);
  if (wish.actions.length === 0) {
    throw refuse('Need at least one of --add, --remove, --clear, --enable, --disable, or --merge');
  }
  if (wish.granularity !== undefined && !has('add')) throw refuse('granularity only supported with --add');
  if (wish.sourceFormat !== undefined && wish.sourceFile === undefined) {
    throw refuse('-F only supported with -b');
  }
  if (wish.sourceFile !== undefined && !has('merge')) {
    throw refuse('Merge bitmap source file only supported with --merge');
  }
  if (operands.length !== 2) throw refuse('Expecting filename and bitmap name');
}

/** The image that `--merge` reads from, where it is another one; closing it is the caller's. */
async function openSource(
  context: CliContext,
  { sourceFile, sourceFormat, images }: BitmapArguments,
): Promise<(AsyncDisposable & { readonly image: Image }) | undefined> {
  if (sourceFile === undefined) return undefined;
  const image = await openForVerb(context, sourceFile, {
    images,
    imageOptions: false,
    format: sourceFormat,
    backing: 'ignore',
  });
  return { image, [Symbol.asyncDispose]: () => image[Symbol.asyncDispose]() };
}

/** As one: a bitmap that was added or cleared, and is not filled yet, would say that nothing has changed. */
async function performAll(
  wish: BitmapArguments,
  image: Image,
  name: string,
  from: Image | undefined,
): Promise<void> {
  let kind: Wanted['kind'] = wish.actions[0].kind;
  try {
    await changeBitmaps(image, async (change) => {
      for (const wanted of wish.actions) {
        kind = wanted.kind;
        await change(name, actionOf(wish, wanted, from));
      }
    });
  } catch (error) {
    const { text, hint } = refusal(image, name, error);
    throw new CliFailure(`Operation ${kind} on bitmap ${name} failed: ${text}`, { hint, cause: error });
  }
}

function actionOf(wish: BitmapArguments, wanted: Wanted, from: Image | undefined): BitmapAction {
  if (wanted.kind === 'merge') return { ...wanted, from };
  if (wanted.kind !== 'add') return wanted;
  // QEMU keeps 32 bits of it.
  const { granularity } = wish;
  const bytes = granularity === undefined ? undefined : Number(BigInt.asUintN(32, granularity));
  return { kind: 'add', granularity: bytes };
}

function refusal(
  image: Image,
  name: string,
  error: unknown,
): { readonly text: string; readonly hint?: string } {
  const { text, hint } = explain(error);
  if (!isDiskError(error) || error.field !== 'bitmap') return { text, hint };
  if (error.detail.inconsistent) {
    return { text, hint: 'Try block-dirty-bitmap-remove to delete this bitmap from disk\n' };
  }
  // Where QEMU names a node of its own making, we name the file.
  const file = image.layer.source.name;
  if (error.detail.format !== undefined) {
    return { text: `Can't store persistent bitmaps to '${file}': Operation not supported` };
  }
  return error.detail.stored
    ? { text: `Can't make bitmap '${name}' persistent in '${file}': ${text}` }
    : { text };
}
