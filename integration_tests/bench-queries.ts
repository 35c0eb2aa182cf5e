/** Counts what a program asks of the server: a proxy in between, that looks at the messages and changes nothing. */
import { connect, createServer, type Socket } from 'node:net';

const QUERY = 0x51;
const PARSE = 0x50;
const EXECUTE = 0x45;

export class QueryCounter implements AsyncDisposable {
  readonly port: number;
  /** Of simple queries and of prepared statements, in order. */
  readonly texts: string[] = [];
  connections = 0;
  /** Simple queries and executions. */
  queries = 0;
  readonly #close: () => Promise<void>;

  private constructor(port: number, close: () => Promise<void>) {
    this.port = port;
    this.#close = close;
  }

  /** Listens on a free port, without TLS, and passes everything on to the server at `url`. */
  static async start(url: string): Promise<QueryCounter> {
    const { hostname, port } = new URL(url);
    const sockets = new Set<Socket>();
    let counter: QueryCounter | undefined;
    const proxy = createServer((client) => {
      const server = connect(Number(port === '' ? 5432 : port), hostname);
      counter?.watch(client);
      for (const [from, to] of [
        [client, server],
        [server, client],
      ] as const) {
        sockets.add(from);
        from.setNoDelay(true);
        from.pipe(to);
        from.on('error', () => to.destroy());
        from.on('close', () => {
          to.destroy();
          sockets.delete(from);
        });
      }
    });
    await new Promise<void>((resolve) => proxy.listen(0, '127.0.0.1', resolve));
    const address = proxy.address();
    if (address === null || typeof address === 'string') throw new Error('no port to listen on');
    counter = new QueryCounter(address.port, async () => {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => proxy.close(resolve));
    });
    return counter;
  }

  /** Counts anew. */
  reset(): void {
    this.texts.length = 0;
    this.connections = 0;
    this.queries = 0;
  }

  watch(client: Socket): void {
    this.connections += 1;
    let bytes: Buffer = Buffer.alloc(0);
    // The first message has no tag.
    let tagged = 0;
    client.on('data', (piece: Buffer) => {
      bytes = Buffer.concat([bytes, piece]);
      let at = 0;
      while (bytes.length >= at + tagged + 4) {
        const end = at + tagged + bytes.readUInt32BE(at + tagged);
        if (end > bytes.length) break;
        if (tagged === 1) this.#see(bytes, at, end);
        tagged = 1;
        at = end;
      }
      bytes = bytes.subarray(at);
    });
  }

  #see(bytes: Buffer, at: number, end: number): void {
    const tag = bytes[at];
    if (tag === QUERY || tag === EXECUTE) this.queries += 1;
    if (tag === QUERY) this.texts.push(bytes.toString('utf8', at + 5, end - 1));
    if (tag === PARSE) {
      // The statement's name comes before its text.
      const text = bytes.indexOf(0, at + 5) + 1;
      this.texts.push(bytes.toString('utf8', text, bytes.indexOf(0, text)));
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#close();
  }
}
