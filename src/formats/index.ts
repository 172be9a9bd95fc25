import { bochs } from './bochs/index.ts';
import { cloop } from './cloop/index.ts';
import { dmg } from './dmg/index.ts';
import type { FormatDriver } from './driver.ts';
import { luks } from './luks/index.ts';
import { parallels } from './parallels/index.ts';
import { qcow } from './qcow/index.ts';
import { qcow2 } from './qcow2/index.ts';
import { qed } from './qed/index.ts';
import { raw } from './raw/index.ts';
import { vdi } from './vdi/index.ts';
import { vhdx } from './vhdx/index.ts';
import { vmdk } from './vmdk/index.ts';
import { vpc } from './vpc/index.ts';

/** Every format. Adding one is its own folder and one line here. */
export const formats: readonly FormatDriver[] = [
  bochs,
  cloop,
  dmg,
  luks,
  parallels,
  qcow,
  qcow2,
  qed,
  raw,
  vdi,
  vhdx,
  vmdk,
  vpc,
];

/** The driver of that name, or undefined. */
export function findFormat(name: string): FormatDriver | undefined {
  return formats.find((format) => format.name === name);
}
