/*
 * Names of parents as Windows programs write them, in the words of this side: what is relative stays relative, and of
 * what lies on a drive or a share only the last part is looked for, beside the image that names it.
 */

/** The file names that a path of a Windows program may mean here, the likeliest first. */
export function namesOfWindowsPath(path: string): string[] {
  const slashed = path.replaceAll('\\', '/');
  if (slashed === '') return [];
  const foreign = /^([a-z]:|\/\/)/i.test(slashed);
  const name = slashed.slice(slashed.lastIndexOf('/') + 1);
  if (!foreign) return [slashed];
  return name === '' || name.includes(':') ? [] : [name];
}

/** The path that a `file:` URL means. */
export function pathOfFileUrl(url: string): string {
  const path = url.replace(/^file:\/\/(localhost)?/, '');
  try {
    return decodeURIComponent(path);
  } catch {
    // Not written as a URL after all.
    return path;
  }
}

/** Names in order, each once, without those that could be taken for a protocol. */
export function distinctNames(names: readonly string[]): string[] {
  const safe = names.map((name) => (/^[^/]*:/.test(name) ? `./${name}` : name));
  return [...new Set(safe)].filter((name) => name !== '' && !name.includes('\0'));
}
