import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { have, type TempDir, tempDir } from '../../../test/support/programs.ts';
import { type ChooseOptions, chooseAccelerator } from './accelerator.ts';
import { findQemu } from './qemu-command.ts';

const qemu = 'qemu-system-x86_64';

let folder: TempDir;
/** Stands for /dev/kvm: a file that may be opened. */
let device: string;

beforeEach(async () => {
  folder = await tempDir();
  device = folder.file('kvm');
  writeFileSync(device, '');
});
afterEach(() => folder.remove());

/** A QEMU that notes each start and, asked for KVM, does `kvm`; asked for TCG, is the real one. */
function fakeQemu(kvm: string): ChooseOptions {
  const program = folder.file('qemu');
  writeFileSync(
    program,
    `#!/bin/sh
case "$*" in *"-accel kvm"*) accelerator=kvm ;; *) accelerator=tcg ;; esac
echo $accelerator >> '${folder.file('starts')}'
# The arguments, with KVM and its processor exchanged for what works everywhere.
for argument; do
  shift
  case "$argument" in kvm) argument=tcg ;; host) argument=max ;; esac
  set -- "$@" "$argument"
done
if [ $accelerator = kvm ]; then
  ${kvm}
fi
exec '${findQemu() ?? ''}' "$@"
`,
    { mode: 0o755 },
  );
  return { qemu: program, kvmDevice: device, cacheDir: folder.file('cache') };
}

function starts(): string[] {
  const file = folder.file('starts');
  return existsSync(file) ? readFileSync(file, 'utf8').trim().split('\n') : [];
}

describe('chooseAccelerator', () => {
  it('emulates where there is no device, without starting anything', async () => {
    const options = { ...fakeQemu('exit 1'), kvmDevice: folder.file('none') };
    expect(await chooseAccelerator(options)).toMatchObject({ accelerator: 'tcg' });
    expect(starts()).toEqual([]);
  });

  it('emulates where KVM hangs, and ends what hung', async () => {
    const options = fakeQemu(`echo $$ > '${folder.file('pid')}'; exec sleep 60`);
    const began = Date.now();
    const choice = await chooseAccelerator({ ...options, limitMs: 400 });
    expect(choice.accelerator).toBe('tcg');
    expect(choice.reason).toContain('did not finish');
    expect(Date.now() - began).toBeLessThan(5_000);
    const pid = Number(readFileSync(folder.file('pid'), 'utf8'));
    await expect.poll(() => isThere(pid)).toBe(false);
  });

  it('emulates where KVM fails, or ends without having booted anything', async () => {
    expect(await chooseAccelerator(fakeQemu('exit 1'))).toMatchObject({ accelerator: 'tcg' });
    await folder.remove();
    folder = await tempDir();
    device = folder.file('kvm');
    writeFileSync(device, '');
    expect(await chooseAccelerator(fakeQemu('exit 0'))).toMatchObject({ accelerator: 'tcg' });
  });

  it('stops when told to', async () => {
    const controller = new AbortController();
    setTimeout(() => controller.abort(), 50);
    await expect(
      chooseAccelerator({ ...fakeQemu('exec sleep 60'), signal: controller.signal }),
    ).rejects.toMatchObject({ code: 'aborted' });
    expect(existsSync(folder.file('cache'))).toBe(false);
  });
});

describe.skipIf(!have(qemu))('chooseAccelerator with real guests', () => {
  it('takes KVM that boots a guest in good time, and remembers it', async () => {
    const options = fakeQemu(':');
    expect(await chooseAccelerator(options)).toMatchObject({ accelerator: 'kvm' });
    const before = starts();
    expect(before[0]).toBe('kvm');
    expect(await chooseAccelerator(options)).toMatchObject({ accelerator: 'kvm' });
    expect(starts()).toEqual(before);
    writeFileSync(folder.file('cache/accelerator.json'), '{"key": ');
    await chooseAccelerator(options);
    expect(starts().length).toBeGreaterThan(before.length);
  });

  it('emulates where KVM crawls', async () => {
    const choice = await chooseAccelerator(fakeQemu('sleep 4'));
    expect(starts()).toEqual(['kvm', 'tcg']);
    expect(choice.accelerator).toBe('tcg');
    expect(choice.reason).toContain('slower here than emulation');
  });

  it("answers for this machine's own KVM in bounded time", async () => {
    const began = Date.now();
    const choice = await chooseAccelerator({ qemu: findQemu()!, cacheDir: folder.file('cache') });
    expect(['kvm', 'tcg']).toContain(choice.accelerator);
    expect(choice.reason).not.toBe('');
    expect(Date.now() - began).toBeLessThan(20_000);
  });
});

function isThere(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}
