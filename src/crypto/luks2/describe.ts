import type { Kdf, Luks2Header } from './metadata.ts';

/** What `info` shows of a LUKS2 header: QEMU reads none, so its keys are those of LUKS1 where they mean the same. */
export function describeLuks2(header: Luks2Header): Record<string, unknown> {
  const { segment, keyBytes, slots, uuid, digest } = header;
  const [cipher, mode, iv] = segment.cipherName.split('-');
  return {
    version: 2,
    'ivgen-alg': iv,
    'hash-alg': digest.hash,
    'cipher-alg': `${cipher}-${keyBytes * 4}`,
    uuid,
    'cipher-mode': mode,
    'sector-size': segment.spec.sectorBytes,
    slots: slots.map((slot) => ({ slot: slot.number, ...costOf(slot.kdf), 'key-offset': slot.areaOffset })),
    'payload-offset': segment.offset,
    'master-key-iters': digest.iterations,
  };
}

function costOf(kdf: Kdf): Record<string, unknown> {
  if (kdf.type === 'pbkdf2') return { kdf: kdf.type, iters: kdf.iterations };
  const { passes, kibibytes, lanes } = kdf.cost;
  return { kdf: kdf.type, time: passes, memory: kibibytes, cpus: lanes };
}
