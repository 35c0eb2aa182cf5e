/** A network that can be cut: the connector reaches its server through this process. */
import { createServer, type Server, Socket } from 'node:net';
import { once } from 'node:events';
import type { Random } from './writers.ts';

type Link = { readonly near: Socket; readonly far: Socket };

export class Network implements AsyncDisposable {
  readonly port: number;
  readonly #server: Server;
  readonly #links: Set<Link>;

  private constructor(server: Server, port: number, links: Set<Link>) {
    this.#server = server;
    this.port = port;
    this.#links = links;
  }

  /** @param url of the server that connections to the port are handed on to. */
  static async to(url: string): Promise<Network> {
    const { hostname, port } = new URL(url);
    const links = new Set<Link>();
    const server = createServer((near) => {
      const far = new Socket();
      const link = { near, far };
      links.add(link);
      const end = (): void => {
        links.delete(link);
        near.destroy();
        far.destroy();
      };
      for (const socket of [near, far]) {
        socket.setNoDelay();
        socket.on('error', end);
        socket.on('close', end);
      }
      far.connect(Number(port === '' ? 5432 : port), hostname);
      near.pipe(far);
      far.pipe(near);
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const address = server.address();
    if (address === null || typeof address === 'string') throw new Error('no port');
    return new Network(server, address.port, links);
  }

  /** Cuts one connection or all, with or without a last word. Returns what it did; null: there was nothing to cut. */
  cut(random: Random): string | null {
    const all = random.below(2) === 0;
    const reset = random.below(2) === 0;
    const links = [...this.#links];
    if (links.length === 0) return null;
    const chosen = all ? links : [random.pick(links)];
    for (const { near, far } of chosen) {
      if (reset) near.resetAndDestroy();
      else near.destroy();
      far.destroy();
    }
    return `${chosen.length} of ${links.length} connections ${reset ? 'reset' : 'closed'}`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { near, far } of this.#links) {
      near.destroy();
      far.destroy();
    }
    this.#server.close();
    await once(this.#server, 'close');
  }
}
