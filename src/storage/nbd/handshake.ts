import { DiskError, isDiskError } from '../../errors.ts';
import { HandshakeReader } from './handshake-reader.ts';
import { readUint64 } from './headers.ts';
import {
  decodeInfoReply,
  decodeMetaContextReply,
  decodeOptionReply,
  decodeServerReply,
  encodeInfoRequest,
  encodeMetaContextRequest,
  encodeOption,
  viewOf,
} from './options.ts';
import {
  ClientFlag,
  defaultMaxPayload,
  HandshakeFlag,
  HeaderBytes,
  Info,
  Magic,
  maxStringBytes,
  Option,
  OptionReply,
  TransmissionFlag,
} from './protocol.ts';
import type { ByteStream, ClientSecurity } from './stream.ts';

/* The client's side of the handshake (section "Newstyle negotiation"). Errors are worded as QEMU words them. */

/** What a server says of an export. */
export interface ExportInfo {
  readonly name: string;
  /** Bytes. */
  readonly size: number;
  readonly flags: number;
  /** Bytes; undefined: the server did not say. */
  readonly blocks?: { readonly minimum: number; readonly preferred: number; readonly maximum: number };
  readonly description?: string;
  /** Replies to reads come in chunks. */
  readonly structured: boolean;
  /** The number of the context that was asked for, where the server has it. */
  readonly contextId?: number;
}

/** Magic of the old handshake without options, in its halves. */
const oldMagic = { high: 0x00004202, low: 0x81861253 } as const;

/** Replies of one kind that one option may bring. */
const mostReplies = 100_000;
/** A maximum of the payload that is none. */
const unlimited = 0xffff_ffff;
/** Longest reply that has a sense: a name and a description. */
const longestReply = 2 * maxStringBytes + 64;

const optionNames: Readonly<Record<number, string>> = {
  [Option.exportName]: 'export name',
  [Option.abort]: 'abort',
  [Option.list]: 'list',
  [Option.startTls]: 'starttls',
  [Option.info]: 'info',
  [Option.go]: 'go',
  [Option.structuredReply]: 'structured reply',
  [Option.listMetaContext]: 'list meta context',
  [Option.setMetaContext]: 'set meta context',
};

function hungUp(cause: DiskError): DiskError {
  const message =
    'The NBD server has gone right after the TLS handshake: it may not let in who this client says it is; the server knows why';
  return new DiskError('io', message, { detail: cause.detail, cause });
}

interface Reply {
  readonly type: number;
  readonly data: Uint8Array;
}

/**
 * Talks over options until an export is chosen, or as long as the caller wishes. Each throws DiskError: `corrupt` for what
 * is no NBD, `denied`, `not-found` and `unsupported` for refusals, `io` where the server goes.
 */
export class Handshake {
  readonly #reader: HandshakeReader;
  readonly #stream: ByteStream;
  #fixed = false;
  #noZeroes = false;
  /** Of the old handshake, which has one export and no options. */
  #old: ExportInfo | undefined;
  #structured = false;

  constructor(stream: ByteStream) {
    this.#stream = stream;
    this.#reader = new HandshakeReader(stream);
  }

