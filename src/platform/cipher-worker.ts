import { parentPort } from 'node:worker_threads';
import { makeSectorCipher, type SectorCipher } from '../crypto/sector-cipher.ts';
import type { CipherAnswer, CipherOrder } from './cipher-crew.ts';
import { registerNodePrimitives } from './node-primitives.ts';

registerNodePrimitives();

const ciphers = new Map<number, Promise<SectorCipher>>();

parentPort!.on('message', async (order: CipherOrder) => {
  if (order.kind === 'add') {
    const { spec, key } = order;
    ciphers.set(
      order.cipher,
      makeSectorCipher(spec, key).finally(() => key.fill(0)),
    );
    return;
  }
  if (order.kind === 'drop') {
    ciphers.delete(order.cipher);
    return;
  }
  const answer: CipherAnswer = { job: order.job };
  try {
    const cipher = await ciphers.get(order.cipher)!;
    cipher[order.direction](order.sector, order.bytes);
    parentPort!.postMessage(answer);
  } catch (error) {
    parentPort!.postMessage({ ...answer, error: String(error) });
  }
});
