import { wipe } from '../../crypto/bytes.ts';
import { DiskError } from '../../errors.ts';
import { secretXml } from '../domain/domain-xml.ts';
import { disksOf, seatPassphrase } from '../seats/seat-key.ts';
import { type LabCommand, say } from './command.ts';
import { oneSeatFrom } from './one-seat.ts';

/**
 * `cowherd passphrase`: the passphrase of a seat's disks, on standard output, without a line's end where that is no terminal: so programs read
 * it. With --definition, libvirt's definition of the secret that the seat's domain names, which holds no passphrase.
 */
export const run: LabCommand = async (input, context) => {
  const { lab, seat } = oneSeatFrom(input, context, 0, 'passphrase classroom.yaml student-03');
  const encryption = disksOf(lab.seats.get(seat)!).find((disk) => disk.encryption)?.encryption;
  if (!encryption) {
    throw new DiskError('bad-argument', `The disks of ${seat} are not encrypted`, {
      field: 'encrypt',
      detail: { fix: "'encrypt:' in the lab file encrypts new disks" },
    });
  }
  if (input.options.definition === true) {
    say(context, secretXml(encryption).trimEnd());
    return 0;
  }
  const passphrase = await seatPassphrase(encryption);
  try {
    context.stdout.write(passphrase);
    if (context.stdout.isTTY) context.stdout.write('\n');
  } finally {
    wipe(passphrase);
  }
  return 0;
};
