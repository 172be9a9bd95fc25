import { appendFileSync, chmodSync, existsSync, statSync } from 'node:fs';
import { basename, join } from 'node:path';
import { DiskError } from '../../errors.ts';
import type { SeatKernel } from '../seats/seat.ts';
import { requireTools, runTool, type ToolOptions } from './tools.ts';

/*
 * Debian's installer takes its answers from /preseed.cfg of its initial file system, before it asks anything (its manual, appendix B.2).
 * So its kernel is booted from outside, with an archive of that one file behind its own: the ISO stays as it is.
 */

/** Where Debian's installers have kernel and initial file system: in a folder, the small ones of its netboot (`mini.iso`) at the top. */
const places = [
  ...['install.amd', 'install.386', 'install'].map((folder) => [
    `/${folder}/vmlinuz`,
    `/${folder}/initrd.gz`,
  ]),
  ['/linux', '/initrd.gz'],
] as const;

/** Whether a file of answers is one for Debian's installer, by its name. */
export function isPreseed(path: string): boolean {
  return basename(path) === 'preseed.cfg' || path.endsWith('.preseed');
}

/**
 * What to boot so that the installer of a Debian ISO finds these answers. Throws `unsupported` for an ISO without such an installer,
 * `not-found` where xorriso is missing.
 */
export async function preseededInstaller(
  iso: string,
  answers: Uint8Array,
  scratch: string,
  tool: ToolOptions = {},
): Promise<SeatKernel> {
  requireTools({ xorriso: 'xorriso' });
  const pairs = places.map((place, i) => ({
    kernel: { from: place[0], to: join(scratch, `vmlinuz-${i}`) },
    initrd: { from: place[1], to: join(scratch, `initrd-${i}.gz`) },
  }));
  const lines = pairs.flatMap((pair) =>
    Object.values(pair).flatMap(({ from, to }) => ['-extract_single', from, to]),
  );
  // A place where there is nothing is no failure, of four.
  const how = ['-abort_on', 'NEVER', '-return_with', 'FATAL', '32', '-osirrox', 'on', '-indev', iso];
  await runTool('xorriso', [...how, ...lines], tool);
  // Each kernel takes its own modules alone.
  const found = pairs.find(({ kernel, initrd }) => existsSync(kernel.to) && existsSync(initrd.to));
  if (!found) {
    throw new DiskError('unsupported', `'${iso}' has no installer that takes a preseed`, {
      path: iso,
      detail: {
        fix: `it would have its kernel in ${places[0][0]} or ${places.at(-1)![0]}, as Debian's do`,
      },
    });
  }
  const [kernel, initrd] = [found.kernel.to, found.initrd.to];
  // Before the answers are in it.
  chmodSync(initrd, 0o600);
  chmodSync(kernel, 0o644);
  // The kernel looks for the next archive at a multiple of four bytes, over zeroes.
  const gap = new Uint8Array(-statSync(initrd).size & 3);
  appendFileSync(initrd, Buffer.concat([gap, cpioOf('preseed.cfg', answers)]));
  return {
    path: kernel,
    initrd,
    // It speaks to the last console alone; in lines, its words can be read in what the serial port has said.
    commandLine:
      'auto=true priority=critical DEBIAN_FRONTEND=text TERM=dumb console=tty0 console=ttyS0 no_timer_check ---',
  };
}

/** One file as an archive in cpio's `newc` format, as the kernel unpacks it behind another (its buffer-format.rst). */
export function cpioOf(name: string, bytes: Uint8Array): Uint8Array {
  const aligned = (length: number) => Math.ceil(length / 4) * 4;
  const parts: Uint8Array[] = [];
  const add = (path: string, content: Uint8Array, mode: number) => {
    const field = (value: number) => value.toString(16).padStart(8, '0');
    const size = [path.length + 1, 0].map(field).join('');
    const header = `070701${[0, mode, 0, 0, 1, 0, content.length, 0, 0, 0, 0].map(field).join('')}${size}${path}\0`;
    for (const part of [new TextEncoder().encode(header), content]) {
      const whole = new Uint8Array(aligned(part.length));
      whole.set(part);
      parts.push(whole);
    }
  };
  add(name, bytes, 0o100644);
  add('TRAILER!!!', new Uint8Array(), 0);
  return Buffer.concat(parts);
}
