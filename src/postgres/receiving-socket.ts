/** The socket that `pg` gets from us. */
import { type OnReadOpts, Socket, type SocketConstructorOpts } from 'node:net';
import type { Duplex } from 'node:stream';

/** Sockets whose reader copies what it gets before it returns. */
export const copying = new WeakSet<Duplex>();

const READ_BYTES = 128 * 1024;

/**
 * A socket for `pg` that reads into one buffer. By itself Node allocates 64 KB for each read, and collecting those takes
 * longer than a row's encoding. Under TLS `pg` puts a socket of its own around it, which reads as Node's do.
 */
export function receivingSocket(): Socket {
  const onread: OnReadOpts = {
    buffer: Buffer.allocUnsafeSlow(READ_BYTES),
    callback: (count, bytes) => {
      const chunk = Buffer.from(bytes.buffer, bytes.byteOffset, count);
      socket.emit('data', copying.has(socket) ? chunk : Buffer.from(chunk));
      return true;
    },
  };
  // Documented for `net.connect`, which hands it on to this constructor.
  const options: SocketConstructorOpts & { readonly onread: OnReadOpts } = { onread };
  const socket = new Socket(options);
  return socket;
}
