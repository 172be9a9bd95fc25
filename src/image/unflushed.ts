import type { Image } from './image.ts';

let kept: Set<Image> | undefined;

/**
 * From now on images that were changed are kept until they are flushed or closed, and are found in the set that this gives: at the end of a program
 * they are those whose last changes are lost. Not those where every byte has its place, since what was written there is there.
 */
function keepUnflushed(): ReadonlySet<Image> {
  kept ??= new Set();
  return kept;
}

/** Has who can tell of it at the program's end tell of such images. */
export function warnOfUnflushed(atExit: (code: string, find: () => string | undefined) => void): void {
  const images = keepUnflushed();
  atExit('COWHERD_UNFLUSHED', () => {
    if (images.size === 0) return undefined;
    const names = [...images].map(({ layer }) => `'${layer.source.name}'`).join(', ');
    return `${names} changed, and neither flush() nor disposing came after: what was written last is lost`;
  });
}

/** For images: what they hold is no longer, or again, what was flushed last. */
export function noteUnflushed(image: Image, unflushed: boolean): void {
  if (unflushed) kept?.add(image);
  else kept?.delete(image);
}
