import { existsSync } from 'node:fs';
import { get, type RequestOptions } from 'node:http';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { SERVER_SETTINGS } from './server-debian.ts';
import type { Log, Release, TimescaleServer } from './server.ts';

/** The same versions as Debian's packages, in the full build with compression and the like. */
const IMAGES: Readonly<Record<Release, string>> = {
  trixie: 'timescale/timescaledb:2.19.3-pg17',
  sid: 'timescale/timescaledb:2.31.0-pg18',
};

const POSTGRES_PORT = 5432;

/**
 * Starts a throwaway TimescaleDB in a container. The container is removed by `stop`, or by
 * testcontainers' own reaper when this process is gone.
 *
 * @throws Error when no Docker engine answers, or when the container can't be started.
 */
export async function startInDocker(release: Release, log: Log): Promise<TimescaleServer> {
  if (!(await dockerAnswers())) throw new Error('no Docker engine answers');
  const { GenericContainer, Wait } = await import('testcontainers');
  const image = IMAGES[release];
  log(`starting ${image} in Docker`);
  const settings = Object.entries(SERVER_SETTINGS);
  const container = await new GenericContainer(image)
    .withEnvironment({ POSTGRES_HOST_AUTH_METHOD: 'trust', NO_TS_TUNE: 'true' })
    .withCommand(['postgres', ...settings.flatMap(([name, value]) => ['-c', `${name}=${value}`])])
    .withExposedPorts(POSTGRES_PORT)
    // While the image makes its database, it runs a server that listens on its socket only, so
    // an answer over TCP comes from the final one.
    .withWaitStrategy(
      Wait.forAll([
        Wait.forListeningPorts(),
        Wait.forSuccessfulCommand('pg_isready -h 127.0.0.1 -U postgres'),
      ]),
    )
    .withStartupTimeout(120_000)
    .start();
  let stopped: Promise<unknown> | undefined;
  return {
    url: `postgres://postgres@${container.getHost()}:${container.getMappedPort(POSTGRES_PORT)}/postgres`,
    how: 'docker',
    stop: async () => {
      stopped ??= container.stop();
      await stopped;
    },
  };
}

/** A `docker` command says nothing about an engine, so the engine itself is asked. */
async function dockerAnswers(): Promise<boolean> {
  for (const engine of possibleEngines()) {
    if (await answersHttp(engine)) return true;
  }
  return false;
}

function possibleEngines(): RequestOptions[] {
  const host = process.env['DOCKER_HOST'] ?? '';
  if (host.startsWith('unix://')) return [{ socketPath: host.slice('unix://'.length) }];
  if (host.startsWith('tcp://')) {
    const { hostname, port } = new URL(host.replace('tcp://', 'http://'));
    return [{ hostname, port: port === '' ? 2375 : port }];
  }
  const runtime = process.env['XDG_RUNTIME_DIR'] ?? '';
  const sockets = ['/var/run/docker.sock', join(homedir(), '.docker', 'run', 'docker.sock')];
  if (runtime !== '') sockets.push(join(runtime, 'docker.sock'));
  return sockets.filter((path) => existsSync(path)).map((socketPath) => ({ socketPath }));
}

/** Any answer will do: an engine with TLS refuses a plain request, but it does answer. */
function answersHttp(engine: RequestOptions): Promise<boolean> {
  return new Promise((resolve) => {
    const request = get({ ...engine, path: '/_ping', timeout: 3000 }, (response) => {
      response.resume();
      resolve(true);
    });
    request.once('timeout', () => request.destroy(new Error('no answer')));
    request.once('error', () => {
      resolve(false);
    });
  });
}
