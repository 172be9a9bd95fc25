import { formats } from '../formats/index.ts';
import type { CliContext } from './context.ts';
import { versionText } from './version.ts';

/** Synopses of the verbs, in the order of the help. The notation is qemu-img's. */
const synopses: readonly string[] = [
  'amend [--object objectdef] [--image-opts] [--untrusted] [-p] [--progress=json] [-q] [-f fmt] [-t cache] [--force] [--corrupt-dependents] -o options filename',
  'bench [--object objectdef] [--image-opts] [--untrusted] [-c count] [-d depth] [-f fmt] [--flush-interval=flush_interval] [-i aio] [-n] [--no-drain] [-o offset] [--pattern=pattern] [-q] [-s buffer_size] [-S step_size] [-t cache] [-w] [-U] [--corrupt-dependents] filename',
  'bitmap (--merge SOURCE | --add | --remove | --clear | --enable | --disable)... [-b source_file [-F source_fmt]] [-g granularity] [--object objectdef] [--image-opts] [--untrusted] [-f fmt] [--corrupt-dependents] filename bitmap',
  'check [--object objectdef] [--image-opts] [--untrusted] [-q] [-f fmt] [--output=ofmt] [-r [leaks | all]] [-T src_cache] [-U] [--for=azure] [--corrupt-dependents] filename',
  'commit [--object objectdef] [--image-opts] [--untrusted] [-q] [-f fmt] [-t cache] [-b base] [-r rate_limit] [-d] [-p] [--progress=json] [--corrupt-dependents] filename',
  'compare [--object objectdef] [--image-opts] [--untrusted] [-f fmt] [-F fmt] [-T src_cache] [-p] [--progress=json] [-q] [-s] [-U] filename1 filename2',
  'convert [--object objectdef] [--image-opts] [--untrusted] [--target-image-opts] [--target-is-zero] [--bitmaps [--skip-broken-bitmaps]] [-U] [-C] [-c] [-p] [--progress=json] [-q] [-n] [-f fmt] [-t cache] [-T src_cache] [-O output_fmt] [-B backing_file [-F backing_fmt]] [-o options] [-l snapshot_param] [-S sparse_size] [-r rate_limit] [-m num_coroutines] [-W] [--salvage] [--decompress] [--corrupt-dependents] filename [filename2 [...]] output_filename',
  'create [--object objectdef] [--untrusted] [-q] [-f fmt] [-b backing_file [-F backing_fmt]] [-u] [-o options] [--corrupt-dependents] filename [size]',
  'dd [--object objectdef] [--image-opts] [--untrusted] [-U] [-f fmt] [-O output_fmt] [--corrupt-dependents] [bs=block_size] [count=blocks] [skip=blocks] if=input of=output',
  'info [--object objectdef] [--image-opts] [--untrusted] [-f fmt] [--output=ofmt] [--backing-chain] [-U] filename',
  'map [--object objectdef] [--image-opts] [--untrusted] [-f fmt] [--start-offset=offset] [--max-length=len] [--output=ofmt] [-U] filename',
  'measure [--output=ofmt] [-O output_fmt] [-o options] [--size N | [--object objectdef] [--image-opts] [--untrusted] [-f fmt] [-l snapshot_param] [-U] filename]',
  'rebase [--object objectdef] [--image-opts] [--untrusted] [-U] [-q] [-f fmt] [-t cache] [-T src_cache] [-p] [--progress=json] [-u] [--compress] [--corrupt-dependents] -b backing_file [-F backing_fmt] filename',
  'resize [--object objectdef] [--image-opts] [--untrusted] [-f fmt] [--preallocation=prealloc] [-q] [--shrink] [--corrupt-dependents] filename [+ | -]size',
  'snapshot [--object objectdef] [--image-opts] [--untrusted] [-U] [-q] [-l | -a snapshot | -c snapshot | -d snapshot] filename',
];

/** The whole help, for `-h` and `--help` with or without a verb. */
export function helpText(context: CliContext): string {
  const { program } = context;
  return `${versionText('qemu-img version')}usage: ${program} [standard options] command [command options]
Disk images of virtual machines: make, look into, convert and repair them

    '-h', '--help'       this text
    '-V', '--version'    the version
    '-T', '--trace'      accepted for qemu-img's sake; traces nothing

Command syntax:
${synopses.map((line) => `  ${line}\n`).join('')}
Command parameters:
  'filename'      the image: a file or a block device
  'fmt'           the image's format; found out from its first bytes when absent
  'output_fmt'    the format to write
  'size'          bytes, or with a suffix of 1024's powers: k, M, G, T, P, E (1.5G, 512M)
  'options'       the format's own settings, name=value,name=value; '-o help' lists them
  'ofmt'          'human' (default) or 'json'
  'cache'         none, writeback, writethrough, directsync: what is written is on the disk at the end; unsafe
                  (the default of convert): convert does not wait for that
  'backing_file'  the image that the new one is laid over; '-F' names its format and is required with it
  '-u'            (create) write the backing file's name without opening it
  '--image-opts'  the file name is a list of options: driver=qcow2,file.filename=disk.qcow2
  '--object'      secret,id=… or throttle-group,id=…, for options that name it
  '--untrusted'   the image is a stranger's: it may name only files in its own directory
  '-U'            read the image although another program has it open for writing
  '-q'            say nothing but errors
  '-p'            show progress; without it SIGUSR1 prints how far the work is
  '--progress=json'
                  (amend, commit, compare, convert, rebase) progress for programs: lines of JSON on stderr
  'snapshot_param'
                  (convert, measure) read an internal snapshot: its id or name, or snapshot.id=…,snapshot.name=…
  '-c'            (convert) compress
  '--decompress'  (convert) the sources are packed by gzip, xz, zstd or bzip2; not with --image-opts
  '--bitmaps'     (convert) copy the dirty bitmaps as well
  '-n'            (convert) write into a target that exists
  '-S'            (convert) runs of this many zero bytes become holes (default 4k; 0: write everything)
  '-W', '-m'      (convert) many requests wait for the disk together; by default one writes while others read ahead
  '-s'            (compare) strict: sizes and allocation must be equal as well
  '-r'            (check) repair: 'leaks' gives lost space back, 'all' mends the tables too, at a risk
  '--shrink'      (resize) really throw away what lies past the new size
  '--corrupt-dependents'
                  write although other images are laid over this one and will read changed contents

Examples:
  ${program} create -f qcow2 disk.qcow2 20G
      An empty disk of 20 GiB that takes 200 kB until something is written.
  ${program} create -f qcow2 -b master.qcow2 -F qcow2 clone.qcow2
      A clone of a master image: it holds only what the clone changes.
  ${program} info --backing-chain clone.qcow2
      What it is, how large, and which images it stands on.
  ${program} convert -p -O qcow2 -c disk.raw disk.qcow2
      The same contents, compressed, in another format.
  ${program} check -r leaks disk.qcow2
      Finds errors in the tables and gives lost space back.
  ${program} resize disk.qcow2 +10G
      10 GiB more for the guest.

Supported formats: ${formats
    .map((format) => format.name)
    .sort()
    .join(' ')}

Where the answers differ from qemu-img's, docs/differences.md says why.
`;
}
