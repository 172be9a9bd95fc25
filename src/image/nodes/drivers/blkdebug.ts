import { BlkdebugStore } from '../../../storage/blkdebug.ts';
import { type DebugRule, makeRule, parseDebugConfig } from '../../../storage/blkdebug-rules.ts';
import { type NodeDriver, nodeError } from '../node-driver.ts';
import type { OptionReader } from '../option-reader.ts';

const configLimit = 1024 * 1024;
const limits = ['align', 'max-transfer', 'opt-write-zero', 'max-write-zero', 'opt-discard', 'max-discard'];
const imageName = 'x-image';

/** Errors by rules: `blkdebug:CONFIG:IMAGE`, or `image`, `config`, `inject-error.N.*` and `set-state.N.*`. */
export const blkdebugDriver: NodeDriver = {
  name: 'blkdebug',
  kind: 'protocol',
  prefixes: ['blkdebug'],
  telling: ['config', 'inject-error.', 'set-state.', ...limits, 'take-child-perms.', 'unshare-child-perms.'],
  parseName(filename, options) {
    const rest = filename.startsWith('blkdebug:') ? filename.slice('blkdebug:'.length) : undefined;
    if (rest === undefined) return options.with(imageName, filename);
    const colon = rest.indexOf(':');
    if (colon < 0) throw nodeError('filename', 'blkdebug requires both config file and image path');
    const named = options.with(imageName, rest.slice(colon + 1));
    return colon === 0 ? named : named.with('config', rest.slice(0, colon));
  },
  async open({ reader, openChild, readText }) {
    const config = reader.string('config');
    const rules: DebugRule[] = [];
    if (config !== undefined) {
      try {
        rules.push(...parseDebugConfig(await readText(config, configLimit)));
      } catch (cause) {
        throw withWords(cause, config);
      }
    }
    rules.push(...rulesOf(reader, 'inject-error'), ...rulesOf(reader, 'set-state'));
    const image = await openChild('image', { filename: reader.string(imageName) });
    try {
      const maxTransfer = readLimits(reader);
      const plain = ![...reader.options.entries()].some(([name]) =>
        blkdebugDriver.telling.some(
          (telling) =>
            telling !== 'config' && (telling.endsWith('.') ? name.startsWith(telling) : name === telling),
        ),
      );
      const { exact: below } = image.identity;
      const exact = plain && below !== undefined ? `blkdebug:${config ?? ''}:${below}` : undefined;
      return { source: new BlkdebugStore(image.source, rules, { maxTransfer }), exact, children: { image } };
    } catch (error) {
      await image.source[Symbol.asyncDispose]();
      throw error;
    }
  },
};

/** `inject-error.0.event=…`: a rule for each number, in the order of their numbers. */
function rulesOf(reader: OptionReader, kind: 'inject-error' | 'set-state'): DebugRule[] {
  const group = reader.take(kind);
  const numbers = new Set([...group.entries()].map(([name]) => name.split('.')[0]));
  return [...numbers]
    .sort((a, b) => Number(a) - Number(b))
    .map((number) => {
      const member = group.child(number);
      const texts = [...member.entries()].map(
        ([name, value]) =>
          [name, typeof value === 'boolean' ? (value ? 'on' : 'off') : String(value)] as const,
      );
      return makeRule(kind, new Map(texts));
    });
}

/** Only `max-transfer` changes what is done: our requests need no alignment. */
function readLimits(reader: OptionReader): number | undefined {
  reader.take('take-child-perms');
  reader.take('unshare-child-perms');
  const align = reader.size('align') ?? 0;
  if (align >= 2 ** 31 || (align > 0 && !Number.isInteger(Math.log2(align)))) {
    throw nodeError('align', `Cannot meet constraints with align ${align}`);
  }
  for (const name of limits.slice(1)) {
    const limit = reader.size(name) ?? 0;
    if (limit >= 2 ** 31 || limit % Math.max(align, 1) !== 0) {
      throw nodeError(name, `Cannot meet constraints with ${name} ${limit}`);
    }
  }
  return reader.size('max-transfer');
}

function withWords(cause: unknown, config: string): unknown {
  const { detail } = (cause ?? {}) as { detail?: { errno?: unknown } };
  if (typeof detail?.errno !== 'string') return cause;
  return nodeError('config', 'Could not read blkdebug config file', 'not-found', {
    errno: detail.errno,
    config,
    wrapped: true,
  });
}
