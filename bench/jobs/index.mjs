import * as compress from './compress.mjs';
import * as convert from './convert.mjs';
import * as formats from './formats.mjs';
import * as growth from './growth.mjs';
import * as huge from './huge.mjs';
import * as luks from './luks.mjs';
import * as many from './many.mjs';
import * as metadata from './metadata.mjs';
import * as nbdClient from './nbd-client.mjs';
import * as nbdLuks from './nbd-luks.mjs';
import * as nbdServer from './nbd-server.mjs';
import * as pairs from './pairs.mjs';
import * as reflink from './reflink.mjs';

/** Every group of jobs or curves, in the order of the report. A group makes the images that it needs when its jobs are asked for. */
export const groups = [
  convert,
  compress,
  reflink,
  formats,
  pairs,
  luks,
  metadata,
  nbdClient,
  nbdServer,
  nbdLuks,
  many,
  huge,
  growth,
];
