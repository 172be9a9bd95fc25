import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import type { CliContext } from '../../cli/context.ts';
import { humanSize } from '../../cli/sizes.ts';
import { DiskError } from '../../errors.ts';
import { count } from '../describe.ts';
import { imageTree, type TreeNode } from '../standing/tree.ts';
import { colours, type LabCommand, labFrom, say, sayJson, shown, wantsJson } from './command.ts';

/** Siblings that are shown without --all. */
const mostSiblings = 12;

/** `cowherd tree`: an image's chain and everything that stands on it, with sizes. */
export const run: LabCommand = async (input, context) => {
  const [first] = input.operands;
  const isImage =
    first !== undefined && !/\.(ya?ml|json)$/i.test(first) && existsSync(resolve(context.cwd, first));
  let path: string;
  let folders: string[];
  if (isImage) {
    path = resolve(context.cwd, first);
    folders = [];
  } else {
    const { lab } = labFrom(input, context, 0);
    path = lab.spec.master.path;
    folders = existsSync(lab.pool) ? [lab.pool] : [];
    if (!existsSync(path)) {
      throw new DiskError('not-found', `There is no master '${path}'`, {
        path,
        detail: { fix: 'is the path in the lab file right?' },
      });
    }
  }
  const tree = imageTree(path, folders);
  if (wantsJson(input)) {
    sayJson(context, tree);
    return 0;
  }
  for (const line of drawTree(tree, context, input.options.all === true)) say(context, line);
  return 0;
};

/** The tree as lines: sizes in columns, `ls -l` and `du`. */
export function drawTree(tree: TreeNode, context: CliContext, all: boolean): readonly string[] {
  const rows: { name: string; apparent: string; allocated: string; note: string }[] = [];
  const walk = (node: TreeNode, lead: string, branch: string) => {
    const seat = node.seat === undefined ? '' : `${node.lab} ${node.seat}`;
    const notes = [
      seat,
      node.readOnly ? 'read-only' : '',
      node.children.length > 0 ? count(node.children.length, 'clone') : '',
    ];
    rows.push({
      name: `${lead}${branch}${shown(context, node.path)}`,
      apparent: humanSize(node.apparent),
      allocated: humanSize(node.allocated),
      note: notes.filter((note) => note !== '').join(', '),
    });
    const below = branch === '' ? lead : `${lead}${branch.startsWith('└') ? '   ' : '│  '}`;
    const { children } = node;
    const hidden = all || children.length <= mostSiblings ? 0 : children.length - mostSiblings + 1;
    const visible = children.slice(0, children.length - hidden);
    for (const [i, child] of visible.entries()) {
      walk(child, below, i === children.length - 1 ? '└─ ' : '├─ ');
    }
    if (hidden === 0) return;
    const rest = children.slice(children.length - hidden);
    rows.push({
      name: `${below}└─ … ${hidden} more (--all)`,
      apparent: humanSize(rest.reduce((sum, one) => sum + one.apparent, 0)),
      allocated: humanSize(rest.reduce((sum, one) => sum + one.allocated, 0)),
      note: '',
    });
  };
  walk(tree, '', '');
  const c = colours(context);
  const widths = (['name', 'apparent', 'allocated'] as const).map((key) =>
    Math.max(...rows.map((row) => row[key].length), key === 'name' ? 0 : 7),
  );
  const head = `${''.padEnd(widths[0])}  ${'ls -l'.padStart(widths[1])}  ${'du'.padStart(widths[2])}`;
  return [
    c.dim(head),
    ...rows.map(({ name, apparent, allocated, note }) =>
      `${name.padEnd(widths[0])}  ${apparent.padStart(widths[1])}  ${allocated.padStart(widths[2])}  ${c.dim(note)}`.trimEnd(),
    ),
  ];
}
