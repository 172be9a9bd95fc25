/*
 * What the NBD client needs of the world: a duplex byte stream. A runtime hands in how one is made; Node's sockets are in
 * platform/socket-stream.ts.
 */

/** Where a server is. */
export type NbdAddress =
  | { readonly kind: 'tcp'; readonly host: string; readonly port: string }
  | { readonly kind: 'unix'; readonly path: string };

/** Hears what a stream receives. */
export interface StreamSink {
  /** The first `length` bytes of `bytes` have come. They are the stream's again on return. */
  take(bytes: Uint8Array, length: number): void;
  /** Where the next bytes may be laid directly (as many as fit, and no others belong there); undefined: `take` gets them. */
  target(): Uint8Array | undefined;
  /** So many bytes now lie at the start of what `target` answered last. */
  laid(length: number): void;
  /** Nothing more comes. */
  ended(error?: unknown): void;
}

export interface ByteStream {
  /** Everything that comes from now on, and what has come already, goes to `sink`. */
  attach(sink: StreamSink): void;
  /** Bytes must stay as they are until the peer has answered. What is sent in one turn goes out together. */
  send(bytes: Uint8Array): void;
  /** Goes on under TLS, as the client. Rejects where the peer is not who it should be. */
  secure(security: ClientSecurity): Promise<void>;
  /** At once; what was not sent yet is dropped. No sink hears anything afterwards. */
  close(): void;
  /** Closes after everything sent has gone out. */
  end(): void;
}

/** Throws DiskError in QEMU's words where nobody answers. */
export type ConnectStream = (address: NbdAddress, signal: AbortSignal) => Promise<ByteStream>;

/** A client's credentials for TLS: PEM files' content, or a key that both ends know. */
export type TlsClientCredentials =
  | {
      readonly kind: 'x509';
      /** Absent: the authorities that the runtime knows. */
      readonly authority?: Uint8Array;
      readonly revoked?: Uint8Array;
      readonly certificate?: Uint8Array;
      readonly key?: Uint8Array;
      readonly verifyPeer: boolean;
    }
  | { readonly kind: 'psk'; readonly username: string; readonly keys: ReadonlyMap<string, Uint8Array> };

export interface ClientSecurity {
  readonly credentials: TlsClientCredentials;
  /** What the server's certificate must be for. */
  readonly hostname?: string;
}
