import { dirname } from 'node:path';
import { DiskError, isDiskError } from '../../../errors.ts';
import { domainName } from '../../domain-xml.ts';
import { poolUuid } from '../../identity.ts';
import { isSameFile } from '../../overlay.ts';
import type { Problem } from '../../plan.ts';
import type { Seat } from '../../seat.ts';
import { domainDisks } from './domain-disks.ts';
import { type DefinitionMark, definitionDigest } from './marked-definition.ts';
import type { SeatPlace } from './seat-place.ts';

/*
 * A seat's UUID follows from its lab's name and its own: two labs of one name have the same, and only one of them its domain. The domain
 * says from which file it was defined. That this is not there now proves nothing: the other lab's disk may not be mounted.
 */

/** Whose the domains of seats' UUIDs are. */
export class DomainOwners {
  readonly #place: SeatPlace;
  /** What was proved by definitions that may have been written anew since: `UUID FROM`, and the pool that lay there. */
  readonly #proved = new Map<string, string>();

  constructor(place: SeatPlace) {
    this.#place = place;
  }

  /**
   * Whether a domain is the seat's: it was defined from the seat's file; or from one that is not there any more, in a folder where the
   * lab's pool lay by its own records; or from the very text that the seat's file has.
   */
  async isOurs(seat: Seat, mark: DefinitionMark | 'foreign'): Promise<boolean> {
    if (mark === 'foreign') return false;
    if (mark.from === seat.definition) return true;
    if (!this.#place.isGone(mark.from)) return false;
    return lay(seat, dirname(mark.from)) || (await this.#isOfText(seat, mark));
  }

  /** Where pools of seats' labs lay by nothing but their definitions, of those that were asked about. */
  pools(): readonly string[] {
    return [...new Set(this.#proved.values())];
  }

  /**
   * A definition names its pool: whoever has the same text was moved from there, or copied with all that was in it. Which of the two cannot be told
   * while the original is away.
   */
  async #isOfText(seat: Seat, mark: DefinitionMark): Promise<boolean> {
    const key = `${seat.uuid} ${mark.from}`;
    if (this.#proved.has(key)) return true;
    try {
      if (definitionDigest(await this.#place.definition(seat)) !== mark.digest) return false;
    } catch (error) {
      if (isDiskError(error, 'not-found')) return false;
      throw error;
    }
    this.#proved.set(key, dirname(mark.from));
    return true;
  }
}

/** Whether the pool of the seat's lab has lain in a folder, by the lab's own records. */
function lay({ lab, origin }: Seat, folder: string): boolean {
  if (origin === undefined) return false;
  return origin.places.includes(folder) || poolUuid(lab, folder) === origin.id;
}

/** What to say of a domain that is not the seat's, and has its UUID. */
export function othersProblem(
  seat: Seat,
  mark: DefinitionMark | 'foreign',
  uri: string,
  place: SeatPlace,
): Problem {
  const names = 'two labs of one name need a libvirt each, or two names (lab: NAME)';
  const away = mark !== 'foreign' && place.isGone(mark.from);
  return {
    path: seat.definition,
    what: `${uri} has a domain with the UUID of seat '${seat.name}', made by ${mark === 'foreign' ? 'somebody else' : `the seat of '${mark.from}'`}`,
    fix: away
      ? `that file is not there now: is its pool's disk mounted? ${names}. Where that pool is gone for good, and the domain off: virsh -c '${uri}' undefine '${domainName(seat)}' --managed-save --nvram`
      : names,
  };
}

/**
 * Throws `changed` where the definition names another disk than the seat's: its pool was moved or copied with it, and a guest would run on
 * what lies in the old place.
 */
export function assertNamesDisk(seat: Seat, text: string): void {
  const { disks } = domainDisks(text);
  if (disks.length === 0 || disks.some((one) => isSameFile(one, seat.disk.path))) return;
  throw new DiskError(
    'changed',
    `The definition of seat '${seat.name}' names '${disks[0]}' and not its disk, as after a move of the pool by hand: 'cowherd up' writes it anew`,
    { path: seat.definition },
  );
}
