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

/** How a run ended that left the domain in this state. */
export function seatEnd(text: string): SeatEnd {
  return seatState(text) === 'crashed' ? 'crashed' : 'powered-off';
}
