import { hkdfSync, pbkdf2 } from 'node:crypto';
import { closeSync, fstatSync, openSync, readSync, statSync } from 'node:fs';
import { promisify } from 'node:util';
import { wipe } from '../../crypto/bytes.ts';
import { DiskError, isDiskError } from '../../errors.ts';
import { type OpenImageFileOptions, openLayerFile } from '../../node.ts';
import { asSystemError } from '../../platform/errno.ts';
import { nameExists } from '../disks/overlay.ts';
import { stretched, terminal, typedPassphrase } from './passphrase-memory.ts';
import type { DiskEncryption, Seat, SeatDisk } from './seat.ts';

/*
 * A seat's passphrase is derived from the lab's and kept nowhere: the lab's is stretched by PBKDF2, once a command, and HKDF makes
 * of that what is the seat's alone. So who gets one seat's (QEMU, libvirt, a student) learns nothing of another's.
 */

/** What stretching costs, for us once a command, and for who guesses once a guess. For ever the same. */
const stretching = { iterations: 500_000, hash: 'sha512', length: 32 } as const;
const largestPassphrase = 64 * 1024;
/** Two for the `x` of others would be enough to copy it. */
const othersMask = 0o077;

/**
 * The passphrase of the seat's disks, 44 characters of ASCII; the caller wipes it. Throws `bad-argument` where the lab file names no
 * passphrase or the file is empty, `denied` where others may read it.
 */
export async function seatPassphrase(encryption: DiskEncryption): Promise<Uint8Array> {
  const { lab, seat, passphraseFile } = encryption;
  if (passphraseFile === undefined) {
    throw new DiskError(
      'bad-argument',
      `The disk of ${seat} is encrypted, and the lab file names no passphrase`,
      {
        field: 'encrypt',
        detail: { fix: 'add to it: encrypt: {passphrase-file: FILE}' },
      },
    );
  }
  // A file that was written anew is another one.
  const place = `${lab}\0${fileFactsOf(passphraseFile)}`;
  const known = stretched.get(place) ?? stretch(passphraseFile, lab);
  stretched.set(place, known);
  try {
    const key = Buffer.from(hkdfSync('sha256', await known, '', `cowherd seat ${seat}`, 32));
    const passphrase = new TextEncoder().encode(key.toString('base64'));
    key.fill(0);
    return passphrase;
  } catch (error) {
    stretched.delete(place);
    throw error;
  }
}

function fileFactsOf(file: string): string {
  if (file === terminal) return file;
  try {
    const { dev, ino, size, mtimeNs } = statSync(file, { bigint: true });
    return `${dev} ${ino} ${size} ${mtimeNs}`;
  } catch (cause) {
    throw asSystemError(cause, 'read', file);
  }
}

async function stretch(file: string, lab: string): Promise<Uint8Array> {
  const passphrase = file === terminal ? await typedPassphrase(lab) : readPassphrase(file);
  try {
    const { iterations, hash, length } = stretching;
    return await promisify(pbkdf2)(passphrase, `cowherd lab ${lab}`, iterations, length, hash);
  } finally {
    wipe(passphrase);
  }
}

/** The file's content, without the end of its last line. */
function readPassphrase(file: string): Uint8Array {
  const bytes = new Uint8Array(largestPassphrase + 1);
  let length = 0;
  try {
    const fd = openSync(file, 'r');
    try {
      const stat = fstatSync(fd);
      if (stat.isFile() && (stat.mode & othersMask) !== 0) {
        throw new DiskError('denied', `Others may read the passphrase in '${file}'`, {
          path: file,
          field: 'encrypt',
          detail: { fix: `chmod 600 ${file}` },
        });
      }
      for (let got = -1; got !== 0 && length < bytes.length; length += got) {
        got = readSync(fd, bytes, length, bytes.length - length, null);
      }
    } finally {
      closeSync(fd);
    }
  } catch (cause) {
    if (isDiskError(cause)) throw cause;
    throw asSystemError(cause, 'read', file);
  }
  if (length > 0 && bytes[length - 1] === 10) length -= 1;
  if (length > 0 && length <= largestPassphrase) return bytes.subarray(0, length);
  throw new DiskError('bad-argument', `'${file}' holds no passphrase: it is empty, or no short text`, {
    path: file,
    field: 'encrypt',
  });
}

