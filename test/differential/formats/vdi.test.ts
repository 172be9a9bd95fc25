import { formatLines } from '../format-lines.ts';

formatLines({
  name: 'vdi',
  options: ['static=on', 'static=off,preallocation=off'],
  wrong: ['preallocation=metadata', 'block-size=1M', 'static=maybe', 'preallocation=falloc'],
  // Every image has new UUIDs.
  files: 'contents',
  liars: {
    signature: { at: 0x40, bytes: [0] },
    version: { at: 0x44, bytes: [2] },
    'map-unaligned': { at: 0x154, bytes: [1] },
    'data-unaligned': { at: 0x158, bytes: [1] },
    sector: { at: 0x168, bytes: [1] },
    'disk-size': { at: 0x170, bytes: [0, 0, 0, 1] },
    'disk-size-huge': { at: 0x177, bytes: [1] },
    'block-size': { at: 0x178, bytes: [1] },
    'too-many': { at: 0x180, bytes: [0xff, 0xff, 0xff, 0xff] },
    count: { at: 0x184, bytes: [9] },
    twice: { at: 0x200, bytes: [1, 0, 0, 0, 1, 0, 0, 0] },
    'index-huge': { at: 0x200, bytes: [9, 0, 0, 0] },
    cut: { size: 400 },
    gap: { at: 0x200, bytes: [0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0] },
  },
  reading: [],
  writing: ['check -r all -f vdi d/bad-twice', 'check -r all -f vdi d/bad-gap'],
  differs: [
    [/^(info|map|check) .*bad-cut/, { differs: 'cut-tables', ours: { code: 1, stderr: 'too short' } }],
    [/^compare .*bad-cut/, { differs: 'cut-tables', ours: { code: 2, stderr: 'too short' } }],
    [/^check -r (leaks|all) .*plain/, { differs: 'vdi-repair', ours: { code: 0, stdout: '' } }],
    [/^check -r all .*bad-(twice|gap)/, { differs: 'vdi-repair', ours: { code: 0, stdout: 'repaired' } }],
  ],
});
