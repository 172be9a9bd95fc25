import * as z from 'zod';
import { diskBuses, firmwares, graphicsKinds, preallocations } from '../seats/seat.ts';
import { hostsSchema } from './hosts.ts';
import { seedSchema } from './seed-schema.ts';

/** The most seats that one lab may have: a typing error should not fill a disk. */
export const mostSeats = 10_000;

/** Names become file names, host names and domain names: letters, digits, `-`, `_` and `.`, no leading dot. */
const namePattern = /^[A-Za-z0-9][A-Za-z0-9._-]*$/;
const nameRule = 'letters, digits, "-", "_" and ".", beginning with a letter or a digit';

/** `512M`, `1.5 GiB`: a number and a binary unit. */
export const sizePattern = /^(\d+(?:\.\d+)?)\s*([KMGTkmgt])(?:i?B)?$/;

const name = (what: string) =>
  z
    .string({ error: `${what} must be a name: ${nameRule}` })
    .min(1, { error: `${what} must not be empty` })
    .max(60, { error: `${what} must have at most 60 characters` })
    .regex(namePattern, { error: `${what} must be made of ${nameRule}` });

const path = (what: string) =>
  z.string({ error: `${what} must be a path` }).min(1, { error: `${what} must not be empty` });

const whole = (what: string, least: number, most: number) =>
  z
    .int({ error: `${what} must be a whole number` })
    .min(least, { error: `${what} must be at least ${least}` })
    .max(most, { error: `${what} must be at most ${most}` });

const deviceError = `the disk's device must be an absolute path with {seat} or {n} in it, such as /dev/vg/{seat}`;

const seatCount = whole('the number of seats', 1, mostSeats);

const seatPattern = z
  .string({ error: 'the seats\' name must be a text with {n}, {nn} or {nnn}, such as "student-{nn}"' })
  .regex(/^[A-Za-z0-9{][A-Za-z0-9._-]*(\{n+\}[A-Za-z0-9._-]*)?$/, {
    error: `the seats' name must be made of ${nameRule}, and one of {n}, {nn} or {nnn}`,
  })
  .regex(/\{n+\}/, { error: "the seats' name needs {n}, {nn} or {nnn}, where the number goes" });

const seats = z.union(
  [
    seatCount.meta({ description: 'How many: student-01, student-02 …' }),
    z
      .array(name('a seat'))
      .min(1, { error: 'seats must have at least one name' })
      .max(mostSeats, { error: `seats must have at most ${mostSeats} names` })
      .meta({ description: 'Their names' }),
    z
      .strictObject({
        count: seatCount,
        name: seatPattern
          .default('student-{nn}')
          .meta({ description: 'The names; {nn} becomes the number, with at least two digits' }),
        first: whole("the first seat's number", 0, 1_000_000)
          .default(1)
          .meta({ description: 'The first number' }),
      })
      .meta({ description: 'How many, and how they are called' }),
  ],
  { error: 'seats must be a number, a list of names, or {count: 40, name: "student-{nn}"}' },
);

const memory = z.union(
  [
    whole('memory', 1, 16 * 1024 * 1024).meta({ description: 'MiB' }),
    z
      .string({ error: 'memory must be a size such as 512M or 2G, or a number of MiB' })
      .regex(sizePattern, { error: 'memory must be a size such as 512M or 2G, or a number of MiB' }),
  ],
  { error: 'memory must be a size such as 512M or 2G, or a number of MiB' },
);

const network = z.union(
  [
    z.enum(['user', 'none'], { error: 'network must be user, none, {network: NAME} or {bridge: NAME}' }),
    z
      .strictObject({ network: name('the network') })
      .meta({ description: 'A network of the hypervisor (libvirt), by name' }),
    z.strictObject({ bridge: name('the bridge') }).meta({ description: 'A bridge of the host, by name' }),
  ],
  { error: 'network must be user, none, {network: NAME} or {bridge: NAME}' },
);

const runnerRule =
  'runner must be qemu, libvirt, {libvirt: URI} (these boot guests) or files (images and XML only)';

const runner = z.union(
  [
    z.enum(['qemu', 'libvirt', 'files'], { error: runnerRule }),
    z
      .strictObject({
        libvirt: z
          .string({ error: 'libvirt must be a connection URI, such as qemu:///system' })
          .regex(/^[a-z][a-z0-9+]*:\/\/[\x21-\x7e]*$/, {
            error: 'libvirt must be a connection URI, such as qemu:///system',
          }),
      })
      .meta({ description: 'Domains of the libvirt at this URI' }),
  ],
  { error: runnerRule },
);

const extraDisk = z.strictObject(
  {
    name: name("the disk's name").meta({ description: 'Part of its file name' }),
    size: z
      .string({ error: "the disk's size must be a size such as 10G" })
      .regex(sizePattern, { error: "the disk's size must be a size such as 10G" })
      .meta({ description: 'Bytes the guest sees' }),
    bus: z
      .enum(['virtio', 'sata'], { error: "the disk's bus must be virtio or sata" })
      .default('virtio')
      .meta({ description: 'What the guest sees the disk on' }),
  },
  { error: 'a disk must be a mapping, such as {name: data, size: 10G}' },
);

const serveSchema = z.strictObject(
  {
    socket: path("serve's socket").optional().meta({
      description:
        'A unix socket, relative to this file. Default, where there is no listen: LAB.nbd in the pool',
    }),
    listen: z
      .string({ error: "serve's listen must be an address, such as 0.0.0.0:10809" })
      .regex(/^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):\d{1,5}$/, {
        error: "serve's listen must be an address and a port, such as 0.0.0.0:10809",
      })
      .optional()
      .meta({ description: 'A TCP address and port, in place of a socket' }),
    tls: path("serve's tls").optional().meta({
      description:
        'Folder with ca-cert.pem, server-cert.pem and server-key.pem: then only clients with a certificate come in',
    }),
    host: z
      .string({ error: "serve's host must be a name" })
      .regex(/^[A-Za-z0-9.:-]+$/, { error: "serve's host must be a host's name or address" })
      .optional()
      .meta({
        description: "This host's name in definitions for other hosts. Default: the address of listen",
      }),
    master: z
      .boolean({ error: "serve's master must be true or false" })
      .default(true)
      .meta({ description: "Whether the master is served too, as 'master', read-only" }),
  },
  { error: 'serve must be a mapping, such as {listen: "0.0.0.0:10809"}' },
);

