import { isDiskError } from '../../errors.ts';
import type { ByteSource } from '../../filesystems/source.ts';
import { volumeName } from '../../filesystems/volumes.ts';
import { GuestFiles } from './guest-files.ts';
import { rules } from './rules.ts';

/** Something in a master that would be the same on every clone. */
export interface Finding {
  readonly rule: string;
  /** 'clash': clones hinder each other or share a secret. 'stale': only left over from the master's own life. */
  readonly weight: 'clash' | 'stale';
  /** In the guest, or the volume. */
  readonly path: string;
  /** In words. */
  readonly what: string;
  /** What to type in the guest, before its last shutdown. */
  readonly fix: string;
  /** What `seal --fix` would do about it; absent where that is a person's to decide. */
  readonly remedy?: Remedy;
}

/** 'empty': files keep their names and lose their content. 'clear': all in directories goes. 'files': files at any depth go. */
export interface Remedy {
  readonly do: 'remove' | 'empty' | 'clear' | 'files';
  readonly paths: readonly string[];
}

export interface LintReport {
  readonly findings: readonly Finding[];
  /** What could not be looked into, in words. */
  readonly notes: readonly string[];
}

/** Looks into a guest's file systems for what every clone would share. Changes nothing. */
export async function lintImage(disk: ByteSource): Promise<LintReport> {
  const guest = await GuestFiles.of(disk);
  const notes: string[] = [];
  for (const { volume, system, damage } of guest.volumes) {
    const name = volumeName(volume);
    if (damage !== undefined) notes.push(`${name} cannot be read: ${damage}`);
    if (system?.needsRecovery) {
      notes.push(
        `${name} was not unmounted: shut the guest down properly, else each clone begins with a recovery`,
      );
    }
  }
  if (!guest.hasRoot)
    notes.push(
      'no Linux system was found on ext4 (in a partition or a linear LVM volume): nothing was looked at',
    );
  const findings: Finding[] = [];
  for (const rule of rules) {
    try {
      findings.push(...(await rule(guest)));
    } catch (error) {
      if (!isDiskError(error, 'corrupt') && !isDiskError(error, 'unsupported')) throw error;
      notes.push(`not everything could be looked at: ${error.message}`);
    }
  }
  return { findings, notes };
}
