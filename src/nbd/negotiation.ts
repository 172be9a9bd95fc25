import type { Duplex } from 'node:stream';
import { textOf } from '../bytes/byte-text.ts';
import { isDiskError } from '../errors.ts';
import { writeUint64 } from '../storage/nbd/headers.ts';
import {
  decodeInfoRequest,
  decodeMetaContextRequest,
  decodeOption,
  encodeInfoReply,
  encodeMetaContextReply,
  encodeOptionReply,
  encodeServerReply,
  viewOf,
} from '../storage/nbd/options.ts';
import {
  ClientFlag,
  defaultMaxPayload,
  HandshakeFlag,
  HeaderBytes,
  Info,
  Magic,
  MetaContext,
  maxStringBytes,
  Option,
  OptionReply,
  TransmissionFlag,
} from '../storage/nbd/protocol.ts';
import type { ReplyMode } from './replies.ts';
import { StreamEnded, StreamReader } from './stream-reader.ts';
import type { ClientOrder } from './worker-messages.ts';

/** An export as clients see it while haggling. */
export interface NegotiableExport {
  readonly name: string;
  readonly description?: string;
  readonly size: number;
  /** Transmission flags, without SEND_DF. */
  readonly flags: number;
  readonly contexts: readonly string[];
}

export interface NegotiationOptions {
  /** The export of that name. */
  find(name: string): NegotiableExport | undefined;
  list(): Iterable<NegotiableExport>;
  /** Present: nothing but STARTTLS is answered before it. Resolves to the encrypted stream, or rejects. */
  readonly startTls?: (stream: Duplex) => Promise<Duplex>;
  /** Told what `startTls` rejected with. */
  readonly onRefused?: (error: unknown) => void;
}

/** What haggling ended in. */
export interface Negotiated extends ClientOrder {
  /** The client's stream; the encrypted one after STARTTLS. */
  readonly stream: Duplex;
}

/** The largest data of an option that is looked at; more is passed over, up to the next limit. */
const mostOptionBytes = 64 * 1024;
const mostSkippedBytes = 1024 * 1024;
/** Options that one client may send. */
const mostOptions = 10_000;
/** Block sizes that are announced. */
const preferredBlock = 4096;

/**
 * The handshake and option haggling of one client (sections "Fixed newstyle" and "Option haggling"). Resolves when the
 * transmission phase begins, and to undefined where the client has left or was sent away. It is on the caller to limit
 * the time.
 */
export async function negotiate(
  stream: Duplex,
  options: NegotiationOptions,
): Promise<Negotiated | undefined> {
  try {
    return await new Negotiation(stream, options).run();
  } catch (error) {
    if (error instanceof StreamEnded) return undefined;
    throw error;
  }
}

class Negotiation {
  readonly #options: NegotiationOptions;
  #reader: StreamReader;
  #encrypted = false;
  #noZeroes = false;
  #mode: ReplyMode = 'simple';
  /** Contexts that were chosen, and for which export. */
  #contexts: { readonly name: string; readonly ids: readonly number[] } | undefined;

  constructor(stream: Duplex, options: NegotiationOptions) {
    this.#reader = new StreamReader(stream);
    this.#options = options;
  }

