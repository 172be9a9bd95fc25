import { spawn } from 'node:child_process';
import { accessSync, constants, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { homedir, tmpdir } from 'node:os';
import { join } from 'node:path';
import { DiskError } from '../../errors.ts';
import { readJsonFile, writeJsonFile } from '../../platform/json-file.ts';
import { makeDemoMaster } from '../guest/demo-master.ts';

/** How QEMU runs a guest's instructions: by the processor, or by translating them. */
export type Accelerator = 'kvm' | 'tcg';

export interface AcceleratorChoice {
  readonly accelerator: Accelerator;
  /** Why, in one sentence for people. */
  readonly reason: string;
}

export interface ChooseOptions {
  readonly qemu: string;
  /** Where the answer is remembered until the next boot; default the user's cache folder. */
  readonly cacheDir?: string;
  readonly kvmDevice?: string;
  /** Milliseconds that a boot may take; default 8,000, for a guest of less than a second. */
  readonly limitMs?: number;
  readonly signal?: AbortSignal;
}

/** Up to here nobody need ask whether emulation would be faster. */
const plainlyFastMs = 1_300;
/** KVM that takes this many times emulation's time for the same guest crawls (nested without help, say). */
const crawlFactor = 2;

/**
 * KVM where it truly works, else TCG. A device that can be opened proves nothing: the demo guest is booted with
 * a time limit, and where that was slow, again under TCG to compare. Remembered until this machine boots anew
 * or QEMU changes. Throws only `aborted`.
 */
export async function chooseAccelerator(options: ChooseOptions): Promise<AcceleratorChoice> {
  const device = options.kvmDevice ?? '/dev/kvm';
  try {
    accessSync(device, constants.R_OK | constants.W_OK);
  } catch {
    return { accelerator: 'tcg', reason: `${device} is missing or not ours to use` };
  }
  const cacheFile = join(options.cacheDir ?? cacheFolder(), 'accelerator.json');
  const key = `${bootId()} ${options.qemu} ${device} ${changeTime(options.qemu)}`;
  const known = recall(cacheFile, key);
  if (known) return known;
  const choice = await probe(options);
  try {
    writeJsonFile(cacheFile, { key, ...choice });
  } catch {
    // Then it is found out again next time.
  }
  return choice;
}

function cacheFolder(): string {
  return join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'cowherd');
}

/** Names the time since this machine booted; empty where the system does not tell. */
function bootId(): string {
  return readText('/proc/sys/kernel/random/boot_id').trim();
}

function changeTime(path: string): number {
  try {
    return statSync(path).mtimeMs;
  } catch {
    return 0;
  }
}

function recall(file: string, key: string): AcceleratorChoice | undefined {
  try {
    const value = readJsonFile(file, 4096);
    if (value?.key !== key || typeof value.reason !== 'string') return undefined;
    if (value.accelerator !== 'kvm' && value.accelerator !== 'tcg') return undefined;
    return { accelerator: value.accelerator, reason: value.reason };
  } catch {
    return undefined;
  }
}

async function probe(options: ChooseOptions): Promise<AcceleratorChoice> {
  const limitMs = options.limitMs ?? 8_000;
  const folder = mkdtempSync(join(tmpdir(), 'cowherd-probe-'));
  try {
    const disk = join(folder, 'probe.raw');
    await makeDemoMaster(disk, { size: 2 * 1024 * 1024, payloadBytes: 0, label: 'probe' });
    const kvmMs = await bootOnce(options, 'kvm', folder, disk, limitMs);
    if (kvmMs === undefined) {
      return {
        accelerator: 'tcg',
        reason: `KVM is there, but a guest did not finish under it within ${limitMs / 1000} s`,
      };
    }
    if (kvmMs <= plainlyFastMs) return { accelerator: 'kvm', reason: 'KVM works' };
    const tcgMs = await bootOnce(options, 'tcg', folder, disk, limitMs);
    if (tcgMs === undefined || kvmMs <= crawlFactor * tcgMs)
      return { accelerator: 'kvm', reason: 'KVM works' };
    return {
      accelerator: 'tcg',
      reason: `KVM is there, but slower here than emulation (${seconds(kvmMs)} against ${seconds(tcgMs)} for the same boot)`,
    };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(1)} s`;
}

/** Milliseconds of a whole boot; undefined when it failed or took too long. */
function bootOnce(
  { qemu, signal }: ChooseOptions,
  accelerator: Accelerator,
  folder: string,
  disk: string,
  limitMs: number,
): Promise<number | undefined> {
  const serial = join(folder, `${accelerator}.log`);
  const args = [
    ...['-no-user-config', '-nodefaults', '-machine', 'pc', '-accel', accelerator, '-m', '16M'],
    ...['-cpu', accelerator === 'kvm' ? 'host' : 'max', '-vga', 'none', '-display', 'none'],
    ...['-chardev', `file,id=serial0,path=${serial}`, '-serial', 'chardev:serial0'],
    ...[
      '-blockdev',
      JSON.stringify({ driver: 'raw', 'node-name': 'disk', file: { driver: 'file', filename: disk } }),
    ],
    ...['-device', 'virtio-blk-pci,drive=disk,bootindex=1'],
  ];
  return new Promise((resolve, reject) => {
    const started = performance.now();
    const child = spawn(qemu, args, { stdio: 'ignore' });
    const finish = (value: number | undefined) => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', abort);
      // A process that hangs in the kernel cannot be waited for.
      child.kill('SIGKILL');
      child.unref();
      if (signal?.aborted) reject(new DiskError('aborted', 'Stopped while trying the accelerator'));
      else resolve(value);
    };
    const timer = setTimeout(() => finish(undefined), limitMs);
    const abort = () => finish(undefined);
    signal?.addEventListener('abort', abort, { once: true });
    if (signal?.aborted) abort();
    child.on('error', () => finish(undefined));
    child.on('exit', (code) => {
      const proven = code === 0 && /^cowherd seat= boots=\d+ master=probe\s*$/.test(readText(serial));
      finish(proven ? performance.now() - started : undefined);
    });
  });
}

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}
