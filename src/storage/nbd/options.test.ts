import { expect, it } from 'vitest';
import { isDiskError } from '../../errors.ts';
import { decodeReply, decodeRequest, emptyReply, emptyRequest, encodeRequest } from './headers.ts';
import {
  decodeInfoReply,
  decodeInfoRequest,
  decodeMetaContextRequest,
  decodeOption,
  encodeInfoReply,
  encodeInfoRequest,
  encodeMetaContextRequest,
  encodeOption,
  encodeOptionReply,
  viewOf,
} from './options.ts';
import { Command, Info, Option, OptionReply } from './protocol.ts';

const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex');
const bytesOf = (text: string) => Uint8Array.from(Buffer.from(text.replaceAll(' ', ''), 'hex'));

it('lays options out as the protocol document says', () => {
  const go = encodeOption(Option.go, encodeInfoRequest({ name: 'ab', infos: [Info.blockSize] }));
  expect(hex(go)).toBe('49484156454f5054' + '00000007' + '0000000a' + '00000002' + '6162' + '0001' + '0003');
  expect(decodeOption(go)).toEqual({ option: Option.go, length: 10 });
  expect(decodeInfoRequest(go.subarray(16))).toEqual({ name: 'ab', infos: [3] });
  expect(hex(encodeOptionReply(Option.list, OptionReply.errPolicy))).toBe(
    '0003e889045565a9' + '00000003' + '80000002' + '00000000',
  );
  expect(hex(encodeMetaContextRequest({ name: '', queries: ['base:'] }))).toBe(
    '00000000' + '00000001' + '00000005' + '626173653a',
  );
  const block = { type: Info.blockSize, minimum: 1, preferred: 4096, maximum: 0x2000000 } as const;
  expect(hex(encodeInfoReply(block))).toBe('0003' + '00000001' + '00001000' + '02000000');
  expect(decodeInfoReply(encodeInfoReply(block))).toEqual(block);
  expect(decodeInfoReply(bytesOf('0063 00'))).toBeUndefined();
});

it('lays requests out and reads replies', () => {
  const view = new DataView(new ArrayBuffer(64));
  const request = {
    ...emptyRequest(),
    command: Command.write,
    flags: 1,
    cookieLow: 7,
    offset: 2 ** 40 + 5,
    length: 9,
  };
  expect(encodeRequest(view, 0, false, request)).toBe(28);
  expect(hex(new Uint8Array(view.buffer, 0, 28))).toBe(
    '25609513' + '0001' + '0001' + '0000000000000007' + '0000010000000005' + '00000009',
  );
  const back = emptyRequest();
  expect(decodeRequest(view, 0, false, back)).toBe(true);
  expect(back).toEqual(request);
  expect(decodeRequest(view, 0, true, back)).toBe(false);
  expect(encodeRequest(view, 0, true, { ...request, length: 2 ** 33 })).toBe(32);
  expect(hex(new Uint8Array(view.buffer, 24, 8))).toBe('0000000200000000');
  const reply = emptyReply();
  const chunk = bytesOf('668e33ef 0001 8001 0000000000000009 00000006');
  expect(decodeReply(viewOf(chunk), 0, reply)).toBe(true);
  expect(reply).toMatchObject({ kind: 'structured', flags: 1, type: 0x8001, cookieLow: 9, length: 6 });
});

it.each([
  ['00000005 6162', 'name'],
  ['00000002 6162 0002 0003', 'information requests'],
  ['00000002 6162 0000 ff', 'information requests'],
  ['00000002 6100 0000', 'name'],
  ['00000001 ff 0000', 'name'],
  ['ffffffff', 'name'],
  ['', 'name length'],
])('refuses INFO data %s', (text, field) => {
  let error: unknown;
  try {
    decodeInfoRequest(bytesOf(text));
  } catch (thrown) {
    error = thrown;
  }
  expect(isDiskError(error, 'corrupt')).toBe(true);
  expect(error).toMatchObject({ field });
});

it('finds a count of queries that cannot be', () => {
  expect(() => decodeMetaContextRequest(bytesOf('00000000 ffffffff'))).toThrow(/4294967295 queries/);
});
