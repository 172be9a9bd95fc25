import type { Difference } from './differences.ts';

/** What differs where images are encrypted, or their passphrases asked for. */
export const luksDifferences = [
  {
    id: 'luks-locks',
    what: 'A LUKS image whose file another program has open for writing',
    qemuImg: 'opens it as it opens raw images, also for writing',
    cowImg: 'refuses, as with every format that has a header; `-U` reads it',
    reason: 'Its header changes with its key slots, and a torn one costs all data.',
  },
  {
    id: 'luks-ciphers',
    what: 'LUKS with Serpent, Twofish or CAST5, or with AES in another mode than XTS and CBC',
    qemuImg: 'makes and opens it',
    cowImg: 'says that the cipher or its mode is not supported',
    reason:
      'OpenSSL, which does our ciphers, has them not or not as such; cryptsetup makes none of them by itself.',
  },
  {
    id: 'luks-growth',
    what: '`resize` of a LUKS image to more',
    qemuImg: 'lengthens the file: the guest finds what its zeroes decrypt to',
    cowImg: 'writes encrypted zeroes, which takes as long as writing that much',
    reason: 'A disk that grows has zeroes at its end, and a format without tables cannot say so otherwise.',
    shown: 'elsewhere',
  },
  {
    id: 'secret-replacement',
    what: 'U+FFFD in `--object secret,data=` (not in base64)',
    qemuImg: 'takes it as it takes any character',
    cowImg: 'refuses it; `file=` and base64 take it',
    reason:
      'Bytes of an argument that are no text reach a program of Node as that character: any such argument would be the same key.',
    shown: 'elsewhere',
  },
  {
    id: 'luks-detached',
    what: 'Detached LUKS headers (`-o detached-header=true`; `header.filename=` among the options of a node)',
    qemuImg: 'does not know the option: later versions do',
    cowImg: 'makes and opens them, in the words of QEMU 9',
    reason: 'cryptsetup has them, and so has QEMU by now.',
  },
  {
    id: 'luks2',
    what: 'An image with a LUKS2 header',
    qemuImg: 'refuses it: `LUKS version 2 is not supported`',
    cowImg:
      'opens it where its payload is one segment of AES in XTS, by key slots of PBKDF2 or Argon2; never changes its header',
    reason:
      'cryptsetup writes no other by default. As with QEMU, the format must be named: probing says raw.',
  },
  {
    id: 'prompt',
    what: 'An encrypted image whose passphrase nothing names, where somebody sits at a terminal',
    qemuImg: "fails: `Parameter 'key-secret' is required for cipher`",
    cowImg:
      'asks for it without showing it, for each image of a chain, for a new image or key slot twice; without a terminal it fails as QEMU does',
    reason: 'What is typed stands in no history and in no list of processes.',
    shown: 'elsewhere',
  },
  {
    id: 'luks-work',
    what: 'A LUKS header whose key slots ask for more than 2^27 iterations of PBKDF2 in all',
    qemuImg: 'computes for as long as it takes: hours',
    cowImg: 'refuses it; likewise Argon2 of more than 2 GiB, or of more than 2^26 passes over a KiB',
    reason: 'A header from a stranger should cost a minute at most. No program chooses so much by itself.',
    shown: 'elsewhere',
  },
  {
    id: 'luks-cut',
    what: 'An encrypted qcow2 image that is cut short inside its LUKS header or key slots',
    qemuImg: 'takes the rest for zeroes: the password is invalid, or the volume is not in LUKS format',
    cowImg:
      'says that the header does not lie in the file (of a LUKS image without qcow2, what qemu-img says)',
    reason: 'Nobody should look for another passphrase where the file is cut.',
    shown: 'elsewhere',
  },
] as const satisfies readonly Difference[];
