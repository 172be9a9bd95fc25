import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { closeSync, ftruncateSync, openSync, readFileSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { DiskError, isDiskError } from '../../errors.ts';
import { createPrivateFolder, type ScratchFolder } from '../../platform/scratch-folder.ts';
import { type SparseContent, withoutZeroes } from '../disks/place-files.ts';
import { uuidV5 } from '../domain/identity.ts';
import { documentText, node, text } from '../domain/xml-node.ts';
import { Virsh } from '../runner/libvirt/virsh.ts';

/** Namespace of the names that our storage pools have. */
const poolNamespace = '0b8f2a8c-6d0f-5c0e-9f53-70d2f3c5a001';

/** Bytes at a file's start that are written last: without them it is no image to anybody. */
export const headBytes = 64 * 1024;

/** virsh writes to a file that it opens by its name: a pipe can be, Node's own sockets cannot. */
const failedMark = 'cowherd-failed';
const readBack = `{ "$@" || echo ${failedMark} >&2; } | cat`;

/** A file's facts, by libvirt. */
export interface HostFile {
  /** Bytes, as `ls -l` says. */
  readonly size: number;
  /** Bytes, as `du` says. */
  readonly allocated: number;
  /** Changes with each write. */
  readonly mtime: string;
  readonly isFolder: boolean;
}

/**
 * A folder of a host, as a storage pool of its libvirt (of type `dir`, transient where it was none): files come and go through
 * libvirt's own connection, so that nothing else of the host need be reached. Throws what virsh complains about.
 */
export class HostPool implements AsyncDisposable {
  /** Absolute, on the host. */
  readonly path: string;
  readonly #uri: string;
  readonly #virsh: Virsh;
  #name: string | undefined;
  #folder: ScratchFolder | undefined;
  #count = 0;

  constructor(uri: string, path: string) {
    this.#uri = uri;
    this.path = path;
    this.#virsh = new Virsh({ uri });
  }

  /** Whether the folder is a pool already; with `make` it becomes one, and is made. */
  async open(make: boolean): Promise<boolean> {
    if (this.#name !== undefined) return true;
    for (const line of lines(await this.#virsh.run('pool-list', '--all', '--name'))) {
      // As wide as the longest of them.
      const name = line.trim();
      const xml = await this.#virsh.run('pool-dumpxml', name).catch(() => '');
      if (!xml.includes(`<path>${escaped(this.path)}</path>`)) continue;
      if (!/State: +running/.test(await this.#virsh.run('pool-info', name)))
        await this.#virsh.run('pool-start', name);
      this.#name = name;
      return true;
    }
    const name = `cowherd-${uuidV5(this.path, poolNamespace).slice(0, 8)}`;
    // `pool-create-as` makes XML of names that it does not escape.
    const file = this.#scratch();
    const target = node('target', {}, text('path', this.path));
    try {
      writeFileSync(file, documentText(node('pool', { type: 'dir' }, text('name', name), target)));
      await this.#virsh.run('pool-create', file, ...(make ? ['--build'] : []));
    } catch (error) {
      if (make) throw error;
      return false;
    } finally {
      rmSync(file, { force: true });
    }
    this.#name = name;
    return true;
  }

  /** Bytes that are free where the folder is. */
  async free(): Promise<number> {
    const said = await this.#virsh.run('pool-info', this.#pool, '--bytes');
    return Number(/^Available: +(\d+)$/m.exec(said)?.[1] ?? 0);
  }

  /** Names in the folder. */
  async list(): Promise<ReadonlySet<string>> {
    await this.#refresh();
    const names = new Set<string>();
    for (const line of lines(await this.#virsh.run('vol-list', this.#pool))) {
      const at = line.lastIndexOf(`${this.path}/`);
      if (at >= 0) names.add(line.slice(at + this.path.length + 1).trim());
    }
    return names;
  }

  /** Undefined where there is no such file. */
  async facts(name: string): Promise<HostFile | undefined> {
    try {
      const xml = await this.#virsh.run('vol-dumpxml', '--pool', this.#pool, name);
      const bytes = (key: string) => Number(new RegExp(`<${key} unit=.bytes.>(\\d+)<`).exec(xml)?.[1] ?? 0);
      return {
        size: bytes('physical'),
        allocated: bytes('allocation'),
        mtime: /<mtime>([\d.]+)</.exec(xml)?.[1] ?? '',
        isFolder: /<volume type=.dir./.test(xml),
      };
    } catch (error) {
      if (isDiskError(error, 'not-found')) return undefined;
      throw error;
    }
  }

  /** `facts` of a file that others write to. */
  async factsNow(name: string): Promise<HostFile | undefined> {
    await this.#refresh();
    return await this.facts(name);
  }

  /** The first `length` bytes of a file, or all of it; undefined where there is none. */
  async read(name: string, length?: number): Promise<Uint8Array | undefined> {
    const file = this.#scratch();
    try {
      const range = length === undefined ? [] : ['--offset', '0', '--length', String(length)];
      await this.#virsh.run('vol-download', '--pool', this.#pool, name, file, ...range);
      return readFileSync(file);
    } catch (error) {
      if (isDiskError(error, 'not-found')) return undefined;
      throw error;
    } finally {
      rmSync(file, { force: true });
    }
  }

  /** SHA-256 of a file's bytes, in hexadecimal, as the host gives them back. */
  async digest(name: string, signal?: AbortSignal): Promise<string> {
    const hash = createHash('sha256');
    const words = ['-q', '-c', this.#uri, 'vol-download', '--pool', this.#pool, name, '/dev/stdout'];
    const child = spawn('sh', ['-c', readBack, 'sh', 'virsh', ...words], {
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: true,
      signal,
    });
    let complaint = '';
    child.stderr.setEncoding('utf8').on('data', (piece: string) => {
      complaint += piece;
    });
    const ended = new Promise<number | null>((resolve, reject) =>
      child.on('close', resolve).on('error', reject),
    );
    ended.catch(() => undefined);
    for await (const piece of child.stdout) hash.update(piece as Uint8Array);
    if ((await ended) === 0 && !complaint.includes(failedMark)) return hash.digest('hex');
    throw new DiskError('io', `'${name}' cannot be read back: ${complaint.replace(failedMark, '').trim()}`, {
      path: this.#uri,
    });
  }

  /**
   * Makes a file. Its first 64 KiB come last, so that what was cut off has no header of an image. Throws `exists` where there is
   * one of that name. A `mark` stands at its start until then, so that what was cut off says whose it is; it is shorter than the head.
   */
  async put(
    name: string,
    content: Uint8Array | SparseContent,
    { mode = '0600', mark }: { readonly mode?: string; readonly mark?: Uint8Array } = {},
  ): Promise<void> {
    const { size, parts } = content instanceof Uint8Array ? withoutZeroes(content) : content;
    const [head, body] = [this.#scratch(), this.#scratch()];
    try {
      const headSize = Math.min(size, headBytes);
      writeRange(head, parts, 0, headSize);
      await this.#create(name, size, mode);
      if (mark) await this.#putMark(name, mark);
      if (size > headSize) {
        writeRange(body, parts, headSize, size);
        const rest = ['--offset', String(headSize), '--length', String(size - headSize)];
        await this.#virsh.run('vol-upload', '--pool', this.#pool, name, body, ...rest, '--sparse');
      }
      const first = ['--offset', '0', '--length', String(headSize)];
      await this.#virsh.run('vol-upload', '--pool', this.#pool, name, head, ...first);
    } finally {
      rmSync(head, { force: true });
      rmSync(body, { force: true });
    }
  }

  /** Copies a file of this machine, of `size` bytes, with its holes. */
  async upload(name: string, from: string, size: number): Promise<void> {
    await this.#create(name, size, '0644');
    await this.#virsh.run('vol-upload', '--pool', this.#pool, name, from, '--sparse');
  }

  /** Gives a qcow2 image more guest bytes, by the host's qemu-img. Throws `locked` or `in-use` where a program has it open. */
  async grow(name: string, size: number): Promise<void> {
    // A file that was made through libvirt is a raw one to it until it has looked again.
    await this.#refresh();
    await this.#virsh.run('vol-resize', '--pool', this.#pool, name, String(size));
  }

  /** Removes a file; none of that name is no error. */
  async remove(name: string): Promise<void> {
    await this.#virsh.run('vol-delete', '--pool', this.#pool, name).catch((error: unknown) => {
      if (!isDiskError(error, 'not-found')) throw error;
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#virsh[Symbol.asyncDispose]();
    this.#folder?.[Symbol.dispose]();
  }

  get #pool(): string {
    if (this.#name !== undefined) return this.#name;
    throw new DiskError('not-found', `${this.#uri} has no pool '${this.path}'`, { path: this.path });
  }

  async #putMark(name: string, mark: Uint8Array): Promise<void> {
    const file = this.#scratch();
    try {
      writeRange(file, [{ at: 0, bytes: mark }], 0, mark.length);
      const range = ['--offset', '0', '--length', String(mark.length)];
      await this.#virsh.run('vol-upload', '--pool', this.#pool, name, file, ...range);
    } finally {
      rmSync(file, { force: true });
    }
  }

  async #create(name: string, size: number, mode: string): Promise<void> {
    const file = this.#scratch();
    const target = node(
      'target',
      {},
      node('format', { type: 'raw' }),
      node('permissions', {}, text('mode', mode)),
    );
    const sizes = [text('capacity', size), text('allocation', 0)];
    try {
      writeFileSync(file, documentText(node('volume', {}, text('name', name), ...sizes, target)));
      await this.#virsh.run('vol-create', this.#pool, file);
    } finally {
      rmSync(file, { force: true });
    }
  }

  /** Another's transfer keeps a pool from being looked at for a while. */
  async #refresh(): Promise<void> {
    for (let tries = 0; ; tries++) {
      try {
        await this.#virsh.run('pool-refresh', this.#pool);
        return;
      } catch (error) {
        if (tries > 100 || !isDiskError(error) || !/asynchronous jobs/.test(error.message)) throw error;
        await new Promise((resolve) => setTimeout(resolve, 100));
      }
    }
  }

  /** A file for what is on its way. */
  #scratch(): string {
    this.#folder ??= createPrivateFolder('host');
    return this.#folder.file(String(this.#count++));
  }
}

/** The bytes from `from` to `to` of a sparse content as a file. */
function writeRange(path: string, parts: SparseContent['parts'], from: number, to: number): void {
  const fd = openSync(path, 'wx', 0o600);
  try {
    ftruncateSync(fd, to - from);
    for (const { at, bytes } of parts) {
      const piece = bytes.subarray(Math.max(0, from - at), Math.max(0, to - at));
      const start = Math.max(at, from) - from;
      for (let done = 0; done < piece.length; )
        done += writeSync(fd, piece, done, piece.length - done, start + done);
    }
  } finally {
    closeSync(fd);
  }
}

function lines(output: string): readonly string[] {
  return output.split('\n').filter((line) => line.trim() !== '');
}

/** As libvirt writes a path in XML. */
function escaped(path: string): string {
  return path
    .replaceAll('&', '&amp;')
    .replaceAll('<', '&lt;')
    .replaceAll('>', '&gt;')
    .replaceAll("'", '&apos;')
    .replaceAll('"', '&quot;');
}
