import * as z from 'zod';
import { extraDiskName } from '../seats/extra-disk-name.ts';

/*
 * What Cowherd writes beside images on a host. A record that was cut off is none: its text does not parse.
 */

const digest = z.string().regex(/^[0-9a-f]{64}$/);
const content = z.string().regex(/^[\w:]{1,128}$/);
const bytes = z.number().int().nonnegative();
const fileName = z.string().regex(/^[^/\0\r\n]{1,200}$/);

const copySchema = z.object({
  v: z.literal(1),
  /** Name of the copy, in the same folder. */
  file: fileName,
  /** Bytes of that file, and their SHA-256. */
  bytes,
  sha256: digest,
  /** The file's date when it was compared, as libvirt words it: one with another date counts for nothing. */
  mtime: z.string(),
  format: z.enum(['qcow2', 'raw']),
  /** Guest bytes. */
  size: bytes,
  /** `contentDigest` of what a guest reads. */
  content,
});

/** A copy of a master on a host, whole and compared: its record is written after that. */
export type MasterCopy = z.infer<typeof copySchema>;

const seenSchema = z.object({
  /** libvirt's connection URI. */
  uri: z.string(),
  pool: z.string(),
  /** The mark of its folder. */
  folder: z.string(),
  /** The machine's UUID, as its libvirt says; some have none that stays. */
  machine: z.string().optional(),
});

/** A host as it was when it answered. */
export type SeenHost = z.infer<typeof seenSchema>;

const placementSchema = z.object({
  v: z.literal(1),
  lab: z.string(),
  /** Tells records of a lab that was taken down and made again from later ones; those of older versions have none. */
  id: z.string().optional(),
  /** In a host's folder: its mark, made with the first record there. */
  folder: z.string().optional(),
  /** The newest counts. */
  revision: z.number().int().positive(),
  /** What new disks stand on. */
  master: z.object({ format: z.enum(['qcow2', 'raw']), size: bytes, content }),
  /** Each seat's host. */
  seats: z.record(z.string(), z.string()),
  /** The hosts that have answered, by name. */
  hosts: z.record(z.string(), seenSchema).optional(),
});

/** Which host each seat of a lab is on, as each of the hosts keeps it. */
export type Placement = z.infer<typeof placementSchema>;

/** No record has more bytes than this. */
export const longestRecord = 4 * 1024 * 1024;

export function encodeRecord(record: MasterCopy | Placement): Uint8Array {
  return new TextEncoder().encode(`${JSON.stringify(record)}\n`);
}

export function parseCopy(bytes: Uint8Array): MasterCopy | undefined {
  return parse(copySchema, bytes);
}

export function parsePlacement(bytes: Uint8Array): Placement | undefined {
  return parse(placementSchema, bytes);
}

/** A record that was read elsewhere than on a host. */
export function placementOf(value: unknown): Placement | undefined {
  return placementSchema.safeParse(value).data;
}

function parse<T>(schema: z.ZodType<T>, bytes: Uint8Array): T | undefined {
  try {
    return schema.safeParse(JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes))).data;
  } catch {
    return undefined;
  }
}

/** Names in a host's folder. No seat's name has a `+`, and no seat's file ends so. */
export const names = {
  copy: (master: string, contentDigest: string, format: string) =>
    `${master}+${contentDigest.split(':').at(-1)!.slice(0, 16)}.${format}`,
  isCopy: (file: string) => /\+[0-9a-f]{16}\.(raw|qcow2)$/.test(file),
  copyRecord: (file: string) => `${file}.copy.json`,
  isCopyRecord: (file: string) => file.endsWith('.copy.json'),
  placement: (lab: string, revision: number) => `${lab}.${revision}.seats.json`,
  /** The revision that a record of the lab's seats says in its name. */
  placementRevision: (lab: string, file: string) => {
    const match = file.startsWith(`${lab}.`) && /^(\d{1,9})\.seats\.json$/.exec(file.slice(lab.length + 1));
    return match ? Number(match[1]) : undefined;
  },
  isPlacement: (file: string) => /\.\d{1,9}\.seats\.json$/.test(file),
  disk: (seat: string) => `${seat}.qcow2`,
  extra: extraDiskName,
  seed: (seat: string) => `${seat}.seed.iso`,
  log: (seat: string) => `${seat}.log`,
} as const;
