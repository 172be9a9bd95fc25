import { basename, dirname, resolve } from 'node:path';
import { DiskError, isDiskError } from '../../errors.ts';
import { type Image, unfiltered } from '../../image/image.ts';
import { hostFileOf } from '../../storage/store.ts';
import {
  backingPathOf,
  fileIdentity,
  type ImageHead,
  isGone,
  isSameFile,
  readImageHead,
} from '../disks/overlay.ts';
import { type Lab, realPath } from '../lab.ts';
import {
  computeContent,
  type DigestOptions,
  inspectMaster,
  masterChanges,
  rememberedContent,
} from '../masters/master.ts';
import type { Plan, Problem, Step } from '../plan.ts';
import { readState } from '../state.ts';
import { isSameMaster, mastersOf } from './former.ts';
import { isLocked } from './release.ts';

/*
 * A disk may be let name its master where that is now, as long as it reads the same then: its old name was the master's and leads to nothing any more, or it leads to
 * what has the digest that the disk was made on. Else somebody put a layer between the two (or the wrong file in the master's
 * place), and the guest would find other bytes.
 */

/** The master that a disk is to name. */
interface Wanted {
  /** Absolute. */
  readonly path: string;
  readonly format: string;
}

/** Why a disk may not be let name its master, after "its disk", and what to do. */
interface OtherFooting {
  readonly what: string;
  readonly fix: string;
}

/** A plan whose disks are linked anew only where they read the same then; problems instead where not. */
export async function vetRelinks(lab: Lab, plan: Plan, digest: DigestOptions | undefined): Promise<Plan> {
  if (!plan.steps.some((step) => step.do === 'relink')) return plan;
  const steps: Step[] = [];
  const problems: Problem[] = [...plan.problems];
  const footings = new Footings(lab, digest);
  for (const step of plan.steps) {
    const head = step.do === 'relink' ? readImageHead(step.path) : undefined;
    if (step.do !== 'relink' || !head) {
      steps.push(step);
      continue;
    }
    const to = resolve(lab.pool, step.to);
    // It stands where it shall, by a name that does not last: that has time until its guest is off.
    const renamed = head.backing?.format === step.format && isSameFile(backingPathOf(head) ?? '', to);
    if (renamed && (await isLocked(step.path))) continue;
    const other = await footings.other(head, { path: to, format: step.format });
    if (other) {
      const { seat, path } = step;
      problems.push({ seat, path, what: `its disk ${other.what}`, fix: other.fix });
    } else steps.push(step);
  }
  return { ...plan, steps, problems };
}

/** Throws `changed` where a disk, or saved work, would not read the same on its master. Reads what it stands on, where nobody knows that. */
export async function assertFooting(
  lab: Lab,
  head: ImageHead,
  master: Wanted,
  signal?: AbortSignal,
): Promise<void> {
  const other = await new Footings(lab, { signal }).other(head, master);
  if (!other) return;
  throw new DiskError('changed', `'${head.path}' ${other.what}`, {
    path: head.path,
    detail: { fix: other.fix },
  });
}

/**
 * For an image that somebody names by its path, open with its chain: throws `changed` where it, or one beneath it, is a seat's disk (or saved
 * work), and nothing that it stands on is the master that it was made on. A layer between the two is somebody's own affair, as it is for
 * commands that are told the seat's name. Looks at no file but those that are open.
 */
export async function assertMadeOn(image: Image, signal?: AbortSignal): Promise<void> {
  const chain: string[] = [];
  for (
    let each: Image | undefined = unfiltered(image);
    each;
    each = each.backing && unfiltered(each.backing)
  ) {
    const file = hostFileOf(each.layer.source);
    if (!file) break;
    chain.push(file.path);
  }
  for (const [depth, path] of chain.entries()) {
    const head = readImageHead(path);
    const beneath = chain.slice(depth + 1);
    if (!head?.provenance || head.provenance.flat || beneath.length === 0) continue;
    if (await new Footings(poolOf(path, head.provenance.lab), { signal }).standsOn(head, beneath)) continue;
    throw new DiskError(
      'changed',
      `'${path}' does not stand on the master that it was made on: '${beneath[0]}' is another one, or changed since`,
      { path, detail: { fix: 'what it reads cannot be trusted: bring that master back, as it was' } },
    );
  }
}

