import { type ChildProcess, spawn } from 'node:child_process';
import { chmodSync, existsSync, readFileSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { have, isRoot, run, type TempDir, tempDir } from './programs.ts';

/** Whether a libvirtd of a test's own can be started here. */
export const haveLibvirtd =
  isRoot && ['libvirtd', 'virtlogd', 'virsh', 'tini', 'unshare', 'qemu-system-x86_64'].every(have);

/** A system libvirtd with nothing in it, that no other libvirt of this machine knows of. */
export interface TestLibvirtd extends AsyncDisposable {
  readonly uri: string;
  /** Its own folder, which QEMU's user may enter; a place for images too. */
  readonly dir: TempDir;
  /** What it has logged. */
  log(): string;
  /** Ends the daemon as a fault would; guests run on. */
  kill(): Promise<void>;
  /** Starts it again. */
  restart(): Promise<void>;
  /** A process that sees /run/libvirt as the daemon does, for nsenter. */
  readonly namespace: string;
}

const privatePlaces =
  '/run/libvirt /etc/libvirt/qemu /etc/libvirt/storage /var/lib/libvirt /var/log/libvirt /var/cache/libvirt';

/** Ends with its input: whatever it started, guests too, it ends by their numbers. Each line of it starts the daemon anew. */
const script = `
dir=$1
for place in ${privatePlaces}; do mkdir -p $place; mount -t tmpfs -o mode=755 none $place; done
mkdir -p /var/lib/libvirt/qemu /var/log/libvirt/qemu
virtlogd -d -p /run/libvirt/virtlogd.pid
# Where programs of this namespace look for it (virt-ssh-helper).
ln -s $dir/libvirt-sock /run/libvirt/libvirt-sock
start() { tini -s -- libvirtd -f $dir/libvirtd.conf --pid-file $dir/libvirtd.pid >>$dir/log 2>&1 & }
start
while read -r _; do start; done
daemon=$(cat $dir/libvirtd.pid)
kill $daemon
while kill -0 $daemon 2>/dev/null; do sleep 0.1; done
for file in /run/libvirt/qemu/*.pid; do [ -f $file ] && kill -9 $(cat $file) 2>/dev/null; done
kill $(cat /run/libvirt/virtlogd.pid)
wait
`;

/**
 * Starts a libvirtd in a mount namespace of its own, with empty folders in place of the machine's; its socket is outside, so
 * that every program reaches it by its URI.
 */
export async function startLibvirtd(): Promise<TestLibvirtd> {
  const dir = await tempDir('lv-');
  chmodSync(dir.path, 0o755);
  const settings = [`unix_sock_dir = "${dir.path}"`, 'auth_unix_rw = "none"', 'auth_unix_ro = "none"'];
  writeFileSync(dir.file('libvirtd.conf'), `${settings.join('\n')}\n`);
  const child: ChildProcess = spawn('unshare', ['-m', 'bash', '-c', script, 'libvirtd', dir.path], {
    stdio: ['pipe', 'ignore', 'ignore'],
  });
  const ended = new Promise<void>((resolve) => child.on('close', () => resolve()));
  const uri = `qemu+unix:///system?socket=${dir.file('libvirt-sock')}`;
  const log = () => (existsSync(dir.file('log')) ? readFileSync(dir.file('log'), 'utf8') : '');
  const stop = async () => {
    child.stdin!.end();
    await ended;
    await dir.remove();
  };
  const answers = async () => {
    const limit = Date.now() + 30_000;
    while ((await run('virsh', ['-c', uri, 'uri'])).code !== 0) {
      if (child.exitCode !== null || Date.now() > limit) {
        const said = log();
        await stop();
        throw new Error(`libvirtd did not start: ${said}`);
      }
      await sleep(100);
    }
  };
  const kill = async () => {
    const pid = Number(readFileSync(dir.file('libvirtd.pid'), 'utf8'));
    process.kill(pid, 'SIGKILL');
    while (existsSync(`/proc/${pid}`)) await sleep(20);
  };
  const restart = async () => {
    child.stdin!.write('\n');
    await answers();
  };
  await answers();
  return { uri, dir, log, kill, restart, namespace: String(child.pid), [Symbol.asyncDispose]: stop };
}
