import { DiskError, isDiskError } from '../errors.ts';
import type { HeaderReference } from '../formats/driver.ts';
import { formats } from '../formats/index.ts';
import { parseJsonName } from '../image/nodes/json-dialect.ts';
import type { NodeOptions } from '../image/nodes/node-options.ts';
import { assertAllowed, untrustedImages } from '../image/policy.ts';
import { guessFormat, readProbeView } from '../image/probe.ts';
import { combineReference, parseReference } from '../image/reference.ts';
import type { ByteSource } from '../storage/store.ts';

/** What an image would make a program open. Nothing of it has been opened. */
export interface Touch {
  readonly role: HeaderReference['role'] | 'appliance file';
  /** As written in the header. */
  readonly reference: string;
  /** The format that is written for it. */
  readonly format?: string;
  /** How it would be opened: a host file, a protocol, or nodes as `json:{…}` describes them. */
  readonly kind: 'file' | 'protocol' | 'json';
  /** Host files: by the names that they would be opened with. */
  readonly files: readonly string[];
  /** Drivers and protocols by name, besides plain files. */
  readonly drivers: readonly string[];
  /** Everything else that says where something is: addresses, hosts, sockets, commands. */
  readonly places: readonly string[];
  /** Why it would be refused to an untrusted image; undefined: it would not be. */
  readonly refusal?: string;
  /** Another name of the one before it, tried only where no file has that. */
  readonly fallback?: true;
}

export interface Inspection {
  readonly name: string;
  /** By its first bytes; undefined for none that is known. */
  readonly format?: string;
  readonly bytes: number;
  readonly touches: readonly Touch[];
}

/**
 * Says what opening the image would touch, from its header alone. `canonical` resolves symbolic links of the names.
 * Throws `unsupported` for a format whose header cannot be read here, `corrupt` for one that cannot be true.
 */
export async function inspectImage(
  source: ByteSource,
  canonical?: (path: string) => Promise<string>,
): Promise<Inspection> {
  const format = guessFormat(await readProbeView(source), formats);
  const driver = formats.find(({ name }) => name === format);
  if (format !== undefined && !driver) {
    throw new DiskError('unsupported', `What a ${format} image names cannot be told yet`, {
      path: source.name,
      field: 'format',
    });
  }
  const touches: Touch[] = [];
  for (const reference of (await driver?.references?.(source)) ?? []) {
    touches.push(await touchOf(reference, source.name, canonical));
    for (const path of reference.alternatives ?? []) {
      touches.push({ ...(await touchOf({ ...reference, path }, source.name, canonical)), fallback: true });
    }
  }
  return { name: source.name, format, bytes: source.size, touches };
}

async function touchOf(
  { role, path, format }: HeaderReference,
  from: string,
  canonical?: (path: string) => Promise<string>,
): Promise<Touch> {
  const touch = { role, reference: path, format, ...partsOf(path, from) };
  try {
    const named = { name: from, depth: 0, role: role === 'backing file' ? 'backing' : 'file' } as const;
    await assertAllowed(path, named, untrustedImages, canonical);
    return touch;
  } catch (error) {
    if (!isDiskError(error)) throw error;
    return { ...touch, refusal: error.message };
  }
}

function partsOf(path: string, from: string): Pick<Touch, 'kind' | 'files' | 'drivers' | 'places'> {
  const reference = parseReference(path);
  if (reference.kind === 'file') {
    return { kind: 'file', files: [fileOf(combineReference(from, path))], drivers: [], places: [] };
  }
  if (reference.kind === 'protocol') {
    return { kind: 'protocol', files: [], drivers: [reference.protocol], places: [path] };
  }
  let options: NodeOptions;
  try {
    options = parseJsonName(reference.text);
  } catch (error) {
    if (!isDiskError(error)) throw error;
    return { kind: 'json', files: [], drivers: [], places: [error.message] };
  }
  return { kind: 'json', ...partsOfNodes(options) };
}

function fileOf(name: string): string {
  const reference = parseReference(name);
  return reference.kind === 'file' ? reference.path : name;
}

/** Options whose values are no places: what they hold is said elsewhere, or opens nothing. */
const harmless =
  /^(?:driver|node-name|read-only|auto-read-only|discard|detect-zeroes|locking|aio|size|offset)$/;

function partsOfNodes(options: NodeOptions): Pick<Touch, 'files' | 'drivers' | 'places'> {
  const files: string[] = [];
  const drivers = new Set<string>();
  const places: string[] = [];
  for (const [name, value] of options.entries()) {
    const last = name.slice(name.lastIndexOf('.') + 1);
    if (last === 'driver') drivers.add(String(value));
    else if (last === 'filename') files.push(String(value));
    else if (typeof value === 'string' && !harmless.test(last)) places.push(`${name}=${value}`);
  }
  return { files, drivers: [...drivers], places };
}
