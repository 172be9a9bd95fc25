import { DiskError, type DiskErrorCode } from '../errors.ts';
import { errnoTable } from '../platform/errno-table.ts';
import type { DebugRule, InjectRule, IoType } from './blkdebug-rules.ts';
import { FilterStore } from './filter-store.ts';
import type { ByteSource, Extent } from './store.ts';

/**
 * QEMU's `blkdebug`: injects errors by rules. An event arms the rules that wait for it; an armed rule fails each
 * request that it is about until another event arms others. Rules about the event `none` are armed from the start.
 */
export class BlkdebugStore extends FilterStore {
  /** The rule that was added last is looked at first, as QEMU does. */
  #rules: readonly DebugRule[];
  #armed: InjectRule[] = [];
  #state = 1;
  readonly #maxTransfer: number;

  constructor(
    inner: ByteSource,
    rules: readonly DebugRule[],
    options: { readonly name?: string; readonly maxTransfer?: number } = {},
  ) {
    super(inner, options.name);
    this.#rules = [...rules].reverse();
    this.#maxTransfer = options.maxTransfer || Number.POSITIVE_INFINITY;
    this.debugEvent('none');
  }

  /** Unknown: the errors may come at any byte of it. */
  override async allocated(): Promise<undefined> {
    return undefined;
  }

  override debugEvent(event: string): void {
    let injected = false;
    let state = this.#state;
    for (const rule of this.#rules) {
      if (rule.event !== event || (rule.state !== 0 && rule.state !== this.#state)) continue;
      if (rule.kind === 'set-state') state = rule.newState;
      else {
        if (!injected) this.#armed = [];
        injected = true;
        this.#armed.unshift(rule);
      }
    }
    this.#state = state;
    super.debugEvent(event);
  }

  override async read(at: number, into: Uint8Array): Promise<void> {
    this.#fail('read', at, into.length);
    for (let done = 0; done < into.length; done += this.#maxTransfer) {
      await super.read(at + done, into.subarray(done, done + this.#maxTransfer));
    }
  }

  override async write(at: number, from: Uint8Array): Promise<void> {
    this.debugEvent('pwritev');
    this.#fail('write', at, from.length);
    for (let done = 0; done < from.length; done += this.#maxTransfer) {
      await super.write(at + done, from.subarray(done, done + this.#maxTransfer));
    }
    this.debugEvent('pwritev_done');
  }

  override async zero(at: number, length: number, options?: { readonly punch?: boolean }): Promise<void> {
    this.debugEvent('pwritev_zero');
    this.#fail(options?.punch === false ? 'write-zeroes' : 'discard', at, length);
    await super.zero(at, length, options);
    this.debugEvent('pwritev_done');
  }

  override async flush(): Promise<void> {
    this.debugEvent('flush_to_os');
    this.debugEvent('flush_to_disk');
    this.#fail('flush', 0, 0);
    await super.flush();
  }

  override async extent(at: number): Promise<Extent> {
    this.#fail('block-status', at, 1);
    return super.extent(at);
  }

  #fail(type: IoType, at: number, length: number): void {
    const rule = this.#armed.find(
      ({ types, offset }) =>
        types.includes(type) && (offset === undefined || (at <= offset && offset < at + length)),
    );
    if (!rule || rule.errno === 0) return;
    if (rule.once) {
      this.#armed = this.#armed.filter((armed) => armed !== rule);
      this.#rules = this.#rules.filter((known) => known !== rule);
    }
    const [, errno, text] = errnoTable.find(([number]) => number === rule.errno) ?? [
      0,
      'EIO',
      'Input/output error',
    ];
    const codes: Readonly<Record<string, DiskErrorCode>> = { ENOSPC: 'out-of-space', EACCES: 'denied' };
    throw new DiskError(codes[errno] ?? 'io', text, {
      path: this.name,
      offset: type === 'flush' ? undefined : at,
      detail: { errno, injected: true },
    });
  }
}
