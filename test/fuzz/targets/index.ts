import type { Target } from '../target.ts';
import { applianceTexts, bzip2Target, tarTarget } from './appliance.ts';
import { fileSystemTargets } from './filesystems.ts';
import { vhdxImages, vpcImages } from './hyper-v.ts';
import { luksHeaders } from './luks.ts';
import { luks2Headers } from './luks2.ts';
import { nbdPollLoop } from './nbd-poll-loop.ts';
import { nbdReplies } from './nbd-replies.ts';
import { nbdRequests } from './nbd-requests.ts';
import { deflateTarget, textTargets } from './parsers.ts';
import { qcow2Images } from './qcow2.ts';
import { smallFormats } from './small-formats.ts';
import { vmdkImages } from './vmdk.ts';
import { vmdkStreams } from './vmdk-stream.ts';

/** Everything that is fuzzed. A new parser is one more entry. */
export const targets: readonly Target[] = [
  qcow2Images,
  vmdkImages,
  vmdkStreams,
  vpcImages,
  vhdxImages,
  ...smallFormats,
  ...fileSystemTargets,
  luksHeaders,
  luks2Headers,
  nbdReplies,
  nbdRequests,
  nbdPollLoop,
  deflateTarget,
  ...textTargets,
  ...applianceTexts,
  tarTarget,
  bzip2Target,
];
