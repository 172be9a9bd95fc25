/**
 * QEMU's image locks as a value. A program that opens an image says which permissions it uses (`hold`) and
 * which it lets others use at the same time (`shared`). On disk each held permission is an open-file-
 * description read lock on byte 100 + bit, each permission *not* shared one on byte 200 + bit; a conflict is
 * someone else's lock on the opposite byte. (docs/interop/qemu-locks, `block/file-posix.c`.)
 */
export const Permission = {
  /** Reads must return what was last written: the image is consistent. */
  consistentRead: 1 << 0,
  write: 1 << 1,
  /** Writes that leave the visible content as it was (commit, rebase). */
  writeUnchanged: 1 << 2,
  resize: 1 << 3,
} as const;

export const allPermissions = 0b1111;

export interface ImageLock {
  /** Bits of `Permission` that we use. */
  readonly hold: number;
  /** Bits of `Permission` that others may use meanwhile. */
  readonly shared: number;
}

/** What QEMU's tools ask for while they empty and fill a file or device: nobody else may resize it, nor may who lets nobody write use it. */
export const creationLock: ImageLock = {
  hold: Permission.write | Permission.resize,
  shared: allPermissions & ~Permission.resize,
};

/** While another file takes a file's place: what somebody else wrote to the old one from then on would be found nowhere. */
export const replacementLock: ImageLock = {
  hold: creationLock.hold,
  shared: Permission.consistentRead,
};

/** First byte of the locks for permissions held, and for permissions not shared. */
export const lockBytes = { held: 100, unshared: 200 } as const;

/** The permissions' names as QEMU words them in messages, by bit. */
export const permissionNames = ['consistent read', 'write', 'write unchanged', 'resize'] as const;
