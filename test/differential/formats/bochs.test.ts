import { formatLines } from '../format-lines.ts';

formatLines({ name: 'bochs', creates: 'none' });
