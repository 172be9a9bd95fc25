import type { JsonValue } from '../../bytes/qemu-json.ts';
import type { DiskErrorCode } from '../../errors.ts';
import { DiskError } from '../../errors.ts';
import type { HttpOptions } from '../../storage/http.ts';
import type { ConnectStream, TlsClientCredentials } from '../../storage/nbd/stream.ts';
import type { ByteSource } from '../../storage/store.ts';
import type { ThrottleGroup } from '../../storage/throttle.ts';
import type { Image } from '../image.ts';
import type { NodeOptions } from './node-options.ts';
import type { OptionReader } from './option-reader.ts';

/** What a node is called: by a name that opens it again where there is one, else by its options. */
export interface NodeIdentity {
  /** QEMU's "exact filename". */
  readonly exact?: string;
  /** The options that matter, as `json:{…}` writes them. */
  readonly full: { readonly [key: string]: JsonValue | undefined };
}

/** The world as nodes see it: what only a face or a runtime can give. */
export interface NodeHost {
  /** Opens a host file (`device`: one that must be a device). */
  openFile(
    path: string,
    request: { readonly writable: boolean; readonly device: boolean },
  ): Promise<ByteSource>;
  /** For `http` and `https`. */
  readonly http?: HttpOptions;
  /** For `nbd`. */
  readonly connect?: ConnectStream;
  /** What `--object tls-creds-…` of that name holds, for the client's end. */
  tlsCredentials?(id: string): TlsClientCredentials | undefined;
  /** The object of that name, as `--object throttle-group` made it. */
  throttleGroup?(id: string): ThrottleGroup | undefined;
  secret?(id: string): Promise<Uint8Array>;
  /** Told of what is deprecated, in QEMU's words. */
  warn?(message: string): void;
}

/** A node that another one stands on, open. */
export interface OpenedChild {
  readonly driver: string;
  readonly source: ByteSource;
  /** Set where it is a disk image: `source` then shows its guest bytes. */
  readonly image?: Image;
  /** Its format stores packed grains. */
  readonly packs?: boolean;
  readonly identity: NodeIdentity;
}

/** What a driver gets to open a node. */
export interface NodeTools {
  readonly host: NodeHost;
  readonly writable: boolean;
  readonly reader: OptionReader;
  /** Opens the nested node `name`; `filename` is the name of its file where the node's own name gave one. */
  openChild(
    name: string,
    how?: { readonly filename?: string; readonly writable?: boolean },
  ): Promise<OpenedChild>;
  /** Reads a file of settings whole; `limit` bytes at most. */
  readText(path: string, limit: number): Promise<string>;
}

export interface OpenedStore {
  readonly source: ByteSource;
  /** A name that opens it again, where its options matter to nobody. */
  readonly exact?: string;
  /** Nested nodes by name. */
  readonly children?: Readonly<Record<string, OpenedChild>>;
}

/** A node that is a store of bytes and no format: a protocol, or a filter over another node. */
export interface NodeDriver {
  readonly name: string;
  /** A protocol may be named by a file name; a filter is chosen by name only. */
  readonly kind: 'protocol' | 'filter';
  /** What file names begin with, without the colon. */
  readonly prefixes?: readonly string[];
  /** Keeps the option `filename`, and must have one. */
  readonly needsFilename?: boolean;
  /** Makes options of a file name. */
  parseName?(name: string, options: NodeOptions): NodeOptions;
  /** Options that its identity names; one that ends in a dot is a prefix. */
  readonly telling: readonly string[];
  open(tools: NodeTools): Promise<OpenedStore>;
}

export function nodeError(
  field: string,
  message: string,
  code: DiskErrorCode = 'bad-argument',
  detail: Readonly<Record<string, string | number | boolean | undefined>> = {},
): DiskError {
  return new DiskError(code, message, { field, detail });
}
