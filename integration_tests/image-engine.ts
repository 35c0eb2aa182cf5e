/** What builds and runs the image: Docker where an engine answers, otherwise buildah, which needs no engine. */
import { mkdtemp, rm, stat } from 'node:fs/promises';
import { existsSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { makeBase } from './image-base.ts';
import { capture, type Log } from './programs.ts';

export const IMAGE = 'source-timescaledb:dev';

/** The image's configuration. */
type ImageFacts = {
  readonly entrypoint: readonly string[];
  readonly env: readonly string[];
  readonly labels: Readonly<Record<string, string>>;
  readonly user: string;
};

export type Engine = {
  readonly name: string;
  build(context: string, log: Log): Promise<void>;
  facts(): Promise<ImageFacts>;
  /** A command that runs a shell script in the container as user 1000, in `/source`, which is the given folder. */
  command(folder: string, script: string): readonly string[];
  /** Bytes of the image as a registry holds it. */
  compressedBytes(): Promise<number>;
  /** Removes what only this run needed. */
  close(): Promise<void>;
};

/** @throws Error when there is neither. @param name of the engine to take; empty: the first that works. */
export async function findEngine(name: string, cache: string, log: Log): Promise<Engine> {
  if (name !== 'buildah' && (await works('docker', ['version', '--format', '{{.Server.Version}}'])))
    return docker();
  if (name === 'docker') throw new Error('no Docker engine answers');
  if (process.getuid?.() !== 0) throw new Error('no Docker engine answers, and buildah needs root');
  if (!(await works('buildah', ['--version']))) {
    if (!existsSync('/usr/bin/apt-get')) throw new Error('neither Docker nor apt to get buildah');
    log('installing buildah');
    const install = ['install', '-y', '--no-install-recommends', 'buildah'];
    await capture('apt-get', ['update']);
    await capture('apt-get', install, { DEBIAN_FRONTEND: 'noninteractive' });
  }
  return buildah(cache);
}

/** For a base behind a proxy that opens TLS: npm in the build trusts what we trust. */
function secrets(): readonly string[] {
  const file = process.env['NODE_EXTRA_CA_CERTS'] ?? '';
  return file === '' ? [] : ['--secret', `id=ca,src=${file}`];
}

function docker(): Engine {
  return {
    name: 'Docker',
    build: async (context, log) => {
      log('building the image');
      const base = process.env['BASE_IMAGE'] ?? '';
      const argument = base === '' ? [] : ['--build-arg', `BASE_IMAGE=${base}`];
      const env = { DOCKER_BUILDKIT: '1' };
      await capture('docker', ['build', ...secrets(), ...argument, '--tag', IMAGE, context], env);
    },
    facts: async () =>
      imageFacts(await capture('docker', ['image', 'inspect', '--format', '{{json .}}', IMAGE])),
    command: (folder, script) => [
      'docker',
      'run',
      '--rm',
      '--network',
      'host',
      '--user',
      '1000:1000',
      '--volume',
      `${folder}:/source`,
      '--workdir',
      '/source',
      '--entrypoint',
      'sh',
      IMAGE,
      '-c',
      script,
    ],
    compressedBytes: () => compressed((file) => ['docker', 'save', '--output', file, IMAGE]),
    close: () => Promise.resolve(),
  };
}

/** Its images lie in a folder of our own, apart from what else the machine has. */
function buildah(cache: string): Engine {
  const store = join(cache, 'images');
  const options = ['--storage-driver', 'vfs', '--root', join(store, 'root')];
  const run = (...args: readonly string[]): readonly string[] => [
    'buildah',
    ...options,
    '--runroot',
    join(store, 'run'),
    ...args,
  ];
  const call = (...args: readonly string[]): Promise<string> => captureAll(run(...args));
  const container = `trial-${process.pid}`;
  return {
    name: 'buildah',
    build: async (context, log) => {
      const base = process.env['BASE_IMAGE'] ?? (await makeBase(store, call, log));
      log('building the image');
      const chroot = ['--isolation', 'chroot', ...secrets()];
      // Without this the base's date decides whether anything is done.
      const fresh = ['--no-cache', '--build-arg', `BASE_IMAGE=${base}`];
      await call('build', ...chroot, ...fresh, '--tag', IMAGE, context);
      await call('from', '--pull-never', '--name', container, `localhost/${IMAGE}`);
    },
    facts: async () => {
      const text = await call('inspect', '--type', 'image', `localhost/${IMAGE}`);
      const inspected = JSON.parse(text) as { readonly Docker: { readonly config: unknown } };
      return imageFacts(JSON.stringify({ Config: inspected.Docker.config }));
    },
    command: (folder, script) =>
      run(
        'run',
        '--isolation',
        'chroot',
        '--user',
        '1000:1000',
        '--workingdir',
        '/source',
        '--volume',
        `${folder}:/source`,
        container,
        '--',
        'sh',
        '-c',
        script,
      ),
    compressedBytes: () =>
      compressed((file) => run('push', `localhost/${IMAGE}`, `docker-archive:${file}:${IMAGE}`)),
    close: async () => {
      await call('rm', container).catch(() => undefined);
    },
  };
}

function imageFacts(json: string): ImageFacts {
  const { Config: config } = JSON.parse(json) as {
    readonly Config: {
      readonly Entrypoint: readonly string[] | null;
      readonly Env: readonly string[] | null;
      readonly Labels: Readonly<Record<string, string>> | null;
      readonly User: string;
    };
  };
  return {
    entrypoint: config.Entrypoint ?? [],
    env: config.Env ?? [],
    labels: config.Labels ?? {},
    user: config.User,
  };
}

async function compressed(save: (file: string) => readonly string[]): Promise<number> {
  const folder = await mkdtemp(join(tmpdir(), 'image-'));
  try {
    const file = join(folder, 'image.tar');
    await captureAll(save(file));
    await capture('gzip', ['-6', file]);
    return (await stat(`${file}.gz`)).size;
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

async function works(program: string, args: readonly string[]): Promise<boolean> {
  return capture(program, args).then(
    () => true,
    () => false,
  );
}

function captureAll([program = '', ...args]: readonly string[]): Promise<string> {
  return capture(program, args);
}
