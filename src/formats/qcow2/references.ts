import type { ByteSource } from '../../storage/store.ts';
import type { HeaderReference } from '../driver.ts';
import { Incompatible } from './constants.ts';
import { backingFileOf, backingFormatOf, dataFileNameOf } from './extensions.ts';
import { hasIncompatible, readHeader } from './header.ts';

/**
 * The files that the header names: the backing file and, where the image has one, the external data file (header
 * extension 0x44415441; the name counts only with its feature bit). Throws `corrupt` for a header that is none.
 */
export async function referencesOf(source: ByteSource): Promise<readonly HeaderReference[]> {
  const header = await readHeader(source, { lenient: true });
  const found: HeaderReference[] = [];
  const backing = backingFileOf(header);
  if (backing !== undefined)
    found.push({ role: 'backing file', path: backing, format: backingFormatOf(header) });
  const dataFile = dataFileNameOf(header);
  if (dataFile !== undefined && hasIncompatible(header, Incompatible.dataFile)) {
    found.push({ role: 'data file', path: dataFile });
  }
  return found;
}