const secretId = 'seat';

/** Creation options of a seat's image under its passphrase, which is as good as random: stretching it again helps nobody. */
export const encryptedImage = {
  'encrypt.format': 'luks',
  'encrypt.key-secret': secretId,
  'encrypt.iter-time': 0,
} as const;

/** What opening a seat's disk needs besides its name. */
export function keyFor(
  encryption: DiskEncryption | undefined,
): Pick<OpenImageFileOptions, 'layerOptions' | 'secret'> {
  if (!encryption) return {};
  return {
    layerOptions: { 'encrypt.key-secret': secretId },
    secret: () => seatPassphrase(encryption),
  };
}

/** All disks of a seat. */
export function disksOf(seat: Seat): readonly SeatDisk[] {
  return [seat.disk, ...(seat.disks ?? [])];
}

/** Throws `denied` where the passphrase is not that of a disk of the seat: better said here than by QEMU. */
export async function assertKeyFits(seat: Seat): Promise<void> {
  for (const disk of disksOf(seat)) await assertKeyOfDisk(seat.name, disk);
}

/** Where a passphrase comes from, after "The passphrase". */
function whoseKey({ passphraseFile }: DiskEncryption): string {
  return passphraseFile === terminal ? 'that was typed' : `in '${passphraseFile}'`;
}

/** `assertKeyFits` for one disk. */
export async function assertKeyOfDisk(
  seat: string,
  { path, encryption }: Pick<SeatDisk, 'path' | 'encryption'>,
): Promise<void> {
  if (!encryption) return;
  await assertKeyOpens(path, encryption, {
    what: `The passphrase ${whoseKey(encryption)} is not that of ${seat}`,
    fix: 'bring the passphrase back that it was made with, or reset the seat',
  });
}

/**
 * Before new disks are made under the lab's passphrase: throws `denied` where a disk that is there is under another one. Else a wrong file,
 * or a mistyped line, makes a lab under two passphrases, and somebody learns of it when a seat does not start. A disk that cannot be read
 * (damaged, or another user's while its guest runs) says nothing.
 */
export async function assertKeyOfAll(seats: Iterable<Seat>): Promise<void> {
  for (const seat of seats) {
    for (const { path, encryption } of disksOf(seat)) {
      if (!encryption || !nameExists(path)) continue;
      // What is wrong with the passphrase itself is no disk's trouble.
      wipe(await seatPassphrase(encryption));
      try {
        await assertKeyOpens(path, encryption, {
          what: `The passphrase ${whoseKey(encryption)} is not that of ${seat.name}: new disks would be under another one than '${path}'`,
          fix:
            `bring the passphrase back that ${seat.name} was made with. Where it is lost, or another one is meant: 'cowherd reset' makes such a\n` +
            "seat new under this one; 'cow-img amend' gives a disk, whose passphrase is known, the one that 'cowherd passphrase' tells",
        });
      } catch (error) {
        if (!isDiskError(error) || error.field === 'encrypt') throw error;
      }
    }
  }
}

/** Throws `denied` with these words where the image is under another passphrase. */
export async function assertKeyOpens(
  path: string,
  encryption: DiskEncryption,
  { what, fix }: { readonly what: string; readonly fix: string },
): Promise<void> {
  try {
    const { layer } = await openLayerFile(path, { format: 'qcow2', locks: 'share', ...keyFor(encryption) });
    await layer[Symbol.asyncDispose]();
  } catch (error) {
    if (!isDiskError(error, 'denied') || error.field !== 'key-secret') throw error;
    throw new DiskError('denied', what, { path, field: 'encrypt', detail: { fix } });
  }
}
