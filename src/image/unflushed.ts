import { bottomOf, hostFileOf } from '../storage/store.ts';
import type { Image } from './image.ts';

const namesTold = 3;

let kept: Set<Image> | undefined;

/**
 * From now on images in files that were changed are kept until they are flushed or closed; at the end of a program, which `atExit` waits for, those that
 * are left are told of. Not those where every byte has its place, since what was written there is there.
 */
export function warnOfUnflushed(atExit: (code: string, find: () => string | undefined) => void): void {
  kept ??= new Set();
  const images = kept;
  atExit('COWHERD_UNFLUSHED', () => {
    if (images.size === 0) return undefined;
    const names = [...images].slice(0, namesTold).map(({ layer }) => `'${layer.source.name}'`);
    if (images.size > names.length) names.push(`and ${images.size - names.length} more`);
    return `${names.join(', ')} changed, and neither flush() nor disposing came after: what was written last is lost`;
  });
}

/** For images: what they hold is no longer, or again, what was flushed last. */
export function noteUnflushed(image: Image, unflushed: boolean): void {
  if (!unflushed) kept?.delete(image);
  else if (kept && hostFileOf(bottomOf(image.layer.source))) kept.add(image);
}
