/*
 * Numbers of the NBD protocol (doc/proto.md of NetworkBlockDevice/nbd, and its extension-ext-header branch). All
 * integers on the wire are big-endian.
 */

/** The port that IANA gave it. */
export const nbdPort = 10809;

/** Longest name, description or message, in bytes (section "String values"). */
export const maxStringBytes = 4096;

/** What every peer must be able to take as the payload of one request (section "Size constraints"). */
export const defaultMaxPayload = 32 * 1024 * 1024;

/** Magic numbers of 64 bits, as their two halves. */
export const Magic = {
  /** `NBDMAGIC` */
  initHigh: 0x4e42444d,
  initLow: 0x41474943,
  /** `IHAVEOPT` */
  optionHigh: 0x49484156,
  optionLow: 0x454f5054,
  optionReplyHigh: 0x0003e889,
  optionReplyLow: 0x045565a9,
  request: 0x25609513,
  simpleReply: 0x67446698,
  structuredReply: 0x668e33ef,
  extendedRequest: 0x21e41c71,
  extendedReply: 0x6e8a278c,
} as const;

/** Sizes of headers in bytes. */
export const HeaderBytes = {
  /** Magic, magic, handshake flags. */
  greeting: 18,
  clientFlags: 4,
  option: 16,
  optionReply: 20,
  request: 28,
  extendedRequest: 32,
  simpleReply: 16,
  structuredReply: 20,
  extendedReply: 32,
  /** Size and transmission flags, the answer to EXPORT_NAME; 124 zeroes follow unless NO_ZEROES was agreed. */
  exportName: 10,
  exportNamePadding: 124,
} as const;

export const HandshakeFlag = { fixedNewstyle: 1, noZeroes: 2 } as const;
export const ClientFlag = { fixedNewstyle: 1, noZeroes: 2 } as const;

export const TransmissionFlag = {
  hasFlags: 1 << 0,
  readOnly: 1 << 1,
  sendFlush: 1 << 2,
  sendFua: 1 << 3,
  rotational: 1 << 4,
  sendTrim: 1 << 5,
  sendWriteZeroes: 1 << 6,
  sendDf: 1 << 7,
  canMultiConn: 1 << 8,
  sendResize: 1 << 9,
  sendCache: 1 << 10,
  sendFastZero: 1 << 11,
  blockStatusPayload: 1 << 12,
} as const;

export const Option = {
  exportName: 1,
  abort: 2,
  list: 3,
  peekExport: 4,
  startTls: 5,
  info: 6,
  go: 7,
  structuredReply: 8,
  listMetaContext: 9,
  setMetaContext: 10,
  extendedHeaders: 11,
} as const;

/** Types of option replies; errors have bit 31 set. */
export const OptionReply = {
  ack: 1,
  server: 2,
  info: 3,
  metaContext: 4,
  errUnsupported: 0x80000001,
  errPolicy: 0x80000002,
  errInvalid: 0x80000003,
  errPlatform: 0x80000004,
  errTlsRequired: 0x80000005,
  errUnknown: 0x80000006,
  errShutdown: 0x80000007,
  errBlockSizeRequired: 0x80000008,
  errTooBig: 0x80000009,
  errExtendedHeadersRequired: 0x8000000a,
} as const;

export const Info = { export: 0, name: 1, description: 2, blockSize: 3 } as const;

export const Command = {
  read: 0,
  write: 1,
  disconnect: 2,
  flush: 3,
  trim: 4,
  cache: 5,
  writeZeroes: 6,
  blockStatus: 7,
  resize: 8,
} as const;

export const CommandFlag = {
  fua: 1 << 0,
  noHole: 1 << 1,
  df: 1 << 2,
  reqOne: 1 << 3,
  fastZero: 1 << 4,
  payloadLength: 1 << 5,
} as const;

/** Types of structured reply chunks; errors have bit 15 set. */
export const Chunk = {
  none: 0,
  offsetData: 1,
  offsetHole: 2,
  blockStatus: 5,
  blockStatusExtended: 6,
  error: 0x8001,
  errorOffset: 0x8002,
} as const;

/** On the last chunk of a reply. */
export const chunkDone = 1;

/** Error numbers on the wire (section "Error values"). */
export const NbdError = {
  none: 0,
  permission: 1,
  io: 5,
  memory: 12,
  invalid: 22,
  noSpace: 28,
  overflow: 75,
  unsupported: 95,
  shutdown: 108,
} as const;

/** Flags of `base:allocation`. */
export const AllocationFlag = { hole: 1, zero: 2 } as const;

export const MetaContext = {
  allocation: 'base:allocation',
  allocationDepth: 'qemu:allocation-depth',
  /** The bitmap's name follows. */
  dirtyBitmapPrefix: 'qemu:dirty-bitmap:',
} as const;

/** Most extents that a reply may hold in one chunk (a recommendation that clients enforce). */
export const maxStatusDescriptors = 1024 * 1024;
