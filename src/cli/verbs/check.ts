import { type DiskError, isDiskError } from '../../errors.ts';
import type { CheckOptions, CheckResult, Finding } from '../../formats/driver.ts';
import { checkImage } from '../../operations/check.ts';
import { strerror } from '../../platform/errno.ts';
import { checkForAzure } from '../azure-check.ts';
import { isCacheMode } from '../cache-mode.ts';
import type { CliContext, Command } from '../context.ts';
import { CliFailure, UsageFailure } from '../failure.ts';
import { fixed2 } from '../fixed.ts';
import { ImageArguments } from '../image-arguments.ts';
import { prettyJson } from '../json.ts';
import { report } from '../messages.ts';
import { openForVerb } from '../open-image.ts';
import { outputFormat } from '../output-format.ts';
import { flag, readOptions, valued } from '../verb-options.ts';

/** qemu-img's code for a format that has nothing to check. */
const notSupported = 63;

/** Formats that the library can check and qemu-img cannot: scripts know the refusal. */
const unchecked = ['vpc'];

interface CheckArguments {
  format?: string;
  repair: NonNullable<CheckOptions['repair']>;
  cache: string;
  output?: string;
  /** Where the image is to go: checks for that instead. */
  target?: 'azure';
  quiet: boolean;
  share: boolean;
  force: boolean;
  images: ImageArguments;
}

/** `check`: looks for errors in an image's tables and with `-r` repairs them. */
export const run: Command = async (args, context) => {
  const images = new ImageArguments(context);
  const wish: CheckArguments = {
    repair: 'none',
    cache: 'writeback',
    quiet: false,
    share: false,
    force: false,
    images,
  };
  const operands = readOptions(
    args,
    'f:r:T:qU',
    [
      valued('format', 'f'),
      valued('repair', 'r'),
      valued('output'),
      ...ImageArguments.options,
      flag('force-share', 'U'),
      flag('corrupt-dependents'),
      valued('for'),
    ],
    (key, value) => {
      if (key === 'f') wish.format = value;
      else if (key === 'r') wish.repair = repairOf(value);
      else if (key === 'for') wish.target = targetOf(value);
      else if (key === 'output') wish.output = value;
      else if (key === 'T') wish.cache = value;
      else if (key === 'q') wish.quiet = true;
      else if (key === 'U') wish.share = true;
      else if (key === 'corrupt-dependents') wish.force = true;
      else images.take(key, value);
    },
  );
  if (operands.length !== 1) throw new UsageFailure('Expecting one image file name');
  const json = outputFormat(wish.output) === 'json';
  if (!isCacheMode(wish.cache)) throw new CliFailure(`Invalid source cache option: ${wish.cache}`);
  if (wish.target === 'azure') return checkForAzure(context, operands[0], { ...wish, json });
  return new CheckVerb(context, operands[0], wish, json).run();
};

function targetOf(value: string): 'azure' {
  if (value === 'azure') return value;
  throw new UsageFailure(`Unknown option value for --for (expecting 'azure'): ${value}`);
}

function repairOf(value: string): 'leaks' | 'all' {
  if (value === 'leaks' || value === 'all') return value;
  throw new UsageFailure(`Unknown option value for -r (expecting 'leaks' or 'all'): ${value}`);
}

class CheckVerb {
  readonly #context: CliContext;
  readonly #path: string;
  readonly #wish: CheckArguments;
  readonly #json: boolean;

  constructor(context: CliContext, path: string, wish: CheckArguments, json: boolean) {
    this.#context = context;
    this.#path = path;
    this.#wish = wish;
    this.#json = json;
  }

  async run(): Promise<number> {
    const { repair } = this.#wish;
    let { format, result } = await this.#check(repair);
    const { corruptionsFixed, leaksFixed } = result;
    if (corruptionsFixed > 0 || leaksFixed > 0) {
      if (!this.#json) {
        this.#print(
          `The following inconsistencies were found and repaired:\n\n    ${leaksFixed} leaked clusters\n` +
            `    ${corruptionsFixed} corruptions\n\nDouble checking the fixed image now...\n`,
        );
      }
      ({ format, result } = await this.#check('none'));
      result = { ...result, corruptionsFixed, leaksFixed };
    }
    this.#print(this.#json ? `${prettyJson(this.#members(format, result))}\n` : humanResult(result));
    if (result.checkErrors > 0) throw new CliFailure('Check failed');
    return result.corruptions > 0 ? 2 : result.leaks > 0 ? 3 : 0;
  }

