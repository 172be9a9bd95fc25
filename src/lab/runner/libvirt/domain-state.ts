import type { SeatEnd, SeatState } from '../runner.ts';

/** A domain's state and the reason for it, as `virsh domstate --reason` words them: `shut off (crashed)`. */
export function seatState(text: string): SeatState {
  const [, state, reason] = /^(.*?)(?: \((.*)\))?$/.exec(text.trim())!;
  switch (state) {
    case 'shut off':
      return reason === 'crashed' ? 'crashed' : 'off';
    case 'crashed':
      return 'crashed';
    case 'paused':
      return reason === 'starting up' ? 'starting' : 'paused';
    case 'pmsuspended':
      return 'paused';
    case 'running':
    case 'idle':
    case 'in shutdown':
      return 'running';
    default:
      return 'unknown';
  }
}

/** How a run ended that left the domain in this state. A QEMU that was told to end by a signal looks like a guest's own shutdown here. */
export function seatEnd(text: string): SeatEnd {
  if (seatState(text) === 'crashed') return 'crashed';
  return text.trim() === 'shut off (shutdown)' ? 'powered-off' : 'cut-off';
}
