import { type LuksHeader, sectorBytes } from './header.ts';

/** What `info` shows of a header, by QEMU's keys (QCryptoBlockInfoLUKS). */
export function describeHeader(header: LuksHeader, detached = false): Record<string, unknown> {
  const [mode, generator] = header.cipherMode.split('-');
  const [iv, ivHash] = (generator ?? '').split(':');
  const bits = header.keyBytes * (mode === 'xts' ? 4 : 8);
  return {
    'ivgen-alg': iv,
    ...(iv === 'essiv' ? { 'ivgen-hash-alg': ivHash } : {}),
    'hash-alg': header.hashSpec,
    'cipher-alg': `${header.cipherName}-${bits}`,
    // As later versions of QEMU, which say it of every image.
    ...(detached ? { 'detached-header': true } : {}),
    uuid: header.uuid,
    'cipher-mode': mode,
    slots: header.slots.map((slot) => ({
      active: slot.active,
      ...(slot.active ? { iters: slot.iterations } : {}),
      'key-offset': slot.keyOffset * sectorBytes,
      ...(slot.active ? { stripes: slot.stripes } : {}),
    })),
    'payload-offset': header.payloadOffset * sectorBytes,
    'master-key-iters': header.digestIterations,
  };
}
