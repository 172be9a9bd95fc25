import type { Context } from './contexts.ts';
import type { ServedDisk } from './disk.ts';
import type { ReplyMode } from './replies.ts';

/** What a client agreed on while haggling. */
export interface Session {
  readonly disk: ServedDisk;
  readonly mode: ReplyMode;
  readonly contexts: readonly { readonly id: number; readonly context: Context }[];
}
