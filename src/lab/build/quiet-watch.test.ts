import { appendFileSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, it } from 'vitest';
import { tempDir } from '../../../test/support/programs.ts';
import { type Quiet, watchForQuiet } from './quiet-watch.ts';

it('tells once that an installer is not heard of any more, with its last words, and again after a sign of life', async () => {
  await using folder = await tempDir();
  const [disk, serialLog] = [folder.file('disk.qcow2'), folder.file('os.log')];
  writeFileSync(disk, 'disk');
  writeFileSync(
    serialLog,
    'Checking the mirror ... 100%\r\n\x1b[1mChoose: \x1b[0m\r\n[1: Retry]\r\nPrompt> ',
  );
  const told: Quiet[] = [];
  const until = async (count: number) => {
    while (told.length < count) await sleep(5);
  };
  using _watch = watchForQuiet({
    ...{ disk, serialLog, quietMs: 40, everyMs: 5 },
    onQuiet: (quiet) => told.push(quiet),
  });
  await until(1);
  expect(told[0]!.said.split('\n')).toEqual([
    'Checking the mirror ... 100%',
    'Choose:',
    '[1: Retry]',
    'Prompt>',
  ]);
  await sleep(100);
  expect(told).toHaveLength(1);
  appendFileSync(disk, 'more');
  await until(2);
  appendFileSync(serialLog, '2\r\n');
  await until(3);
  expect(told[2]!.said).toMatch(/Prompt> 2$/);
});
