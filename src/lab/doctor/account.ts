import { readFileSync } from 'node:fs';
import { userInfo } from 'node:os';
import { DiskError } from '../../errors.ts';

/** Who opens an image, as the kernel sees it. */
export interface Account {
  readonly name: string;
  readonly uid: number;
  readonly gids: ReadonlySet<number>;
  /** libvirt makes this account the owner of disks before QEMU opens them. */
  readonly becomesOwner: boolean;
}

const configFile = '/etc/libvirt/qemu.conf';
/** Debian's, then what everybody else calls it. */
const usualNames = ['libvirt-qemu', 'qemu'];

/** The account of a libvirt's guests, by its URI; undefined: our own runner's, which is the user's own. */
export function accountFor(uri: string | undefined, etc = '/etc'): Account {
  const system = uri !== undefined && /^qemu(\+unix)?:\/\/\/system/.test(uri);
  if (!system) return ownAccount();
  const config = readText(configFile);
  const setting = (name: string) =>
    new RegExp(`^\\s*${name}\\s*=\\s*"?([^"\\n]*)"?`, 'm').exec(config)?.[1].trim();
  const becomesOwner = setting('dynamic_ownership') !== '0';
  const names = setting('user') ? [setting('user')!.replace(/^\+/, '')] : usualNames;
  for (const name of names) {
    const account = accountNamed(name, etc);
    if (account) return { ...account, becomesOwner };
  }
  throw new DiskError(
    'not-found',
    `There is no user ${names.join(' or ')} here, as whom libvirt would run QEMU`,
    {
      path: configFile,
      detail: { fix: 'install libvirt (libvirt-daemon-system), or name the user: --user NAME' },
    },
  );
}

/** An account by its name or number; undefined where there is none. */
export function accountNamed(name: string, etc = '/etc'): Account | undefined {
  for (const line of readText(`${etc}/passwd`).split('\n')) {
    const [login, , uid, gid] = line.split(':');
    if (login !== name && uid !== name) continue;
    const gids = new Set([Number(gid)]);
    for (const group of readText(`${etc}/group`).split('\n')) {
      const [, , number, members] = group.split(':');
      if (members?.split(',').includes(login)) gids.add(Number(number));
    }
    return { name: login, uid: Number(uid), gids, becomesOwner: false };
  }
  return undefined;
}

function ownAccount(): Account {
  const { username, uid } = userInfo();
  return { name: username, uid, gids: new Set(process.getgroups?.() ?? []), becomesOwner: false };
}

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}
