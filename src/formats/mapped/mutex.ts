/** One at a time, in the order of asking. */
export class Mutex {
  #tail: Promise<unknown> = Promise.resolve();

  /** Runs `work` when all earlier work has ended, and gives its result or error. */
  run<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#tail.then(work);
    // An error is the business of whoever asked for the work, not of those who wait for their turn.
    this.#tail = result.catch(() => undefined);
    return result;
  }
}
