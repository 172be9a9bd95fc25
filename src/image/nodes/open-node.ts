import { compactJson, qdictOrder } from '../../bytes/qemu-json.ts';
import { DiskError } from '../../errors.ts';
import type { FormatDriver } from '../../formats/driver.ts';
import { formats } from '../../formats/index.ts';
import { FilterStore } from '../../storage/filter-store.ts';
import { type RequestPolicy, RequestPolicyStore } from '../../storage/request-policy.ts';
import type { ByteSource } from '../../storage/store.ts';
import { windowedSource } from '../../storage/window.ts';
import { ImageStore } from '../image-store.ts';
import { type OpenImageOptions, openImage, type PreparedNode } from '../open.ts';
import { protocolOf } from '../reference.ts';
import { isAbsentDriver, isAbsentProtocol, nodeDrivers } from './drivers/index.ts';
import { parseJsonName } from './json-dialect.ts';
import {
  type NodeDriver,
  type NodeHost,
  type NodeIdentity,
  nodeError,
  type OpenedChild,
} from './node-driver.ts';
import { NodeOptions, type NodeValue } from './node-options.ts';
import { OptionReader } from './option-reader.ts';
import { plainFormat } from './plain-format.ts';

/** Nodes deeper than this are no description but an attack on the stack. */
const deepestNode = 64;
/** Characters of a node's name. */
const longestNodeName = 31;

export interface NodeContext {
  readonly host: NodeHost;
  readonly writable: boolean;
  /** The verb gives space up that it has no more need of (QEMU's `discard=unmap` where no option says otherwise). */
  readonly discards?: boolean;
  /** How disk images that are the `file` of another node are opened; `resolve` comes with it. */
  readonly imageOptions: OpenImageOptions;
}

/** What is to be opened: a file name as QEMU takes it, options, or both. */
export interface NodeRequest {
  readonly filename?: string;
  readonly options?: NodeOptions;
  /** Without a driver among the options: a store and no format (a data file). */
  readonly asProtocol?: boolean;
}

/**
 * Opens a node as far as its storage: the description is understood (file names, `json:{…}`, nested nodes) as QEMU's
 * block layer does, and all stores are open. What is left, opening the format, is `openImage`'s part.
 *
 * Throws `bad-argument` and `unsupported` in QEMU's words, and what opening files throws.
 */
export function prepareNode(request: NodeRequest, context: NodeContext): Promise<PreparedNode> {
  return new NodeOpener(context).prepare(request, 0, context.writable);
}

class NodeOpener {
  readonly #context: NodeContext;
  readonly #names = new Set<string>();

  constructor(context: NodeContext) {
    this.#context = context;
  }

  async prepare(request: NodeRequest, depth: number, writable: boolean): Promise<PreparedNode & Described> {
    if (depth > deepestNode) throw nodeError('file', `Nodes are nested more than ${deepestNode} deep`);
    let { filename, options = NodeOptions.none } = request;
    if (filename?.startsWith('json:')) {
      options = options.or(parseJsonName(filename.slice('json:'.length)));
      filename = undefined;
    }
    const { host } = this.#context;
    const wanted = options.text('driver');
    const found = wanted === undefined ? undefined : this.#find(wanted);
    let driver = found && 'kind' in found ? found : undefined;
    const format = driver ? undefined : (found as FormatDriver | undefined);
    const protocol = driver
      ? driver.kind === 'protocol'
      : format === undefined && request.asProtocol === true;
    if (protocol) [driver, options] = nameDriver(driver, filename, options);
    const reader = new OptionReader(options);
    reader.skip('driver');
    const backing = this.#readBacking(reader, options);
    const requests = this.#readCommon(reader, options, depth);
    const readOnly = reader.boolean('read-only');
    if (readOnly && writable) {
      throw nodeError('read-only', 'Block node is read-only', 'read-only');
    }
    if (writable && isOn(options.get('force-share'))) {
      throw nodeError('force-share', 'force-share=on can only be used with read-only images');
    }
    if (driver) return this.#prepareStore(driver, reader, depth, writable, host, requests);
    return this.#prepareFormat(format, filename, reader, backing, depth, writable, requests);
  }

