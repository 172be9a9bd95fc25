import { parentPort, workerData } from 'node:worker_threads';
import { registerPrimitives } from '../crypto/primitives.ts';
import { makeSectorCipher, type SectorCipher } from '../crypto/sector-cipher.ts';
import { maskIn } from '../crypto/xts-mask.ts';
import type { CipherAnswer, CipherDesk, CipherOrder } from './cipher-crew.ts';
import { OpensslPrimitives } from './openssl.ts';

registerPrimitives(new OpensslPrimitives());

const desk = workerData as CipherDesk;
maskIn(desk.memory, desk.at);
const memory = new Uint8Array(desk.memory.buffer);

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
    const gone = ciphers.get(order.cipher);
    ciphers.delete(order.cipher);
    (await gone)?.[Symbol.dispose]();
    return;
  }
  const answer: CipherAnswer = { job: order.job };
  try {
    const cipher = await ciphers.get(order.cipher)!;
    const { at, to, length } = order;
    cipher[order.direction](order.sector, memory.subarray(at, at + length), memory.subarray(to, to + length));
    parentPort!.postMessage(answer);
  } catch (error) {
    parentPort!.postMessage({ ...answer, error: String(error) });
  }
});

const ready: CipherAnswer = { job: 'ready' };
parentPort!.postMessage(ready);
