import { luksDifferences } from './differences-luks.ts';
import { nbdDifferences } from './differences-nbd.ts';
import { qcow2Differences } from './differences-qcow2.ts';
import { vhdDifferences } from './differences-vhd.ts';

/**
 * Where cow-img's answers knowingly differ from qemu-img's. docs/differences.md is this list as a page (a test keeps
 * it current), and a command line whose answer differs must name its entry here: no difference is silent.
 */
export interface Difference {
  readonly id: string;
  /** What differs, in a sentence. */
  readonly what: string;
  readonly qemuImg: string;
  readonly cowImg: string;
  readonly reason: string;
  /** No line of the tables can show it (it takes an image or a moment that they do not have): other tests do. */
  readonly shown?: 'elsewhere';
}

export const differences = [
  {
    id: 'help',
    what: 'The text of `--help` and `--version`',
    qemuImg: 'its own text and its list of formats',
    cowImg: 'our own text in the same shape; `qemu-img version 7.2.0 (cowherd X.Y.Z)` on the first line',
    reason:
      'The words are ours, and it should be visible who answers. Scripts that read the version find it.',
  },
  {
    id: 'trace',
    what: '`-T`, `--trace`',
    qemuImg: 'switches its trace points on, and warns of unknown ones',
    cowImg: 'accepts it and does nothing',
    reason: "The trace points are QEMU's own.",
  },
  {
    id: 'fifo',
    what: 'A FIFO given as an image',
    qemuImg: 'waits for a writer, possibly for ever',
    cowImg: 'refuses it at once',
    reason: 'An image is read at random offsets, which a FIFO cannot do: waiting helps nobody.',
  },
  {
    id: 'character-device',
    what: 'A character device (`/dev/null`) given as an image',
    qemuImg: 'takes it for a raw image of 0 bytes',
    cowImg: 'refuses it',
    reason: 'It has no size and no offsets; the likely cause is a slip.',
  },
  {
    id: 'failed-create',
    what: '`create` or `convert` that fails',
    qemuImg: 'has emptied or removed the file that was there, and may leave an empty one',
    cowImg: 'leaves everything as it was: the image is written aside and renamed when it is whole',
    reason: 'A slip in a command line, a full disk or a power cut must not cost an image.',
  },
  {
    id: 'order-of-streams',
    what: 'The order in which both streams arrive where they go into one pipe (`2>&1 |`)',
    qemuImg: 'keeps what it prints until it ends, and so complains first',
    cowImg: 'says everything when it comes to it',
    reason: 'The streams by themselves are equal; a reader of both learns more from the true order.',
    shown: 'elsewhere',
  },
  {
    id: 'progress',
    what: 'Figures of `-p` between 0 and 100 percent, of `commit`, `rebase` and `amend`',
    qemuImg: 'counts requests, and repeats figures as its event loop turns',
    cowImg: 'counts bytes; the first and the last figure are the same',
    reason: 'The figures depend on how the work is cut up, which is not the same here.',
  },
  {
    id: 'shared-blocks',
    what: '`convert` within a file system whose files can share blocks (btrfs, XFS)',
    qemuImg: 'reads everything, and leaves out zeroes that it finds in data',
    cowImg:
      'shares the blocks, as with `-C`: what the source holds as data is data in the target, zeroes too',
    reason: 'It takes a fraction of the time, and next to no space. `-S 4k` looks for zeroes all the same.',
    shown: 'elsewhere',
  },
  {
    id: 'dd-onto-itself',
    what: '`dd` of a raw image onto itself',
    qemuImg: 'empties it first, and then copies the zeroes',
    cowImg: 'copies what it held: the output is written aside',
    reason: 'A slip should not cost an image.',
  },
  {
    id: 'device-lock',
    what: '`create` or `convert` to a block device by another node of it (`mknod`), or with `-U`, that is read or stands beneath what is read',
    qemuImg: 'writes over what it reads',
    cowImg: 'refuses it',
    reason:
      'A slip should not cost an image. (By its own node the lock stops both programs, in the same words.)',
    shown: 'elsewhere',
  },
  {
    id: 'device-flush',
    what: '`convert` to a block device whose writes fail after the system has taken them (a broken disk under a logical volume, a thin pool that is full)',
    qemuImg: 'ends with exit code 0; with `-t writeback` it may complain, and does so too',
    cowImg: 'says that it could not flush the device, and ends with exit code 1',
    reason: 'The system writes to the device before it closes it; a copy that did not come there is no copy.',
    shown: 'elsewhere',
  },
  {
    id: 'replaced-file',
    what: 'A file that `create` or `convert` replaces',
    qemuImg: 'is emptied and filled again: programs that have it open, and its inode, stay',
    cowImg:
      'is another file of the same name, mode, owner, access control list and extended attributes (but for file capabilities and integrity sums); written in place are block devices, files that a process has open (`/dev/fd/3`), that are empty, with other hard links, or that nothing can be renamed over',
    reason:
      'So a failure or a kill leaves the old file. Until the end the disk needs room for both; and it is refused while somebody writes to a raw image that was there, whose writes nobody would find.',
    shown: 'elsewhere',
  },
  {
    id: 'bench-nothing',
    what: '`bench -d 0`, and `bench` of an image of 0 bytes',
    qemuImg: 'waits for ever; crashes (division by zero)',
    cowImg: 'refuses the depth; says that the request failed',
    reason: 'Neither is an answer.',
  },
  {
    id: 'backing-loop',
    what: 'A chain of backing files that leads back into itself',
    qemuImg:
      'opens it over and over until memory or file handles run out (only `info --backing-chain` looks)',
    cowImg: 'refuses it, naming the file that comes a second time',
    reason: 'A loop is a mistake or an attack; neither should cost the machine.',
  },
  {
    id: 'crypt-crash',
    what: 'A qcow2 image that claims LUKS encryption and has no LUKS header, given to `info`',
    qemuImg: 'crashes (segmentation fault)',
    cowImg: 'shows the rest',
    reason: 'A crash is no answer.',
  },
  {
    id: 'resize-v2-overlay',
    what: '`resize` of an overlay in qcow2 version 2 that grows while its backing image is longer',
    qemuImg: 'fails: `Failed to zero out new clusters: Operation not supported`',
    cowImg: 'writes the zeroes that hide the backing image',
    reason: 'Version 2 has no zero clusters, but the answer can be right all the same.',
  },
  {
    id: 'l1-past-end',
    what: 'A qcow2 image whose L1 table lies past the end of the file, opened for its data',
    qemuImg: 'takes what is missing for zeroes: the guest sees an empty disk',
    cowImg: 'refuses it',
    reason: 'The file was cut short. Going on would hide that, and writing would finish the damage.',
  },
  {
    id: 'header-errors',
    what: 'A qcow2 header with several lies, or lies of which `info` needs nothing',
    qemuImg: 'names one of them, or crashes',
    cowImg: 'names another of them, or shows what can be shown',
    reason: 'Checks come in another order; what `info` cannot be wrong about is no reason to refuse.',
  },
  {
    id: 'l2-past-end',
    what: 'An L2 table of a qcow2 image that lies past the end of the file',
    qemuImg: 'takes it for an empty one: the guest sees zeroes',
    cowImg: 'fails to read what the table should name',
    reason: 'The file was cut short, and what is missing was data.',
  },
  {
    id: 'target-is-zero-code',
    what: '`convert -n --target-is-zero -B …`, which is refused',
    qemuImg: 'says why, and ends with exit code 0',
    cowImg: 'ends with exit code 1',
    reason: 'A script would take the refusal for a success.',
  },
  {
    id: 'convert-onto-itself',
    what: '`convert -U` of an image onto itself',
    qemuImg: 'empties it first: the contents are lost',
    cowImg: 'leaves it as it was: the target is written aside',
    reason: 'A slip must not cost an image.',
  },
  {
    id: 'salvage-warnings',
    what: '`convert --salvage` of an image whose tables cannot be read',
    qemuImg: 'warns of each sector three times over, in two passes',
    cowImg: 'warns of each sector once for its state and once for its data',
    reason: 'The copy is the same; more lines say no more.',
  },
  {
    id: 'repair-more',
    shown: 'elsewhere',
    what: '`check -r all` where new refcount structures would lie on clusters that a broken entry names, or where the refcount table holds offsets that cannot be',
    qemuImg: 'gives up half-way, marks the image as corrupt, or loses the image from under its second look',
    cowImg: 'lays them elsewhere and goes on',
    reason: 'What can be repaired should be.',
  },
  {
    id: 'repair-snapshots',
    shown: 'elsewhere',
    what: '`check -r` of an image that has both snapshots and bitmaps',
    qemuImg: 'drops all snapshots without a word (its header is rewritten without them)',
    cowImg: 'keeps them',
    reason: 'That is a loss of data.',
  },
  {
    id: 'lying-map',
    what: '`resize` to more and `bitmap --add` on an image with an L2 table that cannot be',
    qemuImg: 'changes it, since nothing looks at that table',
    cowImg: 'refuses',
    reason:
      'Nobody knows which clusters are in use: new tables could be laid over data. `check -r` comes first.',
  },
  {
    id: 'snapshot-l1',
    what: 'Changing an image with a snapshot of which the L1 table cannot be',
    qemuImg: 'changes it, as long as that table is not looked at',
    cowImg: 'opens it for reading only',
    reason: 'Nobody knows which clusters that snapshot holds: a change could overwrite them.',
  },
  {
    id: 'subcluster-run',
    what: 'Where reading meets an extended L2 entry that cannot be',
    qemuImg: 'gives up on all subclusters of one kind before it as well',
    cowImg: 'reads and shows those before it',
    reason: 'They are in order, and may be all that is left.',
  },
  {
    id: 'cache-options',
    shown: 'elsewhere',
    what: '`l2-cache-entry-size` and `cache-clean-interval` of qcow2',
    qemuImg: 'loads parts of L2 tables of that size, and drops unused ones after that many seconds',
    cowImg: 'checks them, loads whole tables within the budget of `l2-cache-size`, and drops the oldest',
    reason: 'They change no byte and no answer; the budget bounds the memory.',
  },
  {
    id: 'host-cache',
    shown: 'elsewhere',
    what: '`cache.direct`, `cache.no-flush` and `aio` of nodes, and the cache modes `none`, `directsync` and `unsafe` (`-t`, `-T`)',
    qemuImg: "goes past the host's page cache, or makes nothing durable, or submits requests in that way",
    cowImg:
      'checks them, and reads and writes through the page cache; a flush is always a flush, but for the target of `convert` in its default mode, `unsafe`',
    reason: 'They change no byte and no answer. What is asked to be durable should be.',
  },
  {
    id: 'size-limit',
    what: 'Images of more than 2^53 - 1 bytes (8 PiB)',
    qemuImg: 'takes up to 8 EiB, as far as the format goes',
    cowImg: 'refuses them',
    reason: 'Offsets are JavaScript numbers, exact up to there; one that is cut silently would lose data.',
  },
  {
    id: 'vdi-repair',
    what: '`check -r` of a VDI image',
    qemuImg: 'cannot repair any',
    cowImg: 'gives blocks that are used twice a copy each, moves blocks into gaps, and corrects the count',
    reason: 'What can be repaired without losing a byte should be.',
  },
  {
    id: 'packed-over-data',
    what: 'Writing compressed (`convert -n -c`, the driver `compress`) where the image holds something already',
    qemuImg: 'stops with `Input/output error`, a part of the copy being in the image',
    cowImg: 'writes it',
    reason:
      'Clusters of their own, named when they are whole, take the place of the old ones: nothing speaks against it.',
  },
  {
    id: 'qcow-packed',
    what: '`convert -c -O qcow`',
    qemuImg: 'ends with exit code 1 and says nothing',
    cowImg: 'compresses, as the format can',
    reason: 'A failure without a word is no answer. QEMU reads the result.',
  },
  {
    id: 'vdi-gap',
    what: '`check` of a VDI image that has a block past the count of allocated ones',
    qemuImg: 'finds no error, and its next write goes over that block',
    cowImg: 'says so',
    reason: 'That is data about to be lost.',
    shown: 'elsewhere',
  },
  {
    id: 'cut-tables',
    what: 'A VDI, qcow, QED or Parallels image that ends before its header or tables do',
    qemuImg: 'takes what is missing for zeroes',
    cowImg: 'refuses it',
    reason: 'The file was cut short. Going on would hide that.',
  },
  {
    id: 'qed-small-tables',
    what: 'A QED image with tables of one cluster (`table_size=1`)',
    qemuImg: 'creates it, and cannot open it: `QED table offset is invalid`',
    cowImg: 'opens it',
    reason: 'The specification allows it.',
    shown: 'elsewhere',
  },
  {
    id: 'parallels-twice',
    what: '`check` of a Parallels image in which two entries name one cluster',
    qemuImg: 'finds no error',
    cowImg: 'says `duplicate offset in BAT entry N` (as later versions of QEMU), and repairs it',
    reason: 'A write into one would change the other.',
    shown: 'elsewhere',
  },
  {
    id: 'lying-maps',
    what: 'Writing to a VDI, Parallels, VHD, VHDX, VMDK, qcow or QED image whose map names the header, a table, room past the end of the file or (but for the last three formats) one place twice',
    qemuImg: 'writes there, over the header, a table or the data of another block',
    cowImg: 'refuses: the image at opening, or what the entry covers; reading goes on',
    reason: 'The image was corrupt before; writing to it would lose more.',
    shown: 'elsewhere',
  },
  {
    id: 'long-tables',
    what: 'A VHD, VHDX, qcow or VMDK image whose first table has more than 64 MiB (VHD, VMDK) or 128 MiB (VHDX, qcow)',
    qemuImg: 'loads up to 2 GiB of it',
    cowImg: 'refuses the image as not supported',
    reason:
      'A header of a few bytes in a sparse file is no ground for gigabytes of memory. Disks up to 32 TiB have less.',
    shown: 'elsewhere',
  },
  {
    id: 'protocols',
    what: 'Names of protocols of remote stores (`ssh:`, `rbd:`, `iscsi:`, `nfs:`, `gluster:` …; not `nbd:` and `http:`)',
    qemuImg: 'opens them',
    cowImg: 'answers that they are not supported yet',
    reason: 'Not built yet.',
  },
  ...qcow2Differences,
  ...nbdDifferences,
  {
    id: 'drivers',
    what: 'Drivers of remote stores and rare filters (`quorum`, `ssh`, `rbd`, `iscsi`, `gluster`, `nfs`, `vvfat`, `nvme` …)',
    qemuImg: 'says what is missing among their options, or cannot connect',
    cowImg: 'answers that the driver is not supported',
    reason: 'They are refused by name, so that nobody takes one for a slip.',
  },
  {
    id: 'raw-over-overlay',
    what: 'An image with a backing file as the `file` of a raw node',
    qemuImg:
      'forgets the backing file where it asks which bytes are stored: `compare` and `convert` see zeroes there',
    cowImg: 'sees what a guest would read; `map` gives offsets in the disk of the image beneath',
    reason: 'Data would be lost without a word.',
  },
  {
    id: 'blkdebug-events',
    shown: 'elsewhere',
    what: 'Events of `blkdebug` rules',
    qemuImg: 'has some 50 of them',
    cowImg: 'accepts all, and has those moments that docs/architecture.md lists; the others never come',
    reason: 'The engines work differently, so that not every moment of one exists in the other.',
  },
  {
    id: 'injected-header',
    what: 'A header that cannot be read because the disk fails',
    qemuImg: '`Could not read qcow2 header: Input/output error`',
    cowImg: '`Input/output error`',
    reason: 'What failed is the disk; the words of the system are passed on.',
  },
  {
    id: 'objects',
    what: '`--object` of other kinds than `secret`, `throttle-group`, `tls-creds-x509`, `tls-creds-psk` and `authz-…`',
    qemuImg: 'makes them, or says what they lack',
    cowImg: 'answers that they are not supported',
    reason: 'Nothing that we open could use them.',
  },
  {
    id: 'node-crash',
    what: 'Options of a `null-co` node that cannot be (`size=-1`)',
    qemuImg: 'aborts with a core dump',
    cowImg: 'answers as for every other such option',
    reason: 'A crash is no answer.',
  },
  {
    id: 'http-words',
    what: 'A web server that cannot be reached, or refuses',
    qemuImg: "says it in curl's words",
    cowImg: 'says it in its own',
    reason: 'There is no curl here.',
  },
  {
    id: 'node-names',
    what: 'Messages of `bitmap --add` that name a node',
    qemuImg: 'a name of its own making, which changes from run to run (`#block149`)',
    cowImg: "the file's name",
    reason: 'There are no such nodes here, and the file is what the user knows.',
  },
  {
    id: 'bitmap-too-large',
    what: '`resize` to more and `commit` into a smaller base, where a bitmap of the image would be too large for the new size',
    qemuImg: 'exit code 0, and all bitmaps of the image are lost (`Lost persistent bitmaps …`)',
    cowImg: 'refuses, before anything is changed, and names the bitmap',
    reason: 'What records the changes since the last backup should not go unnoticed.',
    shown: 'elsewhere',
  },
  {
    id: 'bitmap-of-nothing',
    what: '`bitmap --add` on a disk of no bytes',
    qemuImg: 'exit code 0, a message that bitmaps were lost, and there is none in the image',
    cowImg: 'adds it',
    reason: 'The disk may grow, and then the bitmap grows with it.',
  },
  {
    id: 'data-file-place',
    what: 'A relative name of an external data file, the image not being in the current directory',
    qemuImg: 'looks for it in the current directory',
    cowImg: 'looks for it beside the image that names it, as for a backing file',
    reason: 'An image should mean the same file wherever a command is run from.',
  },
  ...vhdDifferences,
  {
    id: 'dmg-chunks',
    what: 'A dmg image with chunks of bzip2, LZMA, LZFSE or ADC',
    qemuImg:
      'reads bzip2 and LZFSE by modules of their own, which Debian does not build: without them, I/O errors',
    cowImg: 'reads them all',
    reason: 'They are what Apple’s tools make, and need no module here.',
    shown: 'elsewhere',
  },
  {
    id: 'differencing-create',
    what: 'The options `backing_file` and `backing_fmt` of VHD and VHDX, and with them `create -b` and `convert -B`',
    qemuImg: 'does not have them',
    cowImg:
      'makes a differencing disk, which names its parent by a relative and an absolute path as Windows programs write them, and by its identifiers',
    reason: 'Hyper-V keeps its checkpoints and clones in such disks. libvhdi reads ours.',
  },
  {
    id: 'vmdk-commit',
    what: '`commit` of a VMDK overlay',
    qemuImg: 'changes the content ID of the base, so that the overlay no longer opens',
    cowImg: 'writes the new ID into the overlay as its parent’s',
    reason: 'The overlay reads as before, and so it should open.',
    shown: 'elsewhere',
  },
  {
    id: 'vmdk-access',
    what: 'Extents of a VMDK descriptor that are RDONLY or NOACCESS',
    qemuImg:
      'ignores RDONLY and NOACCESS lines: their part of the disk is left out, and what follows moves up',
    cowImg: 'reads the one, and refuses to read the other; neither is written',
    reason: 'A disk whose parts lie elsewhere than its guest put them is another disk.',
    shown: 'elsewhere',
  },
  {
    id: 'vmdk-types',
    what: 'A VMDK descriptor of type `custom`, `vmfsThin`, `vmfsEagerZeroedThick` or `vmfsPreallocated`',
    qemuImg: 'refuses it: `Unsupported image type`',
    cowImg: 'goes by its extents',
    reason: 'VMware writes them, and what each extent is stands in its own line.',
    shown: 'elsewhere',
  },
  {
    id: 'vmdk-stream',
    what: 'The layout of a streamOptimized VMDK',
    qemuImg: 'writes tables in front and no markers around them',
    cowImg: 'writes what the specification says: markers, tables behind their grains, a footer',
    reason: '7-Zip and ESXi read no other.',
    shown: 'elsewhere',
  },
  {
    id: 'legacy-aes',
    what: 'Creating or changing qcow2 images with the legacy encryption `aes`, and encrypted qcow images',
    qemuImg: 'does it',
    cowImg: 'refuses it, and reads such qcow2 images so that they can be converted',
    reason: 'QEMU itself calls that encryption broken and no longer runs guests on it.',
  },
  {
    id: 'check-without-key',
    what: '`check` of an encrypted image without its key',
    qemuImg: 'asks for the key',
    cowImg: 'checks it',
    reason: 'What is checked is not encrypted; who checks need not be who may read.',
  },
  {
    id: 'foreign-names',
    what: 'File names that are not UTF-8: arguments, the current folder, what links lead to, and what images name',
    qemuImg: 'opens them as any other',
    cowImg:
      'refuses them, naming the bytes (`b\\374.raw`); `info` shows such a name of a header as it is, `rebase -u` gives another',
    reason:
      'Node can tell such a name only by U+FFFD, which is the name of another file. That one must not be read or written in its place.',
    shown: 'elsewhere',
  },
  ...luksDifferences,
] as const satisfies readonly Difference[];

/** The same, for code that asks of every entry. */
export const allDifferences: readonly Difference[] = differences;

export type DifferenceId = (typeof differences)[number]['id'];