/** What a disk's own folder knows of its lab. */
function poolOf(disk: string, lab: string): Pick<Lab, 'pool' | 'state'> {
  const pool = dirname(realPath(disk));
  try {
    return { pool, state: readState(pool, lab) };
  } catch (error) {
    // Then the content itself is looked at.
    if (isDiskError(error)) return { pool };
    throw error;
  }
}

class Footings {
  readonly #lab: Pick<Lab, 'pool' | 'state'>;
  readonly #digest: DigestOptions | undefined;
  /** By the file's identity and the format that it is taken for. */
  readonly #contents = new Map<string, Promise<string | undefined>>();

  constructor(lab: Pick<Lab, 'pool' | 'state'>, digest: DigestOptions | undefined) {
    this.#lab = lab;
    this.#digest = digest;
  }

  /** Undefined: it reads the same, or nobody may look (no digest is to be computed). */
  async other(head: ImageHead, master: Wanted): Promise<OtherFooting | undefined> {
    const rebase = (how: string) =>
      `cow-img rebase ${how}-F ${master.format} -b '${master.path}' '${head.path}'`;
    if (!head.backing) {
      const fix =
        `${rebase('-u ')} lets it stand on the master again, where it holds only what differs from that;\n` +
        "where it holds all that its guest reads, 'cowherd flatten' says so in it";
      return { what: `stands on nothing, and was made on '${master.path}'`, fix };
    }
    const { format } = head.backing;
    const path = backingPathOf(head);
    const fix =
      `${rebase('')} keeps what it reads and lets it stand on the master alone;\n` +
      `${rebase('-u ')} only changes the name. 'cowherd flatten' keeps what a seat reads too`;
    const named = `'${path ?? head.backing.path}'`;
    if (path === undefined) return { what: `stands on ${named}, which is not the master`, fix };
    if (isGone(path)) {
      if (this.#wasMaster(path, master)) return undefined;
      return {
        what: `stands on ${named}, which is not there (is its disk mounted?), and is no master's name`,
        fix,
      };
    }
    if (fileIdentity(path) === fileIdentity(master.path)) {
      if (format === undefined || format === master.format) return undefined;
      return { what: `takes its master '${path}', which is ${master.format}, as ${format}`, fix };
    }
    try {
      const content = await this.#contentAt(path, format);
      if (content === undefined || content === head.provenance?.master) return undefined;
      return {
        what: `stands on ${named}, which holds something else than the master that it was made on`,
        fix,
      };
    } catch (error) {
      if (!isDiskError(error) || error.code === 'aborted') throw error;
      return { what: `stands on ${named}, which cannot be compared with the master: ${error.message}`, fix };
    }
  }

  /** Whether one of these files, of the disk's chain in its order, holds what the disk was made on. */
  async standsOn({ provenance, backing }: ImageHead, files: readonly string[]): Promise<boolean> {
    let format = backing?.format;
    for (const file of files) {
      if ((await this.#contentAt(file, format)) === provenance?.master) return true;
      format = readImageHead(file)?.backing?.format;
    }
    return false;
  }

  /** Whether a file that is gone has the name that the master has, or a master of the lab had: wherever it lay, it was that. */
  #wasMaster(path: string, master: Wanted): boolean {
    const { state } = this.#lab;
    const known = (state ? mastersOf(state) : []).map((one) => one.files[0].path);
    return [master.path, ...known].some((one) => basename(one) === basename(path));
  }

  #contentAt(path: string, format: string | undefined): Promise<string | undefined> {
    const key = `${fileIdentity(path)} ${format}`;
    const known = this.#contents.get(key) ?? this.#look(path, format);
    this.#contents.set(key, known);
    return known;
  }

  async #look(path: string, format: string | undefined): Promise<string | undefined> {
    const { state, pool } = this.#lab;
    const known = (state ? mastersOf(state) : []).find(
      (one) =>
        (format === undefined || one.format === format) &&
        isSameMaster(one, pool, path) &&
        masterChanges(one, pool).length === 0,
    );
    if (known) return known.content;
    const found = await inspectMaster(path);
    // What is remembered beside a file is what it holds under its own format.
    if (format !== undefined && format !== found.format)
      throw new DiskError('unsupported', `it is ${found.format}, and taken as ${format}`, { path });
    const remembered = rememberedContent(found);
    if (remembered !== undefined || !this.#digest) return remembered;
    return computeContent(found, this.#digest);
  }
}
