import { formats } from '../../src/formats/index.ts';
import { mustRun } from '../support/programs.ts';
import { lines, type Row } from './harness.ts';
import { buildWorld } from './world.ts';

/*
 * Every creation option of every format, with a value that may be right and one that is not, by each verb that takes
 * options. (That the options are QEMU's is shown by the lines of `-o help` in formats/.) qcow2 and luks have tables of
 * their own, since what their options need depends on each other.
 */

const names = ['raw', 'qcow', 'qed', 'parallels', 'vdi', 'vpc', 'vhdx', 'vmdk'];

const values: Readonly<Record<string, readonly [right: string, wrong: string]>> = {
  boolean: ['on', 'maybe'],
  size: ['1M', '12q'],
  number: ['2', 'two'],
  string: ['off', 'nonsense'],
};

const rightValues: Readonly<Record<string, string>> = {
  backing_file: 'raw.img',
  backing_fmt: 'raw',
  'encrypt.format': 'aes',
  'encrypt.key-secret': 's',
  encryption: 'off',
  subformat: 'nothing',
  adapter_type: 'lsilogic',
  hwversion: '7',
  toolsversion: '5',
  cluster_size: '64k',
  table_size: '2',
};

/** Options that qemu-img does not have. */
function isOurs(format: string, option: string): boolean {
  return ['vpc', 'vhdx'].includes(format) && option.startsWith('backing_');
}

/** A line that makes an image. */
function made(line: string, format: string): Row {
  if (/-[fO] qcow -o encrypt\./.test(line)) {
    return {
      line,
      differs: 'legacy-aes',
      ours: { code: 1, stderr: 'Encrypted qcow images are not supported' },
    };
  }
  return { line, files: 'contents', format, filesDifferIfRefused: 'failed-create' };
}

async function world(path: string): Promise<void> {
  await buildWorld(path);
  for (const name of names) {
    await mustRun('qemu-img', ['create', '-q', '-f', name, `img.${name}`, '1M'], { cwd: path });
  }
}

for (const name of names) {
  const driver = formats.find((one) => one.name === name)!;
  const options = driver.createOptions.filter((each) => !isOurs(name, each.name));
  const rows = options.flatMap(({ name: option, type }): Row[] => {
    const [right, wrong] = values[type];
    return [rightValues[option] ?? right, wrong].flatMap((value): Row[] => [
      made(`create -f ${name} -o ${option}=${value} new 1M`, name),
      made(`convert -O ${name} -o ${option}=${value} raw.img new`, name),
      { line: `measure -O ${name} -o ${option}=${value} --size 1M` },
      { line: `amend -f ${name} -o ${option}=${value} img.${name}` },
    ]);
  });
  lines(`every option of ${name}`, rows, { world });
}
