import type { CliContext, Command } from '../../cli/context.ts';
import { DiskError } from '../../errors.ts';
import { colours, say } from '../commands/command.ts';

/** Where the demo speaks: headings, and commands that are shown as typed and really run. */
export class Stage {
  readonly context: CliContext;
  #scene = 0;

  constructor(context: CliContext) {
    this.context = context;
  }

  /** A numbered heading. */
  scene(title: string): void {
    this.#scene += 1;
    const c = colours(this.context);
    say(this.context, `\n${c.bold(c.cyan(`${this.#scene}  ${title}`))}`);
  }

  /** A sentence to the audience. */
  tell(text = ''): void {
    say(this.context, text);
  }

  /**
   * Shows a command line and runs the program it begins with; gives what it wrote to stdout. Throws when it fails:
   * a demo that goes on after a failure shows nothing.
   */
  async type(line: string, program: Command): Promise<string> {
    const c = colours(this.context);
    say(this.context, `${c.dim('$')} ${c.bold(line)}`);
    const [name, ...args] = line.split(' ');
    let heard = '';
    const { stdout } = this.context;
    const context: CliContext = {
      ...this.context,
      program: name,
      stdin: this.context.stdin,
      stdout: {
        get isTTY() {
          return stdout.isTTY;
        },
        get columns() {
          return stdout.columns;
        },
        write(text) {
          if (typeof text === 'string') heard += text;
          stdout.write(text);
        },
      },
    };
    const code = await program(args, context);
    if (code === 0) return heard;
    if (this.context.signal.aborted) throw new DiskError('aborted', 'The demo was interrupted');
    throw new DiskError('io', `'${line}' ended with exit code ${code}`, {
      detail: { fix: 'its message is above; the demo can be run again' },
    });
  }
}
