import type { DomainType } from '../../domain/domain-xml.ts';
import { chooseAccelerator } from '../accelerator.ts';
import { findQemu } from '../qemu-command.ts';
import { unreachable } from './complaints.ts';
import type { Virsh } from './virsh.ts';

/** What a hypervisor's new domains are to be: `kvm` where it offers that and, on this machine, it was found to work. */
export async function findDomainType(virsh: Pick<Virsh, 'run'>, uri: string): Promise<DomainType> {
  if (/^test[+:]/.test(uri)) return 'test';
  const capabilities = await virsh.run('capabilities').catch((error: unknown) => {
    throw unreachable(uri, error);
  });
  if (!/<domain type=['"]kvm['"]/.test(capabilities)) return 'qemu';
  const qemu = findQemu();
  // Of another machine nothing can be tried from here.
  if (qemu === undefined || !/^qemu(\+unix)?:\/\/\//.test(uri)) return 'kvm';
  const { accelerator } = await chooseAccelerator({ qemu });
  return accelerator === 'kvm' ? 'kvm' : 'qemu';
}
