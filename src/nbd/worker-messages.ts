import type { ExportFacts, ExportRecipe } from './recipe.ts';
import type { ReplyMode } from './replies.ts';

/** A client that has agreed on everything, for a thread to serve. */
export interface ClientOrder {
  readonly exportName: string;
  readonly mode: ReplyMode;
  /** Numbers of contexts among the export's. */
  readonly contexts: readonly number[];
  /** Bytes that were read already. */
  readonly first: Uint8Array;
}

export type ToWorker =
  | { readonly kind: 'open'; readonly recipe: ExportRecipe; readonly again: boolean }
  | { readonly kind: 'serve'; readonly id: number; readonly fd: number; readonly client: ClientOrder }
  | { readonly kind: 'finish' };

export type FromWorker =
  /** `sent`: where its owner counts the messages that it has sent. */
  | { readonly kind: 'ready'; readonly wakeFd: number; readonly sent: Int32Array }
  | { readonly kind: 'opened'; readonly name: string; readonly facts: ExportFacts }
  | { readonly kind: 'failed'; readonly name: string; readonly message: string; readonly hint?: string }
  | { readonly kind: 'left'; readonly id: number }
  | { readonly kind: 'finished'; readonly failure?: string };
