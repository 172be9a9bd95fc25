import { mkdir } from 'node:fs/promises';
import { cowImg } from '../../src/cli/cow-img.ts';
import { cowherd } from '../../src/lab/cowherd.ts';
import { testContext } from '../support/cli-context.ts';
import { type TempDir, tempDir } from '../support/programs.ts';

interface Answer {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

/** A folder of images from strangers, in a folder of what is none of their business. */
export class Inbox implements AsyncDisposable {
  readonly dir: TempDir;

  private constructor(dir: TempDir) {
    this.dir = dir;
  }

  static async make(): Promise<Inbox> {
    const inbox = new Inbox(await tempDir('cowherd-untrusted-'));
    await mkdir(inbox.file('below'), { recursive: true });
    return inbox;
  }

  get path(): string {
    return this.dir.file('inbox');
  }

  file(name: string): string {
    return this.dir.file(`inbox/${name}`);
  }

  /** Runs cow-img inside the inbox. */
  async cow(line: readonly string[]): Promise<Answer> {
    const home = process.cwd();
    process.chdir(this.path);
    try {
      const context = testContext({ program: 'cow-img', cwd: this.path });
      const code = await cowImg(line, context);
      return { code, out: context.out(), err: context.err() };
    } finally {
      process.chdir(home);
    }
  }

  async inspect(name: string): Promise<{ code: number; found: Record<string, unknown>[] }> {
    const context = testContext({ program: 'cowherd', cwd: this.path });
    const code = await cowherd(['inspect', name, '--output', 'json'], context);
    return { code, found: JSON.parse(context.out()).touches };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.dir.remove();
  }
}
