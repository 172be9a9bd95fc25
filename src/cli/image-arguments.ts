import { isDiskError } from '../errors.ts';
import type { NodeOptions } from '../image/nodes/node-options.ts';
import { parseImageOptions } from '../image/nodes/option-list.ts';
import { trustedImages, untrustedImages } from '../image/policy.ts';
import type { OpenImageFileOptions } from '../node.ts';
import type { CliContext } from './context.ts';
import { CliFailure } from './failure.ts';
import type { LongOption } from './getopt.ts';
import { explain, warn } from './messages.ts';
import { UserObjects } from './objects.ts';
import { flag, valued } from './verb-options.ts';

/**
 * The options of every verb that opens images: `--object`, `--image-opts`, and `--untrusted` of our own. A verb lists
 * `ImageArguments.options` among its long ones, hands `take` what is none of its own, and this to `openForVerb`.
 */
export class ImageArguments {
  static readonly options: readonly LongOption[] = [valued('object'), flag('image-opts'), flag('untrusted')];
  /** Image names are lists of options. */
  imageOptions = false;
  untrusted = false;
  readonly objects = new UserObjects();
  readonly #context: CliContext;
  /** Ids of secrets that were asked for, by what they open. */
  readonly #asked = new Map<string, string>();

  constructor(context: CliContext) {
    this.#context = context;
    context.atEnd?.(() => this.objects.wipe());
  }

  /** Understands one of `options`; false for any other. Throws CliFailure for an object that cannot be. */
  take(key: string, value: string): boolean {
    if (key === 'object') this.objects.add(value);
    else if (key === 'image-opts') this.imageOptions = true;
    else if (key === 'untrusted') this.untrusted = true;
    else return false;
    return true;
  }

  /** What `name` stands for: a file name, or with `asOptions` the options that it lists. Throws CliFailure. */
  nameOf(
    name: string,
    options: Pick<OpenImageFileOptions, 'format' | 'locks'>,
    asOptions = this.imageOptions,
  ): string | NodeOptions {
    if (!asOptions) return name;
    const node = this.#parse(name);
    if (options.format !== undefined)
      throw new CliFailure('--image-opts and --format are mutually exclusive');
    if (options.locks !== 'share') return node;
    const given = node.get('force-share');
    if (given !== undefined && given !== 'on' && given !== true) {
      throw new CliFailure('--force-share/-U conflicts with image options');
    }
    return node.with('force-share', 'on');
  }

  /** What opening needs of the command line besides the name. */
  get opening(): Pick<OpenImageFileOptions, 'host' | 'policy' | 'secret' | 'missingKey'> {
    return {
      policy: this.untrusted ? untrustedImages : trustedImages,
      secret: (id) => this.objects.secret(id),
      missingKey: (path) => this.#askFor(path),
      host: {
        tlsCredentials: (id) => this.objects.tlsCredentials(id),
        throttleGroup: (id) => this.objects.throttleGroup(id),
        warn: (message) => warn(this.#context, message),
      },
    };
  }

  /** Of an image that is opened once more it is not asked again. */
  async #askFor(path: string): Promise<string | undefined> {
    const { askSecret } = this.#context;
    if (!askSecret) return undefined;
    const id = this.#asked.get(path) ?? this.objects.keep(await askSecret(`Passphrase of '${path}': `));
    this.#asked.set(path, id);
    return id;
  }

  #parse(list: string): NodeOptions {
    try {
      return parseImageOptions(list, (name, value) => {
        if (name === 'help' || name === '?') return;
        const shown = value === 'on' ? name : `no${name}`;
        warn(this.#context, `short-form boolean option '${shown}' deprecated`);
        this.#context.stderr.write(`Please use ${name}=${value} instead\n`);
      });
    } catch (error) {
      if (!isDiskError(error)) throw error;
      const { text, hint } = explain(error);
      throw new CliFailure(text, { hint, cause: error });
    }
  }
}
