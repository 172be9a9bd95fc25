import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import type { CliContext } from '../../cli/context.ts';
import { DiskError } from '../../errors.ts';
import { probeLock } from '../../storage/file.ts';
import { count } from '../describe.ts';
import { nameExists } from '../disks/overlay.ts';
import { shellWord } from '../doctor/access.ts';
import { accountFor, accountNamed } from '../doctor/account.ts';
import { type Ailment, diagnose } from '../doctor/doctor.ts';
import { filesOfDomain, type Needed } from '../doctor/references.ts';
import { defaultUri } from '../runner/libvirt/default-uri.ts';
import { LibvirtRunner } from '../runner/libvirt/libvirt-runner.ts';
import { colours, type Input, type LabCommand, labFrom, say, sayJson, shown, wantsJson } from './command.ts';

/** `cowherd doctor`: what keeps QEMU from opening images. Exit code 1 when something does. */
export const run: LabCommand = async (input, context) => {
  const { needed, uri } = await patient(input, context);
  const { user } = input.options;
  const account = typeof user === 'string' ? accountNamed(user) : accountFor(uri);
  if (!account) throw new DiskError('bad-argument', `There is no user '${String(user)}' here`);
  const found = diagnose(needed, account);
  const diagnosis = { ...found, ailments: [...found.ailments, ...(await othersAtWork(input, needed))] };
  const { ailments } = diagnosis;
  if (wantsJson(input)) sayJson(context, diagnosis);
  else {
    const c = colours(context);
    for (const { path, what, fix, hinders } of ailments) {
      say(context, `${c.red('✗')} ${shown(context, path)}: ${what}`);
      const others = hinders.length > 1 ? ` and ${hinders.length - 1} more` : '';
      say(context, `    in the way of ${hinders[0]}${others}`);
      say(context, `    ${c.bold(fix)}`);
    }
    const files = count(diagnosis.files, 'file');
    if (ailments.length === 0)
      say(context, `${files} looked at: QEMU, as ${account.name}, can open every one`);
    else say(context, `${count(ailments.length, 'problem')} for QEMU as ${account.name}; ${files} looked at`);
  }
  return ailments.length > 0 ? 1 : 0;
};

/** Whose files are to be looked at: a lab's, an image, or a domain's. */
async function patient(
  input: Input,
  context: CliContext,
): Promise<{ needed: readonly Needed[]; uri?: string }> {
  const [operand] = input.operands;
  const connect = typeof input.options.connect === 'string' ? input.options.connect : undefined;
  if (operand === undefined || /\.(ya?ml|json)$/i.test(operand)) {
    const { lab } = labFrom(input, context, 0);
    const { runner, uri, master } = lab.spec;
    const libvirt = runner === 'libvirt' ? (uri ?? defaultUri()) : undefined;
    const needed = [...lab.seats.values()].flatMap(({ name, disk, disks = [], cdrom, seed }): Needed[] => {
      const own = [disk, ...disks].map(
        (one): Needed => ({ path: one.path, wants: 'write', as: `a disk of ${name}` }),
      );
      const drives = [cdrom, seed].flatMap((one) => (one === undefined ? [] : [one]));
      return [
        ...own.filter((one) => nameExists(one.path)),
        ...drives.map((path): Needed => ({ path, wants: 'read', as: `a drive of ${name}` })),
      ];
    });
    const first: Needed = { path: master.path, wants: 'read', as: `the master of ${lab.name}`, shared: true };
    return { needed: [first, ...needed], uri: connect ?? libvirt };
  }
  const path = resolve(context.cwd, operand);
  const uri = connect ?? defaultUri();
  if (existsSync(path)) return { needed: [{ path, wants: 'write', as: operand }], uri };
  if (operand.includes('/')) return { needed: [{ path, wants: 'write', as: operand }], uri };
  await using runner = new LibvirtRunner({ uri });
  const unavailable = await runner.unavailable();
  if (unavailable !== undefined) {
    throw new DiskError('not-found', `There is no file '${operand}', and ${unavailable}`, { path });
  }
  const xml = await runner.domainXml(operand);
  const pathOf = (pool: string, volume: string) => runner.volumePath(pool, volume);
  return { needed: await filesOfDomain(xml, operand, pathOf), uri };
}

/** An image that was named by itself: whether another program writes to it. Seats and domains may well be running. */
async function othersAtWork(input: Input, needed: readonly Needed[]): Promise<readonly Ailment[]> {
  const [one] = needed;
  if (one?.as !== input.operands[0] || !existsSync(one.path)) return [];
  const lock = await probeLock(one.path).catch(() => undefined);
  if (!lock?.writer) return [];
  const what = 'another program has it open for writing, and QEMU lets one alone do that';
  return [{ path: one.path, what, fix: `fuser -v ${shellWord(one.path)}   # who?`, hinders: [one.as] }];
}