  /** One look at the image, opened for it: a repair changes the file underneath an open one. */
  async #check(repair: CheckArguments['repair']): Promise<{ format: string; result: CheckResult }> {
    const { format, share, force, images } = this.#wish;
    await using image = await openForVerb(this.#context, this.#path, {
      format,
      images,
      writable: repair !== 'none',
      metadataOnly: true,
      checking: true,
      locks: share ? 'share' : 'take',
      corruptDependents: force,
      signal: this.#context.signal,
    });
    try {
      if (unchecked.includes(image.layer.format)) throw checksUnsupported();
      const result = await checkImage(image.layer, {
        repair,
        signal: this.#context.signal,
        onFinding: (finding) => this.#tell(finding),
      });
      return { format: image.layer.format, result };
    } catch (error) {
      if (!isDiskError(error) || error.code === 'aborted') throw error;
      if (error.field === 'check') throw checksUnsupported();
      throw new CliFailure(`Check failed: ${wordsFor(error)}`, { cause: error });
    }
  }

  #tell({ message, reported }: Finding): void {
    if (reported) report(this.#context, message);
    else this.#context.stderr.write(`${message}\n`);
  }

  #print(text: string): void {
    if (!this.#wish.quiet) this.#context.stdout.write(text);
  }

  /** The figures that qemu-img leaves out are those that are zero. */
  #members(format: string, result: CheckResult) {
    const some = (figure: number | undefined) => figure || undefined;
    return {
      filename: this.#path,
      format,
      'check-errors': result.checkErrors,
      'image-end-offset': some(result.imageEndOffset),
      corruptions: some(result.corruptions),
      leaks: some(result.leaks),
      'corruptions-fixed': some(result.corruptionsFixed),
      'leaks-fixed': some(result.leaksFixed),
      'total-clusters': some(result.totalClusters),
      'allocated-clusters': some(result.allocatedClusters),
      'fragmented-clusters': some(result.fragmentedClusters),
      'compressed-clusters': some(result.compressedClusters),
    };
  }
}

function checksUnsupported(): CliFailure {
  return new CliFailure('This image format does not support checks', { exitCode: notSupported });
}

function wordsFor(error: DiskError): string {
  const { errno } = error.detail;
  return typeof errno === 'string' ? strerror(errno) : error.message;
}

function humanResult(result: CheckResult): string {
  const { corruptions, leaks, checkErrors, imageEndOffset } = result;
  let text = '';
  if (corruptions + leaks + checkErrors === 0) text += 'No errors were found on the image.\n';
  if (corruptions > 0) {
    text +=
      `\n${corruptions} errors were found on the image.\n` +
      'Data may be corrupted, or further writes to the image may corrupt it.\n';
  }
  if (leaks > 0) {
    text += `\n${leaks} leaked clusters were found on the image.\nThis means waste of disk space, but no harm to data.\n`;
  }
  if (checkErrors > 0) text += `\n${checkErrors} internal errors have occurred during the check.\n`;
  text += shares(result);
  if (imageEndOffset) text += `Image end offset: ${imageEndOffset}\n`;
  return text;
}

function shares(result: CheckResult): string {
  const { totalClusters = 0, allocatedClusters = 0, fragmentedClusters = 0, compressedClusters = 0 } = result;
  if (totalClusters === 0 || allocatedClusters === 0) return '';
  const percent = (part: number, whole: number) => fixed2((part * 100) / whole);
  return (
    `${allocatedClusters}/${totalClusters} = ${percent(allocatedClusters, totalClusters)}% allocated, ` +
    `${percent(fragmentedClusters, allocatedClusters)}% fragmented, ` +
    `${percent(compressedClusters, allocatedClusters)}% compressed clusters\n`
  );
}
