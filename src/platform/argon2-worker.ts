import { parentPort, workerData } from 'node:worker_threads';
import type { Argon2Answer, Argon2Request } from './argon2.ts';
import { computeArgon2 } from './argon2-compute.ts';

const request = workerData as Argon2Request;

computeArgon2(request)
  .then(
    (key): Argon2Answer => ({ key }),
    (error): Argon2Answer => ({ error: error instanceof Error ? error.message : String(error) }),
  )
  .then((answer) => {
    request.password.fill(0);
    parentPort!.postMessage(answer);
  });
