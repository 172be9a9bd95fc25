import { alignUp } from '../../bytes/numbers.ts';
import { amendSlots } from '../../crypto/luks/amend.ts';
import { createHeader, planHeader } from '../../crypto/luks/create.ts';
import { isLuks, luksVersion } from '../../crypto/luks/header.ts';
import { readHeader } from '../../crypto/luks/key-slots.ts';
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
    { name: 'hash-alg', type: 'string', help: 'Name of encryption hash algorithm' },
    { name: 'iter-time', type: 'number', help: 'Time to spend in PBKDF in milliseconds' },
    { name: 'ivgen-alg', type: 'string', help: 'Name of IV generator algorithm' },
    { name: 'ivgen-hash-alg', type: 'string', help: 'Name of IV generator hash algorithm' },
    {
      name: 'key-secret',
      type: 'string',
      help: 'ID of the secret that provides the keyslot passphrase',
    },
    { name: 'size', type: 'size', help: 'Virtual disk size' },
  ],
  openOptions: [{ name: 'key-secret', type: 'string' }],
  startsUndefined: true,

  // As QEMU: a file with a newer header is raw to whoever does not say what it is.
  probe: ({ head }) => (isLuks(head) && luksVersion(head) === 1 ? 100 : 0),

  open: openLuks,

  async create(store, size, options, context) {
    const passphrase = await requireSecret(context, options['key-secret'], '', store.name);
    const plan = planHeader(luksOptions(options, ''));
    const length = plan.payloadOffset + alignUp(size, sectorBytes);
    if (hasFixedSize(store)) await store.zero(0, plan.payloadOffset);
    else {
      await store.resize(0);
      await store.resize(length);
    }
    await createHeader(store, plan, passphrase);
  },

  async measure(request) {
    const { size, options } = request;
    await requireSecret(request, options['key-secret'], '');
    const { payloadOffset } = planHeader(luksOptions(options, ''));
    const bytes = BigInt(payloadOffset) + size;
    return { required: bytes, fullyAllocated: bytes };
  },

  amendOptions: slotOptions(''),
  async amend(store, values, how = {}) {
    const header = await readHeader(store);
    const passphrase = await requireSecret(how, how.keySecret, '', store.name);
    await amendSlots(store, header, slotWish(values, '') ?? {}, {
      passphrase,
      force: how.force,
      secret: (id) => namedSecret(how, id, store.name),
    });
  },
};
