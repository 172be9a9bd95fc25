import { copyFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { haveLibvirtd, startLibvirtd, type TestLibvirtd } from '../../../../test/support/libvirtd.ts';
import { have, mustRun, run, tempDir } from '../../../../test/support/programs.ts';
import { bootDisk, endlessGuest, seatOn } from '../../../../test/support/seats.ts';
import { type DomainType, domainName, domainXml } from '../../domain/domain-xml.ts';
import { HostPool } from '../../remote/host-pool.ts';
import type { Seat } from '../../seats/seat.ts';
import { LibvirtRunner } from './libvirt-runner.ts';
import { connectLimitMs, Virsh } from './virsh.ts';

const write = (seat: Seat, type: DomainType) => writeFileSync(seat.definition, domainXml(seat, { type }));

describe.skipIf(!have('virsh'))('virsh on a leash', () => {
  it('answers many commands in order, and complains of each by itself', async () => {
    await using virsh = new Virsh({ uri: 'test:///default' });
    const answers = await Promise.allSettled([
      virsh.run('domstate', 'test', '--reason'),
      virsh.run('domstate', 'nobody'),
      virsh.run('list', '--all', '--name'),
      virsh.run('echo', `it's "a" $HOME\\`),
      // Longer than a terminal is wide.
      virsh.run('echo', 'x'.repeat(300)),
      virsh.run('no-such-command'),
      virsh.run('start', 'test'),
    ]);
    expect(answers.map((one) => (one.status === 'fulfilled' ? one.value : one.reason.code))).toEqual([
      'running (unknown)',
      'not-found',
      'test',
      `it's "a" $HOME\\`,
      'x'.repeat(300),
      'io',
      'in-use',
    ]);
    for (const wrong of ['a\nb', 'a\tb', '\x1b[A'])
      await expect(virsh.run('echo', wrong)).rejects.toMatchObject({ code: 'bad-argument' });
    expect(await virsh.run('echo', 'Vorlage für 課程 (1)')).toBe('Vorlage für 課程 (1)');
  });

  it('gives up a host that takes a connection and says nothing', async () => {
    const sockets: Socket[] = [];
    const server = createServer((socket) => sockets.push(socket));
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    try {
      const uri = `qemu+tcp://127.0.0.1:${(server.address() as AddressInfo).port}/system`;
      await using virsh = new Virsh({ uri, limitMs: 500 });
      const ends = await Promise.allSettled([virsh.run('uri'), virsh.run('list')]);
      const said = ends.map((one) => one.status === 'rejected' && one.reason.message);
      expect(said).toEqual(['no answer within 0.5 s', 'no answer within 0.5 s']);
      expect(connectLimitMs(uri)).toBeLessThan(connectLimitMs('qemu:///system'));
      expect(connectLimitMs('qemu+unix:///system?socket=/a//b')).toBe(connectLimitMs('qemu:///system'));
    } finally {
      for (const socket of sockets) socket.destroy();
      server.close();
    }
  });

  it('says what is missing', async () => {
    await using nowhere = new LibvirtRunner({ uri: 'qemu+unix:///system?socket=/nonexistent/socket' });
    expect(await nowhere.unavailable()).toContain('libvirt does not answer at qemu+unix:///system');
    await using none = new LibvirtRunner({ uri: 'test:///default', virsh: '/nonexistent/virsh' });
    expect(await none.unavailable()).toContain('No virsh was found');
  });
});

describe.skipIf(!have('virsh'))("the libvirt runner, over libvirt's driver without guests", () => {
  it('defines, starts, stops and forgets; a second time changes nothing', async () => {
    await using folder = await tempDir();
    await using runner = new LibvirtRunner({ uri: 'test:///default' });
    expect(await runner.domainType()).toBe('test');
    const seat = seatOn(folder, 'one');
    write(seat, 'test');
    expect(await runner.state(seat)).toBe('off');
    expect(await runner.pending([seat])).toEqual([seat]);
    await runner.define(seat);
    await runner.define(seat);
    expect(await runner.pending([seat])).toEqual([]);
    await runner.start(seat);
    await expect(runner.start(seat)).rejects.toMatchObject({ code: 'in-use' });
    expect(await runner.state(seat)).toBe('running');
    await expect(runner.undefine(seat)).rejects.toMatchObject({ code: 'in-use' });
    await runner.stop(seat);
    expect(await runner.waitOff(seat)).toBe('powered-off');
    write({ ...seat, cpus: 2 }, 'test');
    expect(await runner.pending([seat])).toEqual([seat]);
    await runner.define(seat);
    expect(await runner.domainXml(seat.uuid)).toContain('>2</vcpu>');
    await runner.renew(seat);
    await runner.undefine(seat);
    await runner.undefine(seat);
    expect(await runner.pending([seat])).toEqual([seat]);
  });

  it('never touches what others defined', async () => {
    await using folder = await tempDir();
    await using runner = new LibvirtRunner({ uri: 'test:///default' });
    const seat = {
      ...seatOn(folder, 'one'),
      uuid: (await runner.domainXml('test')).match(/<uuid>(.*)<\/uuid>/)![1],
    };
    write(seat, 'test');
    await expect(runner.define(seat)).rejects.toMatchObject({ code: 'exists' });
    await runner.undefine(seat);
    expect(await runner.domainXml('test')).toContain(seat.uuid);
    // Another copy of the lab: the same UUIDs, another folder.
    const mine = seatOn(folder, 'two');
    mkdirSync(folder.file('copy'));
    const copy = { ...mine, definition: folder.file('copy/two.xml') };
    for (const one of [mine, copy]) write(one, 'test');
    await runner.define(mine);
    await expect(runner.define(copy)).rejects.toMatchObject({ code: 'exists' });
    await runner.undefine(copy);
    expect(await runner.pending([mine])).toEqual([]);
    await runner.start(mine);
    for (const one of [copy, seat]) {
      await expect(runner.stop(one, { gracefulMs: 0 })).rejects.toMatchObject({ code: 'exists' });
      expect(await runner.state(one)).toBe('running');
    }
    await runner.stop(mine);
  });

  it('refuses what libvirt’s schema refuses', async () => {
    await using folder = await tempDir();
    await using runner = new LibvirtRunner({ uri: 'test:///default' });
    const seat = seatOn(folder, 'one');
    writeFileSync(
      seat.definition,
      domainXml(seat, { type: 'test' }).replace('<acpi/>', '<acpi>maybe</acpi>'),
    );
    await expect(runner.define(seat)).rejects.toThrow(
      /Seat 'one' cannot be defined:.*failed to validate against schema/,
    );
  });

  it('defines none of a lab whose first definition the schema refuses', async () => {
    await using folder = await tempDir();
    await using runner = new LibvirtRunner({ uri: 'test:///default' });
    const seats = Array.from({ length: 5 }, (_, i) => seatOn(folder, `seat-${i}`));
    for (const seat of seats)
      writeFileSync(
        seat.definition,
        domainXml(seat, { type: 'test' }).replace('<acpi/>', '<acpi>maybe</acpi>'),
      );
    const ends = await Promise.allSettled(seats.map((seat) => runner.define(seat)));
    expect(ends.map(({ status }) => status)).toEqual(seats.map(() => 'rejected'));
    expect(await runner.pending(seats)).toEqual(seats);
  });

  it('defines 200 seats over one virsh, with two commands for each and one look at the schema', async () => {
    await using folder = await tempDir();
    const virsh = folder.file('virsh');
    const heard = folder.file('heard');
    writeFileSync(virsh, `#!/bin/sh\necho started >> ${heard}\ntee -a ${heard} | virsh "$@"\n`, {
      mode: 0o755,
    });
    await using runner = new LibvirtRunner({ uri: 'test:///default', virsh });
    const seats = Array.from({ length: 200 }, (_, i) => seatOn(folder, `seat-${i}`));
    for (const seat of seats) write(seat, 'test');
    await Promise.all(seats.map((seat) => runner.define(seat)));
    expect(await runner.pending(seats)).toEqual([]);
    const said = readFileSync(heard, 'utf8')
      .split('\n')
      .filter((line) => line !== '' && !line.startsWith('echo '));
    const times = (words: RegExp) => said.filter((line) => words.test(line)).length;
    expect(times(/^started$/)).toBe(1);
    expect(times(/^define /)).toBe(200);
    expect(times(/^define --validate /)).toBe(1);
    // One look at each before, and one after.
    expect(times(/^metadata /)).toBe(400);
    expect(said).toHaveLength(1 + 200 + 400 + 1);
    writeFileSync(heard, '');
    const states = [];
    for (const seat of seats) states.push(await runner.state(seat));
    expect(new Set(states)).toEqual(new Set(['off']));
    expect(await runner.saved(seats)).toEqual([]);
    const asked = readFileSync(heard, 'utf8').split('\n');
    // What was saved is asked of all at once: not with every state.
    const lists = asked.filter((line) => line.startsWith('list ')).length;
    expect([asked.filter((line) => line.startsWith('domstate ')).length, lists > 1 && lists < 40]).toEqual([
      200,
      true,
    ]);
  }, 60_000);
});

describe.skipIf(!haveLibvirtd)('the libvirt runner, over QEMU', () => {
  let libvirtd: TestLibvirtd;
  beforeAll(async () => {
    libvirtd = await startLibvirtd();
  }, 60_000);
  afterAll(() => libvirtd?.[Symbol.asyncDispose]());

  it('boots a guest, shows what it says, and stops it hard', async () => {
    await using runner = new LibvirtRunner({ uri: libvirtd.uri, domainType: 'qemu' });
    const seat = seatOn(libvirtd.dir, 'endless', bootDisk(libvirtd.dir, 'endless', endlessGuest));
    write(seat, 'qemu');
    await runner.start(seat);
    try {
      expect(await runner.state(seat)).toBe('running');
      let said = '';
      for await (const piece of runner.console(seat, { follow: true })) {
        said += new TextDecoder().decode(piece);
        if (said.includes('!')) break;
      }
      expect(said.trim()).toBe('!');
      await expect(runner.waitOff(seat, { timeoutMs: 300 })).rejects.toMatchObject({ field: 'timeout' });
      await runner.stop(seat, { gracefulMs: 200 });
      expect(await runner.state(seat)).toBe('off');
      const pid = async () => (await mustRun('pgrep', ['-f', `uuid ${seat.uuid}`])).trim();
      const virsh = (word: string) => mustRun('virsh', ['-c', libvirtd.uri, word, seat.uuid]);
      // A killed QEMU is a crash; of what else is done to it none is the guest's own shutdown.
      const ends = [
        ['cut-off', 'off', async () => mustRun('kill', [await pid()])],
        ['cut-off', 'off', () => virsh('destroy')],
        ['crashed', 'crashed', async () => mustRun('kill', ['-9', await pid()])],
      ] as const;
      for (const [end, state, does] of ends) {
        await runner.start(seat);
        const waiting = runner.waitOff(seat, { timeoutMs: 20_000 });
        // It listens by then.
        await sleep(1_000);
        await does();
        expect(await waiting).toBe(end);
        expect(await runner.state(seat)).toBe(state);
      }
    } finally {
      await runner.stop(seat, { gracefulMs: 0 });
      await runner.undefine(seat);
    }
    expect((await run('virsh', ['-c', libvirtd.uri, 'domuuid', domainName(seat)])).code).not.toBe(0);
  }, 120_000);

  it('takes no look-up that was cut off for one that has found nothing', async () => {
    await using virsh = new Virsh({ uri: libvirtd.uri });
    await using pool = new HostPool(libvirtd.uri, libvirtd.dir.file('pool'));
    await pool.open(true);
    await pool.put('disk', new Uint8Array(512).fill(7));
    expect(await pool.read('nothing')).toBeUndefined();
    for (const ask of [() => virsh.run('domstate', 'nobody'), () => pool.read('disk')]) {
      await virsh.run('uri');
      await pool.list();
      process.kill(Number(readFileSync(libvirtd.dir.file('libvirtd.pid'), 'utf8')), 'SIGSTOP');
      const asked = ask();
      asked.catch(() => undefined);
      await sleep(300);
      await libvirtd.kill();
      await expect(asked).rejects.toMatchObject({ code: 'io' });
      await libvirtd.restart();
    }
    await expect(virsh.run('domstate', 'nobody')).rejects.toMatchObject({ code: 'not-found' });
    expect(await pool.read('disk')).toHaveLength(512);
  }, 60_000);

  it('takes a guest that is off before libvirt could greet it for one that has run', async () => {
    await using runner = new LibvirtRunner({ uri: libvirtd.uri, domainType: 'qemu' });
    // Says `!` and powers off by APM (INT 15h).
    const code =
      "mov dx, 0x3f8\nmov al, '!'\nout dx, al\nmov ax, 0x5301\nxor bx, bx\nint 0x15\nmov ax, 0x530e\nxor bx, bx\nmov cx, 0x0102\nint 0x15\nmov ax, 0x5307\nmov bx, 1\nmov cx, 3\nint 0x15\nstop:\nhlt\njmp stop";
    const seat = seatOn(libvirtd.dir, 'short', bootDisk(libvirtd.dir, 'short', code));
    write(seat, 'qemu');
    for (let i = 0; i < 3; i++) {
      await runner.start(seat);
      expect(await runner.waitOff(seat, { timeoutMs: 30_000 })).toBe('powered-off');
    }
    await runner.undefine(seat);
  }, 120_000);

  it.skipIf(!have('swtpm') || !have('swtpm_setup') || !existsSync('/usr/share/OVMF/OVMF_CODE_4M.fd'))(
    'gives each seat firmware variables and a TPM of its own; a reset makes them new, and forgets a saved memory',
    async () => {
      await using runner = new LibvirtRunner({ uri: libvirtd.uri, domainType: 'qemu' });
      const virsh = (...args: string[]) => mustRun('virsh', ['-c', libvirtd.uri, ...args]);
      const disk = bootDisk(libvirtd.dir, 'uefi', endlessGuest);
      const made = [1, 2].map((n) =>
        seatOn(libvirtd.dir, `uefi-${n}`, disk, { firmware: 'uefi', tpm: true, memoryMiB: 128 }),
      );
      const seats = made.map((seat) => ({
        ...seat,
        disk: { ...seat.disk, path: `${seat.disk.path}.${seat.name}` },
      }));
      try {
        for (const seat of seats) {
          copyFileSync(disk.path!, seat.disk.path);
          write(seat, 'qemu');
          await runner.start(seat);
        }
        const live = await Promise.all(seats.map((seat) => virsh('dumpxml', seat.uuid)));
        const variables = live.map((xml) => /<nvram[^>]*>(.*)<\/nvram>/.exec(xml)![1]);
        expect(new Set(variables).size).toBe(2);
        for (const xml of live) expect(xml).toContain("<backend type='emulator' version='2.0'");
        const [seat] = seats;
        await virsh('managedsave', seat.uuid);
        expect(await runner.state(seat)).toBe('saved');
        expect(await runner.saved(seats)).toEqual([seat]);
        expect(await virsh('dominfo', seat.uuid)).toMatch(/Managed save:\s+yes/);
        await runner.renew(seat);
        expect(await virsh('dominfo', seat.uuid)).toMatch(/Managed save:\s+no/);
        expect(await runner.state(seat)).toBe('off');
        await runner.start(seat);
        expect(await runner.state(seat)).toBe('running');
      } finally {
        for (const seat of seats) {
          await runner.stop(seat, { gracefulMs: 0 });
          await runner.undefine(seat);
        }
      }
    },
    180_000,
  );
});
