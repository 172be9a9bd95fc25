import { isDiskError } from '../errors.ts';
import { azureProblems } from '../formats/vpc/azure.ts';
import type { CliContext } from './context.ts';
import { CliFailure } from './failure.ts';
import type { ImageArguments } from './image-arguments.ts';
import { prettyJson } from './json.ts';
import { openLayerForVerb } from './open-image.ts';

export interface AzureCheck {
  readonly format?: string;
  readonly images: ImageArguments;
  readonly share: boolean;
  readonly quiet: boolean;
  readonly json: boolean;
}

/** `check --for azure`: whether Azure would take the image, and what to do where not. Exit code 0, or 2. */
export async function checkForAzure(context: CliContext, path: string, wish: AzureCheck): Promise<number> {
  await using layer = await openGuessing(context, path, wish);
  const problems = azureProblems(layer);
  if (wish.json) {
    const { format } = layer;
    context.stdout.write(
      `${prettyJson({ filename: path, format, for: 'azure', problems: problems.map((one) => ({ ...one })) })}\n`,
    );
  } else if (!wish.quiet) {
    const lines = problems.map(({ problem, advice }) => `${problem}.\n    To do: ${advice}\n`);
    context.stdout.write(lines.length === 0 ? 'Azure can take the image.\n' : lines.join(''));
  }
  return problems.length === 0 ? 0 : 2;
}

/** A fixed VHD looks like a raw image: what is taken for one is tried as a VHD first. */
async function openGuessing(context: CliContext, path: string, { format, images, share }: AzureCheck) {
  const open = (name: string | undefined) =>
    openLayerForVerb(context, path, {
      format: name,
      images,
      metadataOnly: true,
      locks: share ? 'share' : 'take',
    });
  const { layer } = await open(format);
  if (format !== undefined || layer.format !== 'raw') return layer;
  try {
    const fixed = await open('vpc');
    await layer[Symbol.asyncDispose]();
    return fixed.layer;
  } catch (error) {
    if (error instanceof CliFailure && isDiskError(error.cause, 'corrupt')) return layer;
    throw error;
  }
}