  /** A protocol or a filter: as an image of its own it is one of plain bytes. */
  async #prepareStore(
    driver: NodeDriver,
    reader: OptionReader,
    depth: number,
    writable: boolean,
    host: NodeHost,
    requests: RequestPolicy | undefined,
  ): Promise<PreparedNode & Described> {
    const opened = await driver.open({
      host,
      writable,
      reader,
      openChild: (name, how = {}) =>
        this.#openChild(
          name,
          reader,
          depth,
          how.writable ?? writable,
          how.filename,
          driver.kind === 'filter',
        ),
      readText: (path, limit) => readText(host, path, limit),
    });
    if (reader.unread !== undefined) {
      await opened.source[Symbol.asyncDispose]();
      throw unknownOption(driver.kind === 'protocol', driver.name, reader.unread);
    }
    const identity: NodeIdentity = {
      exact: opened.exact,
      full: {
        driver: driver.name,
        ...tellingOf(driver.telling, reader.options),
        ...Object.fromEntries(
          Object.entries(opened.children ?? {}).map(([name, child]) => [name, child.identity.full]),
        ),
      },
    };
    const filename = nameOf(identity);
    if (driver.kind === 'protocol' && opened.source instanceof FilterStore) opened.source.name = filename;
    const child = Object.values(opened.children ?? {})[0];
    return {
      source: requests && writable ? new RequestPolicyStore(opened.source, requests) : opened.source,
      driver: plainFormat(driver.name),
      filtered: driver.kind === 'filter' ? child?.image : undefined,
      locks: locksOf(reader.options, 'locking'),
      identity,
      filename,
      isProtocol: driver.kind === 'protocol',
    };
  }

  async #prepareFormat(
    format: FormatDriver | undefined,
    filename: string | undefined,
    reader: OptionReader,
    backing: PreparedNode['backing'],
    depth: number,
    writable: boolean,
    requests: RequestPolicy | undefined,
  ): Promise<PreparedNode & Described> {
    const { options } = reader;
    const hasFile = filename !== undefined || options.has('file') || options.child('file').size > 0;
    if (!format && !hasFile) throw nodeError('driver', 'Must specify either driver or file');
    const file = await this.#openChild('file', reader, depth, writable, filename);
    const identityOf = (name: string, telling: readonly string[]): NodeIdentity => {
      const own = tellingOf(telling, options);
      const plain = Object.keys(own).length === 0 && file.isProtocol && !header;
      return {
        exact: plain ? file.identity.exact : undefined,
        full: {
          driver: name,
          ...own,
          file: file.identity.full,
          ...(header && { header: header.identity.full }),
        },
      };
    };
    let { source } = file;
    let header: OpenedChild | undefined;
    let known: Record<string, unknown> | undefined;
    try {
      if (format?.detachable && (options.has('header') || options.child('header').size > 0)) {
        header = await this.#openChild('header', reader, depth, writable);
      }
      if (format?.name === 'raw') source = rawWindow(source, reader);
      if (format) known = readOptions(format, reader);
    } catch (error) {
      await source[Symbol.asyncDispose]();
      await header?.source[Symbol.asyncDispose]();
      throw error;
    }
    const hasDataFile = format === undefined || format.name === 'qcow2';
    const reference = hasDataFile ? options.text('data-file') : undefined;
    if (reference !== undefined) {
      await source[Symbol.asyncDispose]();
      throw noSuchNode(reference);
    }
    const dataFile = hasDataFile ? reader.take('data-file') : NodeOptions.none;
    const described = {
      identity: identityOf(format?.name ?? 'raw', tellingOptions[format?.name ?? ''] ?? []),
    };
    return {
      source,
      headerFile: header?.source,
      format: format?.name,
      layerOptions: (name) => {
        const driver = (this.#context.imageOptions.formats ?? formats).find((one) => one.name === name);
        known ??= driver ? readOptions(driver, reader) : {};
        return known;
      },
      backing,
      siblings: dataFile.size > 0 ? dataFile : undefined,
      ...described,
      filename: nameOf(described.identity),
      isProtocol: false,
      requests,
      locks: locksOf(options, 'file.locking'),
      verify: (layer, how) => {
        const unread = reader.unread ?? (how.chain ? undefined : backingOption(options));
        if (unread !== undefined) throw unknownOption(false, layer.format, unread);
      },
    };
  }

  async #openChild(
    name: string,
    parent: OptionReader,
    depth: number,
    writable: boolean,
    filename?: string,
    filtered = false,
  ): Promise<OpenedChild & { readonly isProtocol: boolean }> {
    const options = parent.take(name);
    const reference = parent.options.text(name);
    if (reference !== undefined) {
      if (options.size > 0 || filename !== undefined) {
        throw nodeError(
          name,
          'Cannot reference an existing block device with additional options or a new filename',
        );
      }
      throw noSuchNode(reference);
    }
    if (options.size === 0 && filename === undefined) {
      throw nodeError(name, `A block device must be specified for "${name}"`);
    }
    if (isOn(options.get('read-only')) && isOff(parent.options.get('read-only'))) {
      throw nodeError('read-only', 'Block node is read-only', 'read-only');
    }
    const node = await this.prepare(
      { filename, options: this.#inherited(parent, options), asProtocol: true },
      depth + 1,
      writable,
    );
    const { identity, isProtocol } = node;
    const driver = String(identity.full.driver);
    if (node.driver) return { driver, source: node.source, image: node.filtered, identity, isProtocol };
    const { imageOptions } = this.#context;
    const writableBacking = filtered ? imageOptions.writableBacking : undefined;
    const image = await openImage(node, { ...imageOptions, writable, writableBacking });
    let clusterSize: number | undefined;
    try {
      ({ clusterSize } = await image.layer.details());
    } catch (error) {
      await image[Symbol.asyncDispose]();
      throw error;
    }
    const packs = (this.#context.imageOptions.formats ?? formats).some(
      ({ name: known, canPack }) => known === image.layer.format && canPack,
    );
    return { driver, source: new ImageStore(image, {}, clusterSize), image, packs, identity, isProtocol };
  }

  /** What a node hands down to those that it stands on. */
  #inherited(parent: OptionReader, options: NodeOptions): NodeOptions {
    let handed = options;
    for (const name of ['cache.direct', 'cache.no-flush', 'force-share']) {
      const value = parent.options.get(name);
      if (value !== undefined && !handed.has(name)) handed = handed.with(name, value);
    }
    return handed;
  }

  /** `backing`: null for none at all, options for another one than the image names. */
  #readBacking(reader: OptionReader, options: NodeOptions): PreparedNode['backing'] {
    const value = options.get('backing');
    if (value === null || value === '') {
      if (value === '') {
        this.#context.host.warn?.('Use of "backing": "" is deprecated; use "backing": null instead');
      }
      reader.take('backing');
      return null;
    }
    if (backingOption(options) === undefined) return undefined;
    reader.take('backing');
    const reference = options.text('backing');
    return reference === undefined
      ? options.child('backing')
      : new NodeOptions([['reference', reference], ...options.child('backing').entries()]);
  }

  /**
   * Options that every node has. Those about caches are checked and then change nothing. Gives what requests are treated
   * by, where that is not as they are meant.
   */
  #readCommon(reader: OptionReader, options: NodeOptions, depth: number): RequestPolicy | undefined {
    const name = options.text('node-name');
    reader.skip('node-name');
    if (name !== undefined) {
      if (!/^[A-Za-z][A-Za-z0-9._-]*$/.test(name))
        throw nodeError('node-name', `Invalid node-name: '${name}'`);
      if (name.length > longestNodeName) throw nodeError('node-name', 'Node name too long');
      if (this.#names.has(name)) throw nodeError('node-name', `Duplicate nodes with node-name='${name}'`);
      this.#names.add(name);
    }
    reader.boolean('auto-read-only');
    reader.boolean('cache.direct');
    reader.boolean('cache.no-flush');
    reader.boolean('force-share');
    const discard = reader.choice(
      'discard',
      ['ignore', 'off', 'unmap', 'on'],
      () => 'Invalid discard option',
    );
    const detectZeroes = reader.choice('detect-zeroes', ['off', 'on', 'unmap']) ?? 'off';
    // Nodes beneath others get all requests; for the others the verb says whether it gives space up.
    const gives =
      discard === undefined ? depth > 0 || this.#context.discards === true : /^(unmap|on)$/.test(discard);
    if (detectZeroes === 'unmap' && !gives) {
      const message =
        'setting detect-zeroes to unmap is not allowed without setting discard operation to unmap';
      throw nodeError('detect-zeroes', message);
    }
    if (detectZeroes === 'off' && (discard === undefined || gives)) return undefined;
    return { discard: discard === undefined || gives, detectZeroes };
  }

  #find(name: string): NodeDriver | FormatDriver {
    const known =
      nodeDrivers.find((driver) => driver.name === name) ??
      (this.#context.imageOptions.formats ?? formats).find((driver) => driver.name === name);
    if (known) return known;
    if (isAbsentDriver(name)) {
      throw nodeError('driver', `The driver '${name}' is not supported`, 'unsupported', {
        driver: name,
        known: true,
      });
    }
    throw new DiskError('bad-argument', `No format is called '${name}'`, {
      field: 'format',
      detail: { format: name },
    });
  }
}

