import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { haveLibvirtd, startLibvirtd } from '../../../../test/support/libvirtd.ts';
import { mustRun } from '../../../../test/support/programs.ts';
import { DomainEvents } from './domain-events.ts';

/** Processes that listen there. */
function listeners(uri: string): number {
  return readdirSync('/proc').filter((pid) => {
    if (!/^\d+$/.test(pid)) return false;
    try {
      const words = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
      return words.includes(uri) && words.includes('event') && words[0]!.endsWith('virsh');
    } catch {
      return false;
    }
  }).length;
}

describe.skipIf(!haveLibvirtd)('events of domains', () => {
  it('are told as they come, count from the first on, and end with who listens', async () => {
    await using libvirtd = await startLibvirtd();
    let heard = 0;
    const events = new DomainEvents({ uri: libvirtd.uri, onEvent: () => heard++ });
    events.listen();
    events.listen();
    expect(events.trusted).toBe(false);
    const file = libvirtd.dir.file('x.xml');
    const devices = '<os><type>hvm</type></os><memory>16384</memory>';
    // Until virsh listens, nothing is told: again and again then.
    for (let n = 0; heard === 0; n++) {
      writeFileSync(file, `<domain type='qemu'><name>x${n}</name>${devices}</domain>`);
      await mustRun('virsh', ['-c', libvirtd.uri, 'define', file]);
      await sleep(100);
    }
    expect(events.trusted).toBe(true);
    const next = events.next(600_000);
    await mustRun('virsh', ['-c', libvirtd.uri, 'undefine', 'x0']);
    await next;
    expect(listeners(libvirtd.uri)).toBe(1);
    await events[Symbol.asyncDispose]();
    expect(events.trusted).toBe(false);
    expect(listeners(libvirtd.uri)).toBe(0);
  }, 120_000);
});
