/**
 * What is changed in both answers before they are compared, and why. Everything else must be equal to the letter.
 */
export const normalisations: readonly {
  readonly reason: string;
  apply(text: string, directory: string): string;
}[] = [
  {
    reason: 'The two programs work in two copies of one directory: its path is written as $PWD.',
    apply: (text, directory) => text.replaceAll(directory, '$PWD'),
  },
  {
    reason: 'How long a bench took is never the same twice.',
    apply: (text) =>
      text.replace(/Run completed in [0-9]+\.[0-9]{3} seconds\./g, 'Run completed in TIME seconds.'),
  },
];

/** The answer as it is compared. */
export function normalised<Answer extends { readonly stdout: string; readonly stderr: string }>(
  answer: Answer,
  directory: string,
): Answer {
  const apply = (text: string) => normalisations.reduce((seen, rule) => rule.apply(seen, directory), text);
  return { ...answer, stdout: apply(answer.stdout), stderr: apply(answer.stderr) };
}
