import type { Difference } from './differences.ts';

/** Names of NBD exports, and cow-nbd beside qemu-nbd. */
export const nbdDifferences = [
  {
    id: 'nbds',
    what: 'Names of NBD exports under TLS (`nbds://`, `nbds+unix://`)',
    qemuImg: 'knows the options `tls-creds` and `tls-hostname` only',
    cowImg: 'opens them as libnbd does; without `tls-creds` by the authorities that Node trusts',
    reason: 'They are what the NBD URI specification says.',
  },
  {
    id: 'nbd-dirty-bitmap',
    what: 'The option `x-dirty-bitmap` of `nbd`',
    qemuImg: 'takes what a bitmap says for what the disk stores',
    cowImg: 'answers that it is not supported',
    reason: 'A program that copies by it would leave out data.',
  },
  {
    id: 'nbd-lost-writes',
    what: 'An NBD server that is lost and comes back (`reconnect-delay`)',
    qemuImg: 'goes on, though the server may have lost what it had answered and not flushed',
    cowImg:
      'writes with FUA meanwhile; where the server has no FUA, the next flush fails. After the delay the server is lost for good',
    reason: 'A flush must not promise what is lost.',
    shown: 'elsewhere',
  },
  {
    id: 'nbd-trace',
    what: '`-T`, `--trace` of cow-nbd',
    qemuImg: 'qemu-nbd switches its trace points on, and warns of unknown ones',
    cowImg: 'accepts it and does nothing',
    reason: "The trace points are QEMU's own.",
  },
  {
    id: 'nbd-partition',
    what: '`-P`, `--partition` of cow-nbd',
    qemuImg: 'qemu-nbd says that it does not know the option (any more)',
    cowImg: 'says what to use instead',
    reason: 'Scripts of old have it.',
  },
  {
    id: 'nbd-offset',
    what: 'A negative `--offset` of cow-nbd',
    qemuImg: 'qemu-nbd opens the image, and complains of a number of its own',
    cowImg: 'says at once that the offset is invalid',
    reason: 'That is what is wrong.',
  },
  {
    id: 'nbd-selinux',
    what: '`--selinux-label` of cow-nbd',
    qemuImg: 'qemu-nbd labels the socket where SELinux is in use',
    cowImg: 'refuses it',
    reason: 'A socket without the label that was asked for would be a promise broken.',
  },
  {
    id: 'nbd-directory',
    what: 'The working directory of a server',
    qemuImg: 'qemu-nbd goes to `/`',
    cowImg: 'cow-nbd stays where it was started',
    reason: 'Its threads open images by their names when more clients come.',
    shown: 'elsewhere',
  },
  {
    id: 'nbd-half-write',
    what: 'A client of cow-nbd that vanishes in the middle of a write of more than 1 MiB (64 KiB where many stall)',
    qemuImg: 'qemu-nbd has written nothing of it',
    cowImg: 'has written what had come, in steps of that size; the write was not answered',
    reason: 'Clients that stall then cost bounded memory: 32 MiB each would be kept for them.',
    shown: 'elsewhere',
  },
] as const satisfies readonly Difference[];