/** Options of a format that its identity names. */
const tellingOptions: Readonly<Record<string, readonly string[]>> = {
  raw: ['offset', 'size'],
  luks: ['key-secret'],
  qcow2: ['encrypt.key-secret'],
  vpc: ['force_size_calc'],
};

interface Described {
  readonly identity: NodeIdentity;
  readonly isProtocol: boolean;
}

/** Takes the driver from the file name, or the file name to the driver. */
function nameDriver(
  chosen: NodeDriver | undefined,
  filename: string | undefined,
  given: NodeOptions,
): [NodeDriver, NodeOptions] {
  let options = given;
  if (filename !== undefined) {
    if (options.has('filename')) {
      throw nodeError('filename', "Can't specify 'file' and 'filename' options at the same time");
    }
    options = options.with('filename', filename);
  }
  const name = options.text('filename');
  let driver = chosen;
  if (!driver) {
    if (name === undefined) throw nodeError('driver', 'Must specify either driver or file');
    driver = filename === undefined ? nodeDrivers[0] : protocolDriver(name);
  }
  if (filename === undefined || !driver.parseName) return [driver, options];
  const parsed = driver.parseName(filename, options);
  return [driver, driver.needsFilename ? parsed : parsed.without('filename')];
}

function protocolDriver(name: string): NodeDriver {
  const protocol = protocolOf(name);
  if (protocol === undefined) return nodeDrivers[0];
  const driver = nodeDrivers.find(({ prefixes }) => prefixes?.includes(protocol));
  if (driver) return driver;
  throw new DiskError('unsupported', `No protocol is called '${protocol}': '${name}'`, {
    path: name,
    field: 'protocol',
    detail: { protocol, known: isAbsentProtocol(protocol) },
  });
}

