import { dirname } from 'node:path';
import { DiskError, isDiskError } from '../../../errors.ts';
import { isSameFile } from '../../disks/overlay.ts';
import { domainName } from '../../domain/domain-xml.ts';
import { poolUuid } from '../../domain/identity.ts';
import type { Problem } from '../../plan.ts';
import type { Seat } from '../../seats/seat.ts';
import { isAway } from '../../state.ts';
import { domainDisks } from './domain-disks.ts';
import { type DefinitionMark, definitionDigest } from './marked-definition.ts';
import type { SeatPlace } from './seat-place.ts';

/*
 * A seat's UUID follows from its lab's name and its own: two labs of one name have the same, and only one of them its domain. The domain
 * says from which file it was defined. That this is not there now proves nothing: the other lab's disk may not be mounted. A copy of a pool
 * has all that the original knows of itself, and is told by its folder: that is another one than its state says.
 */

/** `original`: that of the seat whose pool this one may be a copy of, while nobody can tell whether that is gone. */
type Owner = 'seat' | 'original' | 'other';

/** Whose the domains of seats' UUIDs are. */
export class DomainOwners {
  readonly #place: SeatPlace;
  /** What the next command may not find any more to know it by (definitions, the word of the user): `UUID FROM`, and the pool that lay there. */
  readonly #proved = new Map<string, string>();

  constructor(place: SeatPlace) {
    this.#place = place;
  }

  /**
   * Whether a domain is the seat's: it was defined from the seat's file; or from one that is not there any more, in a folder where the
   * lab's pool lay by its own records; or from the very text that the seat's file has.
   */
  async isOurs(seat: Seat, mark: DefinitionMark | 'foreign'): Promise<boolean> {
    return (await this.#ownerOf(seat, mark)) === 'seat';
  }

  async #ownerOf(seat: Seat, mark: DefinitionMark | 'foreign'): Promise<Owner> {
    if (mark === 'foreign') return 'other';
    if (mark.from === seat.definition) return 'seat';
    if (!this.#place.isGone(mark.from)) return 'other';
    const { origin } = seat;
    const folder = dirname(mark.from);
    const isCopy = isAway(folder, origin?.copiedFrom);
    const isKnown = lay(seat, folder);
    if (!isKnown && !(await this.#isOfText(seat, mark))) return 'other';
    if (isCopy && !origin?.isGone) return 'original';
    if (!isKnown || origin?.copiedFrom !== undefined) this.#proved.set(proofOf(seat, mark), folder);
    return 'seat';
  }

  /** What to say of a domain that is not the seat's, and has its UUID. */
  async problem(seat: Seat, mark: DefinitionMark | 'foreign', uri: string): Promise<Problem> {
    const away = mark !== 'foreign' && this.#place.isGone(mark.from);
    const names = 'two labs of one name need a libvirt each, or two names (lab: NAME)';
    const mount = "that file is not there now: is its pool's disk mounted?";
    const fix =
      (await this.#ownerOf(seat, mark)) === 'original'
        ? `${mount} This pool is a copy of that one, or was moved to another file system, which looks the same; ${names}.\nWhere nothing is there any more: 'cowherd up --forget-gone' gives the domains the disks of this pool`
        : away
          ? `${mount} ${names}. Where that pool is gone for good, and the domain off: virsh -c '${uri}' undefine '${domainName(seat)}' --managed-save --nvram`
          : names;
    const made = mark === 'foreign' ? 'somebody else' : `the seat of '${mark.from}'`;
    return {
      path: seat.definition,
      what: `${uri} has a domain with the UUID of seat '${seat.name}', made by ${made}`,
      fix,
    };
  }

  /** Where pools of seats' labs lay by more than the labs' records, of those that were asked about. */
  pools(): readonly string[] {
    return [...new Set(this.#proved.values())];
  }

  /** A definition names its pool: whoever has the same text was moved from there, or copied with all that was in it. */
  async #isOfText(seat: Seat, mark: DefinitionMark): Promise<boolean> {
    if (this.#proved.has(proofOf(seat, mark))) return true;
    try {
      return definitionDigest(await this.#place.definition(seat)) === mark.digest;
    } catch (error) {
      if (isDiskError(error, 'not-found')) return false;
      throw error;
    }
  }
}

function proofOf({ uuid }: Seat, { from }: DefinitionMark): string {
  return `${uuid} ${from}`;
}

/** Whether the pool of the seat's lab has lain in a folder, by the lab's own records. */
function lay({ lab, origin }: Seat, folder: string): boolean {
  if (origin === undefined) return false;
  return origin.places.includes(folder) || poolUuid(lab, folder) === origin.id;
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