export type ServeDocument = z.output<typeof serveSchema>;

/** The lab file, as people write it. Descriptions show up in editors through the JSON Schema. */
export const labSchema = z
  .strictObject({
    lab: name('lab').meta({ description: "The lab's name. Seats' UUIDs and MAC addresses come from it." }),
    master: z
      .union(
        [
          path('master'),
          z.strictObject({
            path: path("the master's path"),
            format: z
              .enum(['qcow2', 'raw'], { error: "the master's format must be qcow2 or raw" })
              .optional()
              .meta({ description: 'Default: found out from the file' }),
          }),
        ],
        { error: 'master must be a path, or {path: FILE, format: qcow2}' },
      )
      .meta({ description: 'The image that all seats share, relative to this file' }),
    seats: seats.meta({ description: 'The seats: a number, a list of names, or {count, name}' }),
    pool: path('pool')
      .optional()
      .meta({ description: "Folder of the seats' files, relative to this file. Default: ./LAB/" }),
    runner: runner.default('qemu').meta({
      description:
        'qemu: guests are child processes. libvirt: domains of libvirt. files: images and domain XML only',
    }),
    hosts: hostsSchema.optional().meta({
      description:
        'Hosts that the seats are spread over: with a pool of their own each, or with pool and master at the same paths on all of them',
    }),
    template: path('template').optional().meta({
      description: "A libvirt domain's name, or an XML file, that the seats' domains are made like",
    }),
    memory: memory.default('1G').meta({ description: "A guest's memory: 512M, 2G, or a number of MiB" }),
    cpus: whole('cpus', 1, 255).default(1).meta({ description: "A guest's processors" }),
    network: network.default('user').meta({ description: 'user: NAT without privileges. none: no card' }),
    firmware: z
      .enum(firmwares, { error: 'firmware must be bios or uefi' })
      .default('bios')
      .meta({ description: 'uefi: with firmware variables for each seat; needs libvirt' }),
    tpm: z
      .boolean({ error: 'tpm must be true or false' })
      .default(false)
      .meta({ description: 'An emulated TPM 2.0 for each seat; needs libvirt' }),
    cdrom: path('cdrom').optional().meta({ description: 'An ISO image in the drive of every seat' }),
    disk: z
      .strictObject(
        {
          size: z
            .string({ error: "the disk's size must be a size such as 40G" })
            .regex(sizePattern, { error: "the disk's size must be a size such as 40G" })
            .optional()
            .meta({ description: "Bytes the guest sees, at least the master's. Default: the master's" }),
          device: z
            .string({ error: deviceError })
            .regex(/^\/([^\s{}]|\{(seat|n|lab)\})+$/, { error: deviceError })
            .regex(/\{(seat|n)\}/, { error: deviceError })
            .optional()
            .meta({
              description:
                "Block devices that the seats' disks are made on, such as /dev/vg/{lab}-{seat}. Default: files in the pool",
            }),
          bus: z
            .enum(diskBuses, {
              error: `the disk's bus must be ${diskBuses.slice(0, -1).join(', ')} or ${diskBuses.at(-1)}`,
            })
            .default('virtio')
            .meta({ description: 'What the guest sees the disk on' }),
          preallocation: z
            .enum(preallocations, {
              error:
                "the disk's preallocation must be off or falloc: all else would cut seats off from the master",
            })
            .default('off')
            .meta({ description: 'falloc: room for all that a seat may come to write is set aside' }),
        },
        { error: 'disk must be a mapping, such as {size: 40G, bus: virtio}' },
      )
      .prefault({})
      .meta({ description: "The seats' disks" }),
    disks: z
      .array(extraDisk, { error: 'disks must be a list, such as [{name: data, size: 10G}]' })
      .max(20, { error: 'disks must be at most 20' })
      .default([])
      .meta({ description: 'More disks for every seat, empty at first and after a reset' }),
    encrypt: z
      .strictObject(
        {
          'passphrase-file': path('the passphrase file').meta({
            description:
              'A file that only its owner may read, relative to this file; /dev/fd/3 reads it from a descriptor, /dev/tty has it typed',
          }),
        },
        { error: 'encrypt must be a mapping, such as {passphrase-file: lab.key}' },
      )
      .optional()
      .meta({
        description:
          "Encrypts new disks of seats (LUKS), each with a key of its own that comes from the lab's passphrase",
      }),
    space: z
      .strictObject(
        {
          overcommit: z
            .number({ error: 'overcommit must be a number, such as 4' })
            .positive({ error: 'overcommit must be more than 0' })
            .optional()
            .meta({
              description:
                "What all seats may grow by at worst, as a multiple of what is free. Default: 'up' only warns",
            }),
        },
        { error: 'space must be a mapping, such as {overcommit: 4}' },
      )
      .prefault({})
      .meta({ description: 'How much more than there is the seats may be promised' }),
    // Few labs have one.
    seed: z.lazy(seedSchema).optional().meta({
      description:
        'What cloud-init makes of each seat: host name, users, network (a NoCloud image in its drive)',
    }),
    graphics: z
      .enum(graphicsKinds, { error: 'graphics must be none, vnc or spice' })
      .default('none')
      .meta({ description: 'vnc: a screen on a unix socket (libvirt: on a port). none: serial port only' }),
    guard: z
      .enum(['read-only', 'immutable'], { error: 'guard must be read-only or immutable' })
      .default('read-only')
      .meta({ description: 'How the master is protected while the lab is up; immutable needs root' }),
    serve: serveSchema.optional().meta({
      description: "How 'cowherd serve' exports the seats' disks over NBD, for guests elsewhere",
    }),
    guest: z.enum(['any', 'demo'], { error: 'guest must be any or demo' }).default('any').meta({
      description:
        "any: new disks are exactly the master. demo: Cowherd's own demo guest; its name is written into each disk",
    }),
  })
  .meta({ title: 'Cowherd lab', description: 'One master image, many seats' });

export type LabDocument = z.output<typeof labSchema>;

/** The JSON Schema of the lab file, for editors. */
export function labJsonSchema(): Record<string, unknown> {
  return z.toJSONSchema(labSchema, { io: 'input', target: 'draft-7' });
}
