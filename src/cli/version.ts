/** Cowherd's own version: the one in package.json (a test holds them together). */
export const version = '0.1.0';

/** The qemu-img whose behaviour cow-img follows. Scripts read it off `--version` to learn what they may use. */
const followedQemuImg = '7.2.0';

/**
 * `qemu-img version 7.2.0 (cowherd 0.1.0)`: the shape that scripts parse, and who really answers. Through a wrapper (`exec node …/cow-img.js`)
 * the program does not learn by which name it was called.
 */
export function versionText(followed: 'qemu-img version' | 'qemu-nbd'): string {
  return `${followed} ${followedQemuImg} (cowherd ${version})\n`;
}
