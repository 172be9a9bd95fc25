import { type ChildProcess, spawn } from 'node:child_process';
import {
  chmodSync,
  copyFileSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { makeDemoMaster } from '../../src/lab/guest/demo-master.ts';
import { freePort } from '../nbd/support.ts';
import { haveLibvirtd, startLibvirtd, type TestLibvirtd } from '../support/libvirtd.ts';
import { have, mustRun, run, tempDir } from '../support/programs.ts';
import { LabBench, qemuCheck } from './support.ts';

const MiB = 1024 * 1024;

/** A host of this machine: a libvirtd and an sshd in one mount namespace. */
interface SshHost extends AsyncDisposable {
  readonly libvirtd: TestLibvirtd;
  readonly port: number;
  /** Lets the sshd and all that came in by it answer nothing any more. */
  freeze(): void;
}

/** Keys and settings for the client, as `~/.ssh` would have them. */
async function makeClient(bench: LabBench): Promise<string> {
  for (const key of ['host-key', 'key'])
    await mustRun('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', bench.path(key)]);
  const settings = [
    'BatchMode yes',
    `IdentityFile ${bench.path('key')}`,
    `UserKnownHostsFile ${bench.path('known')}`,
  ];
  writeFileSync(bench.path('ssh-config'), `${settings.join('\n')}\n`);
  writeFileSync(bench.path('known'), '');
  writeFileSync(bench.path('ssh'), `#!/bin/sh\nexec ssh -F ${bench.path('ssh-config')} "$@"\n`, {
    mode: 0o755,
  });
  return bench.path('ssh');
}

async function startHost(bench: LabBench): Promise<SshHost> {
  const libvirtd = await startLibvirtd();
  const port = await freePort();
  const { dir } = libvirtd;
  copyFileSync(bench.path('key.pub'), dir.file('authorized_keys'));
  const settings = [
    `Port ${port}`,
    'ListenAddress 127.0.0.1',
    `HostKey ${bench.path('host-key')}`,
    `AuthorizedKeysFile ${dir.file('authorized_keys')}`,
    'PidFile none',
    'UsePAM no',
    'StrictModes no',
    'PasswordAuthentication no',
    'PermitRootLogin prohibit-password',
    `SetEnv PATH=${process.env.PATH}`,
  ];
  writeFileSync(dir.file('sshd_config'), `${settings.join('\n')}\n`);
  mkdirSync('/run/sshd', { recursive: true });
  const words = ['-m', '-t', libvirtd.namespace, '/usr/sbin/sshd', '-D', '-e', '-f', dir.file('sshd_config')];
  const child: ChildProcess = spawn('nsenter', words, {
    stdio: ['ignore', 'ignore', 'pipe'],
    detached: true,
  });
  let said = '';
  child.stderr!.on('data', (piece) => {
    said += piece;
  });
  const ended = new Promise<void>((resolve) => child.on('close', () => resolve()));
  while (!said.includes('listening') && child.exitCode === null) await sleep(20);
  if (child.exitCode !== null) throw new Error(`sshd did not start: ${said}`);
  const [type, key] = readFileSync(bench.path('host-key.pub'), 'utf8').split(' ');
  writeFileSync(bench.path('known'), `[127.0.0.1]:${port} ${type} ${key}\n`, { flag: 'a' });
  return {
    libvirtd,
    port,
    freeze: () => process.kill(-child.pid!, 'SIGSTOP'),
    async [Symbol.asyncDispose]() {
      process.kill(-child.pid!, 'SIGKILL');
      await ended;
      await libvirtd[Symbol.asyncDispose]();
    },
  };
}

const wanted = ['sshd', 'ssh', 'ssh-keygen', 'nsenter', 'virt-ssh-helper'];

