import { DiskError } from '../errors.ts';
import type { FormatDriver, ProbeView } from '../formats/driver.ts';
import type { ByteSource } from '../storage/store.ts';
import { signatureOf } from './foreign.ts';

/** As many of the first bytes as QEMU looks at, and as `DiskImage` guards in a raw image. */
export const probedBytes = 512;

export async function readProbeView(source: ByteSource): Promise<ProbeView> {
  const { size, name } = source;
  const head = new Uint8Array(Math.min(probedBytes, size));
  if (head.length > 0) await source.read(0, head);
  return { head, size, name };
}

/**
 * The driver that knows the view best. Throws `unsupported` (field `format`, the name in `detail.format`) for a
 * format that is known by its signature only: taking it for raw would hand out its metadata as guest data.
 */
export function probeFormat(view: ProbeView, drivers: readonly FormatDriver[]): FormatDriver {
  const format = guessFormat(view, drivers);
  const driver = drivers.find((candidate) => candidate.name === format);
  if (driver) return driver;
  const message = format
    ? `The image is in ${format} format, which is not supported yet`
    : 'The image is in no known format';
  throw new DiskError('unsupported', message, { path: view.name, field: 'format', detail: { format } });
}

/** The name of the format that the view looks like most, with a driver here or without. */
export function guessFormat(view: ProbeView, drivers: readonly FormatDriver[]): string | undefined {
  let best: FormatDriver | undefined;
  let bestScore = 0;
  for (const driver of drivers) {
    const score = driver.probe(view);
    if (score > bestScore) {
      best = driver;
      bestScore = score;
    }
  }
  // Raw's 1 says only that nobody else wants it.
  return bestScore > 1 ? best?.name : (signatureOf(view.head) ?? best?.name);
}

/** The driver of that name. Throws `bad-argument` (field `format`) for a name that is none. */
export function requireFormat(name: string, drivers: readonly FormatDriver[], path?: string): FormatDriver {
  const driver = drivers.find((candidate) => candidate.name === name);
  if (driver) return driver;
  throw new DiskError('bad-argument', `No format is called '${name}'`, {
    path,
    field: 'format',
    detail: { format: name },
  });
}