  /** Reads the greeting and goes over to TLS where that is wanted. */
  async begin(security?: ClientSecurity): Promise<void> {
    const head = viewOf(await this.#reader.read(16));
    if (head.getUint32(0) !== Magic.initHigh || head.getUint32(4) !== Magic.initLow) {
      throw bad('Bad initial magic received', 'magic');
    }
    if (head.getUint32(8) === oldMagic.high && head.getUint32(12) === oldMagic.low) {
      if (security) throw refused('Server does not support STARTTLS');
      const facts = viewOf(await this.#reader.read(12 + HeaderBytes.exportNamePadding));
      this.#old = { name: '', size: readUint64(facts, 0), flags: facts.getUint16(10), structured: false };
      return;
    }
    if (head.getUint32(8) !== Magic.optionHigh || head.getUint32(12) !== Magic.optionLow) {
      throw bad('Bad server magic received', 'magic');
    }
    const flags = viewOf(await this.#reader.read(2)).getUint16(0);
    this.#fixed = (flags & HandshakeFlag.fixedNewstyle) !== 0;
    this.#noZeroes = (flags & HandshakeFlag.noZeroes) !== 0;
    const answer = new Uint8Array(HeaderBytes.clientFlags);
    viewOf(answer).setUint32(
      0,
      (this.#fixed ? ClientFlag.fixedNewstyle : 0) | (this.#noZeroes ? ClientFlag.noZeroes : 0),
    );
    this.#stream.send(answer);
    if (security) await this.#startTls(security);
    if (!this.#fixed) return;
    try {
      this.#structured = await this.#allowed(Option.structuredReply);
    } catch (error) {
      // With TLS 1.3, a client is through its handshake before the server has seen who it is.
      if (security && isDiskError(error, 'io') && error.detail.gone) throw hungUp(error);
      throw error;
    }
  }

  /** Chooses the export `name`; `context` is what block status shall be about. */
  async go(name: string, context: string): Promise<ExportInfo> {
    if (this.#old) {
      if (name !== '') throw refused('Server does not support non-empty export names');
      return checked(this.#old);
    }
    const contextId = this.#structured ? await this.#setContext(name, context) : undefined;
    const found = this.#fixed ? await this.#info(Option.go, name) : undefined;
    if (found) return checked({ ...found, contextId });
    return checked({ ...(await this.#exportName(name)), contextId });
  }

  /** Bytes that came with the handshake's last ones. */
  rest(): Uint8Array {
    return this.#reader.rest();
  }

  /** All exports, by name. Throws `unsupported` for the old handshake. */
  async list(): Promise<readonly { readonly name: string; readonly description: string }[]> {
    if (!this.#fixed) throw refused('Server does not support export lists');
    this.#send(Option.list);
    const found: { name: string; description: string }[] = [];
    for (;;) {
      const reply = await this.#reply(Option.list);
      if (reply.type === OptionReply.ack) return found;
      if (reply.type === OptionReply.errUnsupported) throw refused('Server does not support export lists');
      this.#expect(reply, Option.list, OptionReply.server);
      found.push(decodeServerReply(reply.data));
      if (found.length > mostReplies) throw bad('More exports than can be', 'list');
    }
  }

  /** What the server says of an export without choosing it; undefined where it cannot. */
  info(name: string): Promise<ExportInfo | undefined> {
    return this.#info(Option.info, name);
  }

  /** Names of the contexts that an export has. */
  async contexts(name: string): Promise<readonly string[]> {
    if (!this.#structured) return [];
    return (await this.#contexts(Option.listMetaContext, name, [])).map((context) => context.name);
  }

  /** Takes leave. */
  abort(): void {
    if (this.#fixed) this.#send(Option.abort);
    this.#stream.end();
  }

  async #startTls(security: ClientSecurity): Promise<void> {
    if (!this.#fixed) throw refused('Server does not support STARTTLS');
    if (!(await this.#simple(Option.startTls))) throw refused("Server doesn't support STARTTLS option");
    // What came in clear after the answer could be anybody's.
    if (this.#reader.rest().length > 0)
      throw bad('The server sent data between STARTTLS and TLS', 'starttls');
    await this.#stream.secure(security);
  }

  /** An option that is answered by ACK; false: the server has none. */
  async #simple(option: number): Promise<boolean> {
    this.#send(option);
    const reply = await this.#reply(option);
    if (reply.type === OptionReply.errUnsupported) return false;
    this.#expect(reply, option, OptionReply.ack);
    return true;
  }

  /** The same, for an option that one can do without: what a server has against it, it says better elsewhere. */
  async #allowed(option: number): Promise<boolean> {
    this.#send(option);
    const { type } = await this.#reply(option);
    if (type < OptionReply.errUnsupported && type !== OptionReply.ack) {
      throw bad(`Unexpected reply type ${type} (expected ${OptionReply.ack})`, 'reply type');
    }
    return type === OptionReply.ack;
  }

  async #setContext(name: string, context: string): Promise<number | undefined> {
    const found = await this.#contexts(Option.setMetaContext, name, [context]);
    return found.find((one) => one.name === context)?.id;
  }

  async #contexts(option: number, name: string, queries: readonly string[]) {
    this.#send(option, encodeMetaContextRequest({ name, queries }));
    const found: { readonly id: number; readonly name: string }[] = [];
    for (;;) {
      const reply = await this.#reply(option);
      if (reply.type === OptionReply.ack) return found;
      // Servers differ in what they say where they have none, or no such export, which GO will say better.
      if (reply.type === OptionReply.errUnsupported || reply.type === OptionReply.errUnknown) return [];
      this.#expect(reply, option, OptionReply.metaContext);
      found.push(decodeMetaContextReply(reply.data));
      if (found.length > mostReplies) throw bad('More contexts than can be', 'set meta context');
    }
  }

  async #info(option: number, name: string): Promise<ExportInfo | undefined> {
    this.#send(option, encodeInfoRequest({ name, infos: [Info.blockSize, Info.description] }));
    let main: { readonly size: number; readonly flags: number } | undefined;
    let blocks: ExportInfo['blocks'];
    let description: string | undefined;
    for (let count = 0; ; count++) {
      const reply = await this.#reply(option);
      if (reply.type === OptionReply.errUnsupported) return undefined;
      if (reply.type === OptionReply.ack) break;
      this.#expect(reply, option, OptionReply.info);
      if (count > mostReplies) throw bad('More information than can be', 'info');
      const info = decodeInfoReply(reply.data);
      if (info?.type === Info.export) main = info;
      else if (info?.type === Info.blockSize) blocks = info;
      else if (info?.type === Info.description) description = info.text;
    }
    if (!main) throw bad('broken server omitted NBD_INFO_EXPORT', 'info');
    const { size, flags } = main;
    return { name, size, flags, blocks, description, structured: this.#structured };
  }

  async #exportName(name: string): Promise<ExportInfo> {
    this.#send(Option.exportName, new TextEncoder().encode(name));
    const padding = this.#noZeroes ? 0 : HeaderBytes.exportNamePadding;
    const facts = viewOf(await this.#reader.read(HeaderBytes.exportName + padding));
    return {
      name,
      size: readUint64(facts, 0),
      flags: facts.getUint16(8),
      structured: this.#structured,
    };
  }

  #send(option: number, data?: Uint8Array): void {
    this.#stream.send(encodeOption(option, data));
  }

  async #reply(option: number): Promise<Reply> {
    const header = decodeOptionReply(await this.#reader.read(HeaderBytes.optionReply));
    if (!header) throw bad('Unexpected option reply magic', 'reply magic');
    if (header.option !== option) {
      throw bad(`Unexpected option type ${header.option}, expected ${option}`, 'reply option');
    }
    if (header.length > longestReply) {
      throw bad(`option reply ${header.type} is too long (${header.length})`, 'reply length');
    }
    return { type: header.type, data: await this.#reader.read(header.length) };
  }

  #expect({ type, data }: Reply, option: number, wanted: number): void {
    if (type === wanted) return;
    if (type >= OptionReply.errUnsupported) throw refusal(type, option, data);
    throw bad(`Unexpected reply type ${type} (expected ${wanted})`, 'reply type');
  }
}

/** Sizes that hang together. Throws `corrupt`. */
function checked(info: ExportInfo): ExportInfo {
  const { size, blocks } = info;
  if (!Number.isSafeInteger(size)) throw bad('export size is too large', 'size');
  if (!blocks) return info;
  const { minimum, maximum } = blocks;
  if (minimum === 0 || !isPowerOfTwo(minimum) || minimum > 65536) {
    throw bad(`server minimum block size ${minimum} is not a power of two`, 'minimum block size');
  }
  if (maximum < minimum || (maximum !== unlimited && maximum % minimum !== 0)) {
    throw bad(`server maximum block size ${maximum} is not valid`, 'maximum block size');
  }
  if (size % minimum !== 0) {
    throw bad(`export size ${size} is not multiple of minimum block size ${minimum}`, 'size');
  }
  return info;
}

function isPowerOfTwo(value: number): boolean {
  return Number.isInteger(Math.log2(value));
}

/** Bytes per request: what the server asks for where it does, else what QEMU assumes. */
export function limitsOf({ size, flags, blocks }: ExportInfo): {
  readonly minimum: number;
  readonly maximum: number;
} {
  if (blocks) return { minimum: blocks.minimum, maximum: Math.min(blocks.maximum, defaultMaxPayload) };
  const speaks = (flags & TransmissionFlag.hasFlags) !== 0 && size % 512 === 0;
  return { minimum: speaks ? 512 : 1, maximum: defaultMaxPayload };
}

function bad(message: string, field: string): DiskError {
  return new DiskError('corrupt', message, { field });
}

function refused(message: string): DiskError {
  return new DiskError('unsupported', message, { field: 'nbd' });
}

function refusal(type: number, option: number, data: Uint8Array): DiskError {
  const said = data.length > 0 ? `server reported: ${new TextDecoder().decode(data)}\n` : '';
  const about = `option ${option} (${optionNames[option] ?? '<unknown>'})`;
  const make = (code: 'denied' | 'not-found' | 'unsupported' | 'io', message: string, hint = '') =>
    new DiskError(code, message, { field: 'nbd', detail: { hint: hint + said } });
  switch (type) {
    case OptionReply.errPolicy:
      return make('denied', `Denied by server for ${about}`);
    case OptionReply.errInvalid:
      return make('unsupported', `Invalid parameters for ${about}`);
    case OptionReply.errPlatform:
      return make('unsupported', `Server lacks support for ${about}`);
    case OptionReply.errTlsRequired:
      return make(
        'denied',
        `TLS negotiation required before ${about}`,
        'Did you forget a valid tls-creds?\n',
      );
    case OptionReply.errUnknown:
      return make('not-found', 'Requested export not available');
    case OptionReply.errShutdown:
      return make('io', `Server shutting down before ${about}`);
    case OptionReply.errBlockSizeRequired:
      return make('unsupported', `Server requires INFO_BLOCK_SIZE for ${about}`);
    case OptionReply.errUnsupported:
      return make('unsupported', `Server does not know ${about}`);
    default:
      return make('unsupported', `Unknown error code when asking for ${about}`);
  }
}