  async run(): Promise<Negotiated | undefined> {
    const greeting = new Uint8Array(HeaderBytes.greeting);
    const view = viewOf(greeting);
    view.setUint32(0, Magic.initHigh);
    view.setUint32(4, Magic.initLow);
    view.setUint32(8, Magic.optionHigh);
    view.setUint32(12, Magic.optionLow);
    view.setUint16(16, HandshakeFlag.fixedNewstyle | HandshakeFlag.noZeroes);
    await this.#reader.write(greeting);
    const flags = viewOf(await this.#reader.read(HeaderBytes.clientFlags)).getUint32(0);
    const known = ClientFlag.fixedNewstyle | ClientFlag.noZeroes;
    if ((flags & ~known) !== 0) return undefined;
    const fixed = (flags & ClientFlag.fixedNewstyle) !== 0;
    this.#noZeroes = (flags & ClientFlag.noZeroes) !== 0;
    for (let count = 0; count < mostOptions; count++) {
      const header = decodeOption(await this.#reader.read(HeaderBytes.option));
      if (!header) return undefined;
      const { option, length } = header;
      // Of a client that did not say that it can be answered, nothing else is understood.
      if (!fixed && option !== Option.exportName) return undefined;
      if (length > mostOptionBytes) {
        if (option === Option.exportName || length > mostSkippedBytes) return undefined;
        await this.#reader.skip(length);
        await this.#reply(option, OptionReply.errTooBig, 'That is too long');
        continue;
      }
      const data = await this.#reader.read(length);
      const ended = await this.#take(option, data);
      if (ended === 'left') return undefined;
      if (ended !== 'on') return ended;
    }
    return undefined;
  }

  async #take(option: number, data: Uint8Array): Promise<Negotiated | 'on' | 'left'> {
    if (option === Option.abort) {
      await this.#reply(option, OptionReply.ack);
      return 'left';
    }
    if (this.#options.startTls && !this.#encrypted && option !== Option.startTls) {
      // It cannot be told, as that option has no errors.
      if (option === Option.exportName) return 'left';
      await this.#reply(
        option,
        OptionReply.errTlsRequired,
        `Option 0x${option.toString(16)} not permitted before TLS`,
      );
      return 'on';
    }
    try {
      switch (option) {
        case Option.exportName:
          return (await this.#exportName(data)) ?? 'left';
        case Option.go:
        case Option.info:
          return (await this.#info(option, data)) ?? 'on';
        case Option.list:
          await this.#list(data);
          return 'on';
        case Option.startTls:
          return await this.#startTls(data);
        case Option.structuredReply:
        case Option.extendedHeaders:
          await this.#upgrade(option, data);
          return 'on';
        case Option.listMetaContext:
        case Option.setMetaContext:
          await this.#metaContext(option, data);
          return 'on';
        default:
          await this.#reply(option, OptionReply.errUnsupported, `Option ${option} is not known here`);
          return 'on';
      }
    } catch (error) {
      if (!isDiskError(error, 'corrupt')) throw error;
      await this.#reply(option, OptionReply.errInvalid, error.message);
      return 'on';
    }
  }

  async #exportName(data: Uint8Array): Promise<Negotiated | undefined> {
    if (data.length > maxStringBytes) return undefined;
    const found = this.#options.find(textOf(data));
    if (!found) return undefined;
    const bytes = new Uint8Array(
      HeaderBytes.exportName + (this.#noZeroes ? 0 : HeaderBytes.exportNamePadding),
    );
    const view = viewOf(bytes);
    writeUint64(view, 0, found.size);
    view.setUint16(8, this.#flagsOf(found));
    await this.#reader.write(bytes);
    return this.#done(found);
  }

  async #info(option: number, data: Uint8Array): Promise<Negotiated | undefined> {
    const { name, infos } = decodeInfoRequest(data);
    const found = this.#options.find(name);
    if (!found) {
      await this.#reply(option, OptionReply.errUnknown, `export '${shortened(name)}' not present`);
      return undefined;
    }
    const replies: Uint8Array[] = [];
    const tell = (info: Parameters<typeof encodeInfoReply>[0]) =>
      replies.push(encodeOptionReply(option, OptionReply.info, encodeInfoReply(info)));
    if (infos.includes(Info.name)) tell({ type: Info.name, text: found.name });
    // QEMU tells it unasked: clients that list exports count on it.
    if (infos.includes(Info.description) || (found.description ?? '') !== '') {
      tell({ type: Info.description, text: found.description ?? '' });
    }
    tell({ type: Info.blockSize, minimum: 1, preferred: preferredBlock, maximum: defaultMaxPayload });
    tell({ type: Info.export, size: found.size, flags: this.#flagsOf(found) });
    replies.push(encodeOptionReply(option, OptionReply.ack));
    // In one piece, which wakes the client once.
    await this.#reader.write(Buffer.concat(replies));
    return option === Option.go ? this.#done(found) : undefined;
  }

  async #list(data: Uint8Array): Promise<void> {
    if (data.length > 0) return this.#reply(Option.list, OptionReply.errInvalid, 'LIST has no data');
    for (const { name, description } of this.#options.list()) {
      const reply = encodeServerReply(name, description);
      await this.#reader.write(encodeOptionReply(Option.list, OptionReply.server, reply));
    }
    await this.#reply(Option.list, OptionReply.ack);
  }

  async #startTls(data: Uint8Array): Promise<'on' | 'left'> {
    const { startTls } = this.#options;
    if (data.length > 0) {
      await this.#reply(Option.startTls, OptionReply.errInvalid, 'STARTTLS has no data');
      return 'on';
    }
    if (!startTls) {
      await this.#reply(Option.startTls, OptionReply.errPolicy, 'TLS not configured');
      return 'on';
    }
    if (this.#encrypted) {
      await this.#reply(Option.startTls, OptionReply.errInvalid, 'TLS already enabled');
      return 'on';
    }
    // Somebody in between may have put plain words after it, to be taken for encrypted ones.
    if (this.#reader.stream.readableLength > 0) return 'left';
    await this.#reply(Option.startTls, OptionReply.ack);
    const plain = this.#reader.stream;
    if (this.#reader.release().length > 0) return 'left';
    let secured: Duplex;
    try {
      secured = await startTls(plain);
    } catch (error) {
      this.#options.onRefused?.(error);
      return 'left';
    }
    this.#reader = new StreamReader(secured);
    this.#encrypted = true;
    this.#mode = 'simple';
    this.#contexts = undefined;
    return 'on';
  }

  async #upgrade(option: number, data: Uint8Array): Promise<void> {
    if (data.length > 0) return this.#reply(option, OptionReply.errInvalid, 'The option has no data');
    const extended = option === Option.extendedHeaders;
    if (this.#mode === 'extended' || (!extended && this.#mode === 'structured')) {
      const which = extended || this.#mode === 'extended' ? 'extended headers' : 'structured reply';
      const type =
        !extended && this.#mode === 'extended'
          ? OptionReply.errExtendedHeadersRequired
          : OptionReply.errInvalid;
      return this.#reply(option, type, `${which} already negotiated`);
    }
    this.#mode = extended ? 'extended' : 'structured';
    await this.#reply(option, OptionReply.ack);
  }

  async #metaContext(option: number, data: Uint8Array): Promise<void> {
    const choosing = option === Option.setMetaContext;
    if (choosing) this.#contexts = undefined;
    if (this.#mode === 'simple') {
      return this.#reply(
        option,
        OptionReply.errInvalid,
        'request option when structured reply is not negotiated',
      );
    }
    const { name, queries } = decodeMetaContextRequest(data);
    const found = this.#options.find(name);
    if (!found) return this.#reply(option, OptionReply.errUnknown, `export '${shortened(name)}' not present`);
    const ids = found.contexts.flatMap((context, id) => {
      const all = !choosing && queries.length === 0;
      return all || queries.some((query) => matches(query, context, choosing)) ? [id] : [];
    });
    for (const id of ids) {
      // In a list, numbers mean nothing.
      const reply = encodeMetaContextReply(choosing ? id : 0, found.contexts[id]);
      await this.#reader.write(encodeOptionReply(option, OptionReply.metaContext, reply));
    }
    if (choosing) this.#contexts = { name, ids };
    await this.#reply(option, OptionReply.ack);
  }

  #flagsOf({ flags }: NegotiableExport): number {
    return this.#mode === 'simple' ? flags : flags | TransmissionFlag.sendDf;
  }

  #done({ name }: NegotiableExport): Negotiated {
    const contexts = this.#contexts?.name === name ? this.#contexts.ids : [];
    const { stream } = this.#reader;
    return { exportName: name, mode: this.#mode, contexts, stream, first: this.#reader.release() };
  }

  async #reply(option: number, type: number, text = ''): Promise<void> {
    await this.#reader.write(encodeOptionReply(option, type, new TextEncoder().encode(text)));
  }
}

/** Whether a query means the context; `base:` and `qemu:` and the like stand for all of theirs in a list. */
function matches(query: string, context: string, choosing: boolean): boolean {
  if (query === context) return true;
  if (choosing) return false;
  return (
    (query.endsWith(':') && context.startsWith(query)) || (query === 'qemu:dirty-bitmap' && isBitmap(context))
  );
}

function isBitmap(context: string): boolean {
  return context.startsWith(MetaContext.dirtyBitmapPrefix);
}

function shortened(name: string): string {
  return name.length > 80 ? `${name.slice(0, 80)}...` : name;
}
