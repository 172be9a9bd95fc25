import { alignUp } from '../../bytes/numbers.ts';
import { wipe } from '../../crypto/bytes.ts';
import { amendSlots } from '../../crypto/luks/amend.ts';
import { createHeader, planHeader } from '../../crypto/luks/create.ts';
import { isLuks, luksVersion } from '../../crypto/luks/header.ts';
import { readHeader } from '../../crypto/luks/key-slots.ts';
import { hasLuks2 } from '../../crypto/luks2/header.ts';
import { DiskError } from '../../errors.ts';
import { hasFixedSize } from '../../storage/store.ts';
import type { FormatDriver } from '../driver.ts';
import { luksOptions, namedSecret, requireSecret, slotOptions, slotWish } from '../encryption.ts';
import { sectorBytes } from '../raw/layer.ts';
import { openLuks } from './open.ts';

/** LUKS by itself: a header with key slots, and behind it the guest's disk, sector by sector encrypted. */
export const luks: FormatDriver = {
  name: 'luks',

  createOptions: [
    { name: 'cipher-alg', type: 'string', help: 'Name of encryption cipher algorithm' },
    { name: 'cipher-mode', type: 'string', help: 'Name of encryption cipher mode' },
    { name: 'detached-header', type: 'boolean', help: 'Create a detached LUKS header' },
    { name: 'hash-alg', type: 'string', help: 'Name of encryption hash algorithm' },
    { name: 'iter-time', type: 'number', help: 'Time to spend in PBKDF in milliseconds' },
    { name: 'ivgen-alg', type: 'string', help: 'Name of IV generator algorithm' },
    { name: 'ivgen-hash-alg', type: 'string', help: 'Name of IV generator hash algorithm' },
    {
      name: 'key-secret',
      type: 'string',
      help: 'ID of the secret that provides the keyslot passphrase',
    },
    {
      name: 'preallocation',
      type: 'string',
      help: 'Preallocation mode (allowed values: off, falloc, full)',
    },
    { name: 'size', type: 'size', help: 'Virtual disk size' },
  ],
  openOptions: [{ name: 'key-secret', type: 'string' }],
  startsUndefined: true,
  detachable: true,

  // As QEMU: a file with a newer header is raw to whoever does not say what it is.
  probe: ({ head }) => (isLuks(head) && luksVersion(head) === 1 ? 100 : 0),

  open: openLuks,

  async create(store, size, options, context) {
    const preallocation = preallocationOf(options.preallocation, store.name);
    const passphrase = await requireSecret(context, options['key-secret'], '', store.name);
    try {
      const plan = planHeader(luksOptions(options, ''));
      const detached = options['detached-header'] === true;
      const length = plan.payloadOffset + (detached ? 0 : alignUp(size, sectorBytes));
      if (hasFixedSize(store)) {
        // A device says that it cannot grow.
        if (length > store.size) await store.resize(length);
        // Nor can it set space aside; a server does not care.
        else if (preallocation !== 'off') await store.resize(store.size, { preallocation });
        await store.zero(0, plan.payloadOffset);
      } else {
        await store.resize(0);
        await store.resize(length, { preallocation, onProgress: context.onProgress });
      }
      await createHeader(store, plan, passphrase, { detached, signal: context?.signal });
    } finally {
      wipe(passphrase);
    }
  },

  async measure(request) {
    const { size, options } = request;
    wipe(await requireSecret(request, options['key-secret'], ''));
    const { payloadOffset } = planHeader(luksOptions(options, ''));
    const bytes = BigInt(payloadOffset) + (options['detached-header'] === true ? 0n : size);
    return { required: bytes, fullyAllocated: bytes };
  },

  amendOptions: slotOptions(''),
  async amend(store, values, how = {}) {
    const { headerFile: area = store } = how;
    if (await hasLuks2(area)) {
      throw new DiskError('unsupported', 'Key slots of LUKS2 cannot be changed', {
        path: area.name,
        field: 'version',
      });
    }
    const header = await readHeader(area, { detached: area !== store });
    const passphrase = await requireSecret(how, how.keySecret, '', store.name);
    try {
      await amendSlots(area, header, slotWish(values, '') ?? {}, {
        passphrase,
        force: how.force,
        signal: how.signal,
        secret: (id) => namedSecret(how, id, store.name),
      });
    } finally {
      wipe(passphrase);
    }
  },
};

/** QEMU takes `metadata` too, of which LUKS has none that space could be set aside for. */
function preallocationOf(value: unknown, path: string): 'off' | 'falloc' | 'full' {
  if (value === undefined || value === 'off' || value === 'metadata') return 'off';
  if (value === 'falloc' || value === 'full') return value;
  throw new DiskError('bad-argument', `invalid parameter value: ${value}`, { path, field: 'preallocation' });
}
