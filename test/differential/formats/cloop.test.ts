import { formatLines } from '../format-lines.ts';

formatLines({ name: 'cloop', creates: 'none' });
