import { readFileSync } from 'node:fs';

/** Whether the process listens for signals, by the mask in /proc: node itself catches SIGINT, but not SIGHUP. */
export function listensForSignals(pid: number): boolean {
  try {
    const caught = /^SigCgt:\s*([0-9a-f]+)$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'));
    return caught !== null && (Number.parseInt(caught[1].slice(-1), 16) & 1) !== 0;
  } catch {
    return false;
  }
}
