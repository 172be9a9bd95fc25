import { writeFileSync } from 'node:fs';
import { afterEach, expect, it } from 'vitest';
import { tempDir } from '../../../test/support/programs.ts';
import { RemoteHost } from './host.ts';

const path = process.env.PATH;
afterEach(() => {
  process.env.PATH = path;
});

/** A virsh that knows a domain, and complains of each look at what it says of itself. */
const virsh = (complaint: string) => `#!/bin/sh
while read -r line; do
  case "$line" in
    'echo --err '*) echo "error: \${line#echo --err }" >&2 ;;
    'echo '*) printf 'virsh # %s\\n%s\\n' "$line" "\${line#echo }" ;;
    *) printf 'virsh # %s\\n' "$line" ;;
  esac
  case "$line" in
    list*) echo 6f1d3c52-9a0e-5b77-8e21-c0574e7d0001 ;;
    metadata*) printf '${complaint}\\n' >&2 ;;
  esac
done
`;

it('does not take a domain for nobody’s whose metadata could not be asked for', async () => {
  await using folder = await tempDir('cowherd-virsh-');
  const look = async (...complaint: string[]) => {
    const text = complaint.map((line) => `error: ${line}`).join('\\n');
    writeFileSync(folder.file('virsh'), virsh(text), { mode: 0o755 });
    process.env.PATH = `${folder.path}:${path}`;
    await using host = new RemoteHost({ name: 'a', uri: 'x', pool: '/p', share: 1 });
    return await host.look('class');
  };
  expect((await look('metadata not found: Requested metadata element is not present')).seats).toEqual([]);
  expect((await look('failed to get domain x')).seats).toEqual([]);
  await expect(
    look('Disconnected from x due to end of file', 'failed to get domain x'),
  ).rejects.toMatchObject({ code: 'io' });
});
