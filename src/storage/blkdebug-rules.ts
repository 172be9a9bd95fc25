import { DiskError } from '../errors.ts';

/** Kinds of requests that a rule can be about. */
const ioTypes = ['read', 'write', 'write-zeroes', 'discard', 'flush', 'block-status'] as const;
export type IoType = (typeof ioTypes)[number];

/** QEMU's events (`BlkdebugEvent`). Those of `firedEvents` happen here as well; the others are known and never come. */
const debugEvents: readonly string[] = `l1_update l1_grow_alloc_table l1_grow_write_table
  l1_grow_activate_table l2_load l2_update l2_update_compressed l2_alloc_cow_read l2_alloc_write read_aio
  read_backing_aio read_compressed write_aio write_compressed vmstate_load vmstate_save cow_read cow_write
  reftable_load reftable_grow reftable_update refblock_load refblock_update refblock_update_part refblock_alloc
  refblock_alloc_hookup refblock_alloc_write refblock_alloc_write_blocks refblock_alloc_write_table
  refblock_alloc_switch_table cluster_alloc cluster_alloc_bytes cluster_free flush_to_os flush_to_disk
  pwritev_rmw_head pwritev_rmw_after_head pwritev_rmw_tail pwritev_rmw_after_tail pwritev pwritev_zero pwritev_done
  empty_image_prepare l1_shrink_write_table l1_shrink_free_l2_clusters cor_write cluster_alloc_space none`.split(
  /\s+/,
);

interface RuleBase {
  readonly event: string;
  /** Only while the node is in this state; 0: in any. */
  readonly state: number;
}

export interface InjectRule extends RuleBase {
  readonly kind: 'inject-error';
  /** The system's number of the error. */
  readonly errno: number;
  readonly types: readonly IoType[];
  /** Only requests that touch this byte. */
  readonly offset?: number;
  /** The rule is gone after its first error. */
  readonly once: boolean;
}

export interface StateRule extends RuleBase {
  readonly kind: 'set-state';
  readonly newState: number;
}

export type DebugRule = InjectRule | StateRule;

/** What a request without a type of its own is about: everything but questions. */
const byDefault: readonly IoType[] = ioTypes.filter((type) => type !== 'block-status');

/** The options of one rule, as texts. Throws `bad-argument` in QEMU's words. */
export function makeRule(kind: string, options: ReadonlyMap<string, string>): DebugRule {
  if (kind !== 'inject-error' && kind !== 'set-state') throw refusal(`There is no option group '${kind}'`);
  const known = ['event', 'state', ...(kind === 'set-state' ? ['new_state'] : injectOptions)];
  for (const name of options.keys()) {
    if (!known.includes(name)) throw refusal(`[${kind}] section doesn't support the option '${name}'`);
  }
  const state = number(options, 'state', 0);
  const errno = number(options, 'errno', 5);
  const newState = number(options, 'new_state', 0);
  const sector = number(options, 'sector', -1);
  const once = flag(options, 'once');
  flag(options, 'immediately');
  const event = options.get('event');
  if (event === undefined) throw refusal('Missing event name for rule');
  if (!debugEvents.includes(event)) throw refusal(`invalid parameter value: ${event}`);
  if (kind === 'set-state') return { kind, event, state, newState };
  const type = options.get('iotype');
  if (type !== undefined && !ioTypes.includes(type as IoType))
    throw refusal(`invalid parameter value: ${type}`);
  const types = type === undefined ? byDefault : [type as IoType];
  return { kind, event, state, errno, types, offset: sector < 0 ? undefined : sector * 512, once };
}

const injectOptions = ['errno', 'iotype', 'sector', 'once', 'immediately'];

function number(options: ReadonlyMap<string, string>, name: string, otherwise: number): number {
  const text = options.get(name);
  if (text === undefined) return otherwise;
  if (!/^-?(?:0[xX][0-9a-fA-F]+|[0-9]+)$/.test(text)) throw refusal(`Parameter '${name}' expects a number`);
  return text.startsWith('-') ? -Number(text.slice(1)) : Number(text);
}

function flag(options: ReadonlyMap<string, string>, name: string): boolean {
  const text = options.get(name) ?? 'off';
  if (['on', 'yes', 'true', 'y'].includes(text)) return true;
  if (['off', 'no', 'false', 'n'].includes(text)) return false;
  throw refusal(`Parameter '${name}' expects 'on' or 'off'`);
}

/** The rules of a configuration file: sections of `name = "value"` lines. Throws `bad-argument`. */
export function parseDebugConfig(text: string): DebugRule[] {
  const sections: { readonly kind: string; readonly options: Map<string, string> }[] = [];
  for (const line of text.split('\n')) {
    if (/^\s*(?:#.*)?$/.test(line)) continue;
    const header = /^\[([^\]"\s]+)(?:\s+"[^"]*")?\]/.exec(line);
    const assignment = /^\s*([^\s=]+)\s*=\s*"([^"]*)"/.exec(line);
    if (header) {
      if (header[1] !== 'inject-error' && header[1] !== 'set-state') {
        throw refusal(`There is no option group '${header[1]}'`);
      }
      sections.push({ kind: header[1], options: new Map() });
    } else if (assignment && sections.length > 0) sections.at(-1)!.options.set(assignment[1], assignment[2]);
    else throw refusal(assignment ? 'no group defined' : 'parse error');
  }
  return sections.map(({ kind, options }) => makeRule(kind, options));
}

function refusal(message: string): DiskError {
  return new DiskError('bad-argument', message, { field: 'blkdebug' });
}
