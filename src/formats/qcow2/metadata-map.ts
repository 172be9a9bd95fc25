import { corrupt } from './errors.ts';

/** Kinds of metadata by QEMU's names for them. QEMU keeps no writes off the tables of bitmaps. */
export type MetadataKind =
  | 'qcow2_header'
  | 'active L1 table'
  | 'active L2 table'
  | 'refcount table'
  | 'refcount block'
  | 'snapshot table'
  | 'inactive L1 table'
  | 'inactive L2 table'
  | 'bitmap directory'
  | 'bitmap table';

/**
 * Which host clusters hold metadata, so that no write of data and no new allocation lands on one, whatever a
 * broken image says of its refcounts and maps.
 */
export class MetadataMap {
  readonly #kinds = new Map<number, MetadataKind>();
  readonly #path: string;
  readonly #guarded: ReadonlySet<MetadataKind> | undefined;

  /** `guarded`: kinds that `checkFree` looks at; default all. */
  constructor(path: string, guarded?: ReadonlySet<MetadataKind>) {
    this.#path = path;
    this.#guarded = guarded;
  }

  /** Throws `corrupt` when a cluster is of another kind already. */
  add(kind: MetadataKind, first: number, count = 1): void {
    for (let cluster = first; cluster < first + count; cluster++) {
      const other = this.#kinds.get(cluster);
      if (other !== undefined && other !== kind) {
        throw corrupt(this.#path, kind, `The ${kind} overlaps with the ${other}`, undefined, { cluster });
      }
      this.#kinds.set(cluster, kind);
    }
  }

  delete(first: number, count = 1): void {
    for (let cluster = first; cluster < first + count; cluster++) this.#kinds.delete(cluster);
  }

  /** Whether the cluster holds metadata. */
  has(cluster: number): boolean {
    return this.#kinds.has(cluster);
  }

  /** Throws `corrupt` when one of the clusters holds metadata. */
  checkFree(first: number, count: number, clusterSize: number): void {
    for (let cluster = first; cluster < first + count; cluster++) {
      const kind = this.#kinds.get(cluster);
      if (kind === undefined || this.#guarded?.has(kind) === false) continue;
      const message = `Preventing invalid write on metadata (overlaps with ${kind})`;
      throw corrupt(this.#path, kind, message, cluster * clusterSize, { cluster });
    }
  }
}
