import { DiskError } from '../errors.ts';

export type DigestName = 'SHA1' | 'SHA256' | 'SHA512';

/** What a manifest says of a file. */
export interface ManifestLine {
  readonly algorithm: DigestName;
  readonly file: string;
  /** Lower-case hexadecimal digits. */
  readonly digest: string;
}

const line = /^(SHA(?:-?1|-?256|-?512))\s*\((.+)\)\s*=\s*([0-9a-f]+)$/i;
const digits: Readonly<Record<DigestName, number>> = { SHA1: 40, SHA256: 64, SHA512: 128 };

/** Reads a manifest (DSP0243, "OVF package integrity"). Throws `corrupt` for a line that is none, or a file named twice. */
export function parseManifest(text: string, path: string): readonly ManifestLine[] {
  const lines: ManifestLine[] = [];
  const files = new Set<string>();
  for (const [index, raw] of text.split('\n').entries()) {
    const content = raw.replace(/^\ufeff/, '').trim();
    if (content === '') continue;
    const found = line.exec(content);
    const algorithm = found?.[1].toUpperCase().replace('-', '') as DigestName | undefined;
    if (!found || !algorithm || found[3].length !== digits[algorithm] || files.has(found[2])) {
      throw new DiskError('corrupt', `Line ${index + 1} of the manifest is wrong`, {
        path,
        field: 'manifest',
      });
    }
    files.add(found[2]);
    lines.push({ algorithm, file: found[2], digest: found[3].toLowerCase() });
  }
  return lines;
}

export function encodeManifest(lines: readonly ManifestLine[]): string {
  return lines.map(({ algorithm, file, digest }) => `${algorithm}(${file})= ${digest}\n`).join('');
}