describe.skipIf(!haveLibvirtd || !wanted.every(have))('a lab over two hosts that are reached by ssh', () => {
  let bench: LabBench;
  let ssh: string;
  const hosts = new Map<string, SshHost>();
  const uri = (host: string) => `qemu+ssh://root@127.0.0.1:${hosts.get(host)!.port}/system?command=${ssh}`;
  const pool = (host: string) => hosts.get(host)!.libvirtd.dir.file('Übung & 1');

  beforeAll(async () => {
    bench = new LabBench(await tempDir('ssh-'));
    chmodSync(bench.dir.path, 0o755);
    ssh = await makeClient(bench);
    for (const host of ['left', 'right']) hosts.set(host, await startHost(bench));
    mkdirSync(bench.path('masters'));
    await makeDemoMaster(bench.path('masters/Schüler.raw'), { size: 8 * MiB, payloadBytes: 0 });
    bench.write('lab.yaml', {
      master: 'masters/Schüler.raw',
      seats: 4,
      runner: 'libvirt',
      hosts: ['left', 'right'].map((name) => ({ name, libvirt: uri(name), pool: pool(name) })),
      guest: 'demo',
      memory: '16M',
      network: 'none',
      template: './emulated.xml',
    });
    // What is said of KVM at the far end cannot be tried from here.
    writeFileSync(
      bench.path('emulated.xml'),
      `<domain type='qemu'><name>x</name><memory>1</memory><os><type>hvm</type></os><on_poweroff>destroy</on_poweroff><features><acpi/></features></domain>`,
    );
  }, 120_000);
  afterAll(async () => {
    for (const host of hosts.values()) await host[Symbol.asyncDispose]();
    await bench?.[Symbol.asyncDispose]();
  }, 60_000);

  it('copies the master with its holes, boots every seat there, and does without a host that hangs', async () => {
    // Hosts have pools of their own: ours is one of several, and one is there already.
    const { libvirtd } = hosts.get('left')!;
    for (const [name, path] of [
      ['a', pool('left')],
      ['a-pool-with-a-long-name', libvirtd.dir.file('other')],
    ]) {
      mkdirSync(path);
      const xml = `<pool type='dir'><name>${name}</name><target><path>${path.replace('&', '&amp;')}</path></target></pool>`;
      writeFileSync(bench.path('pool.xml'), xml);
      await mustRun('virsh', ['-c', libvirtd.uri, 'pool-define', bench.path('pool.xml')]);
    }
    await bench.must('up');
    expect(await bench.must('up')).toContain('nothing to do');
    expect((await mustRun('virsh', ['-c', libvirtd.uri, 'pool-list', '--name'])).trim()).toBe('a');
    for (const host of hosts.keys()) {
      const names = readdirSync(pool(host));
      const copy = names.find((name) => name.endsWith('.raw'))!;
      expect(copy).toMatch(/^Sch-ler\+[0-9a-f]{16}\.raw$/);
      const path = `${pool(host)}/${copy}`;
      expect(readFileSync(path).equals(readFileSync(bench.path('masters/Schüler.raw')))).toBe(true);
      expect(statSync(path).blocks * 512).toBeLessThan(MiB);
      for (const name of names.filter((one) => one.endsWith('.qcow2')))
        await qemuCheck(`${pool(host)}/${name}`);
    }
    const boots = async (...seats: string[]) => {
      const { started } = await bench.json<{ started: { lines: string[] }[] }>(
        'start',
        'lab.yaml',
        ...seats,
        '--watch',
      );
      return started.map(({ lines }) => /seat=\S+ boots=\d+/.exec(lines.join())?.[0]).sort();
    };
    expect(await boots()).toEqual([1, 2, 3, 4].map((n) => `seat=student-0${n} boots=1`));

    // A host that takes connections and says nothing: ssh itself would wait without end.
    const { seats } = await bench.json<{ seats: { name: string; host: string }[] }>('status');
    const on = (host: string) => seats.filter((one) => one.host === host).map(({ name }) => name);
    hosts.get('right')!.freeze();
    const said = await bench.run('start', 'lab.yaml', '--watch');
    expect(said.err).toMatch(/the host right is not there, its seats wait: no answer within/);
    for (const name of on('left')) expect(said.out).toContain(`seat=${name} `);
    for (const name of on('right')) expect(said.out).not.toContain(`seat=${name} `);
  }, 300_000);

  it('says in plain words what is wrong with a host', async () => {
    const told = async (change: (uri: string) => string) => {
      const name = 'other.yaml';
      bench.write(name, {
        lab: 'other',
        master: 'masters/Schüler.raw',
        seats: 1,
        runner: { libvirt: change(uri('left')) },
      });
      return (await bench.run('up', name)).err;
    };
    writeFileSync(bench.path('unknown'), '');
    const strict = readFileSync(bench.path('ssh-config'), 'utf8').replace(
      bench.path('known'),
      bench.path('unknown'),
    );
    writeFileSync(bench.path('ssh-strict'), strict);
    writeFileSync(bench.path('ssh2'), `#!/bin/sh\nexec ssh -F ${bench.path('ssh-strict')} "$@"\n`, {
      mode: 0o755,
    });
    expect(await told((one) => one.replace(/command=.*/, `command=${bench.path('ssh2')}`))).toContain(
      'Host key verification failed',
    );
    expect(await told((one) => one.replace('root@', 'nobody-of-that-name@'))).toContain('Permission denied');
    expect((await run('sh', ['-c', `pgrep -f '[s]sh -F ${bench.dir.path}/ssh-strict'`])).stdout).toBe('');
  }, 60_000);
});
