import { isDiskError } from '../../../errors.ts';
import { listedUuids } from './beside-seats.ts';
import { Virsh } from './virsh.ts';

export { defaultUri } from './default-uri.ts';

/** The UUIDs of all domains of a libvirt that the lab file does not name any more; undefined where it does not answer. */
export async function uuidsAt(uri: string): Promise<ReadonlySet<string> | undefined> {
  await using virsh = new Virsh({ uri });
  try {
    return await listedUuids(virsh);
  } catch (error) {
    if (!isDiskError(error)) throw error;
    return undefined;
  }
}