function isOn(value: NodeValue | undefined): boolean {
  return value === 'on' || value === true;
}

function isOff(value: NodeValue | undefined): boolean {
  return value === 'off' || value === false;
}

/** What the options say of image locks: to share them with a writer, or to take none on the file. */
function locksOf(options: NodeOptions, locking: string): PreparedNode['locks'] {
  if (options.get(locking) === 'off') return 'none';
  return isOn(options.get('force-share')) ? 'share' : undefined;
}

export function noSuchNode(reference: string): DiskError {
  return nodeError('reference', `Cannot find device='${reference}' nor node-name='${reference}'`);
}

function unknownOption(protocol: boolean, driver: string, option: string): DiskError {
  const what = protocol
    ? `Block protocol '${driver}' doesn't support the option '${option}'`
    : `Block format '${driver}' does not support the option '${option}'`;
  return nodeError(option, what);
}

/** The first option, in QEMU's order, that asks for another backing image. */
function backingOption(options: NodeOptions): string | undefined {
  const asks = (name: string) => {
    if (name !== 'backing') return name.startsWith('backing.');
    return options.get(name) !== null && options.get(name) !== '';
  };
  return qdictOrder([...options.entries()].map(([name]) => name).filter(asks))[0];
}

/** Options of the format itself, by the types that its driver gives them. */
function readOptions(format: FormatDriver, reader: OptionReader): Record<string, unknown> {
  const read: Record<string, unknown> = {};
  for (const { name, type } of format.openOptions ?? []) {
    const value =
      type === 'size'
        ? reader.budget(name)
        : type === 'boolean'
          ? reader.boolean(name)
          : type === 'number'
            ? reader.number(name)
            : reader.string(name);
    if (value !== undefined) read[name] = value;
  }
  return read;
}

/** Raw's `offset` and `size`: an image inside a file. */
function rawWindow(source: ByteSource, reader: OptionReader): ByteSource {
  const offset = reader.size('offset');
  const size = reader.size('size');
  if (offset === undefined && size === undefined) return source;
  const at = offset ?? 0;
  if (at > source.size) {
    throw nodeError(
      'offset',
      `Offset (${at}) cannot be greater than size of the containing file (${source.size})`,
    );
  }
  if (size !== undefined && source.size - at < size) {
    throw nodeError(
      'size',
      `The sum of offset (${at}) and size (${size}) has to be smaller or equal to the  actual size of the containing file (${source.size})`,
    );
  }
  if (size !== undefined && size % 512 !== 0)
    throw nodeError('size', 'Specified size is not multiple of 512');
  return windowedSource(source, { offset: at, size, owned: true });
}

function tellingOf(telling: readonly string[], options: NodeOptions): NodeIdentity['full'] {
  return Object.fromEntries(
    [...options.entries()].filter(([name]) =>
      telling.some((known) => (known.endsWith('.') ? name.startsWith(known) : name === known)),
    ),
  );
}

function nameOf({ exact, full }: NodeIdentity): string {
  return exact ?? `json:${compactJson(full)}`;
}

async function readText(host: NodeHost, path: string, limit: number): Promise<string> {
  await using source = await host.openFile(path, { writable: false, device: false });
  const bytes = new Uint8Array(Math.min(source.size, limit));
  await source.read(0, bytes);
  return new TextDecoder().decode(bytes);
}
