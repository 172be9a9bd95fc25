import { rmSync, writeFileSync } from 'node:fs';
import type { ScratchFolder } from '../../../platform/scratch-folder.ts';
import { secretXml } from '../../domain/domain-xml.ts';
import type { DiskEncryption, Seat } from '../../seats/seat.ts';
import { layOutPassphrase } from '../secret-file.ts';
import { failed } from './complaints.ts';
import type { Virsh } from './virsh.ts';

/** Tells libvirt the passphrase of a seat's disks, by way of a private folder. */
export async function tellSecret(
  virsh: Pick<Virsh, 'run'>,
  folder: ScratchFolder,
  seat: Seat,
  encryption: DiskEncryption,
): Promise<void> {
  const definition = folder.file(`${encryption.secret}.xml`);
  const value = folder.file(`${encryption.secret}.key`);
  try {
    using _file = await layOutPassphrase(seat, value);
    writeFileSync(definition, secretXml(encryption));
    await virsh.run('secret-define', definition);
    await virsh.run('secret-set-value', '--plain', encryption.secret, '--file', value);
  } catch (error) {
    throw failed(seat, 'be given its passphrase', error);
  } finally {
    rmSync(definition, { force: true });
  }
}
