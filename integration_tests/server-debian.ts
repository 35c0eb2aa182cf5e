import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { existsSync, mkdirSync } from 'node:fs';
import { createServer } from 'node:net';
import { homedir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import type { Log, Release, RestartMode, Standby, TimescaleServer } from './server.ts';

const POSTGRES_MAJOR: Readonly<Record<Release, number>> = { trixie: 17, sid: 18 };

/** Beside the server: what tests of the ways to it need. */
const PACKAGES = ['openssh-server', 'pgbouncer'];

/** Settings of every server that the tests start; all of it is thrown away at the end. */
export const SERVER_SETTINGS: Readonly<Record<string, string>> = {
  shared_preload_libraries: 'timescaledb',
  wal_level: 'logical',
  max_replication_slots: '60',
  max_wal_senders: '30',
  max_connections: '200',
  max_worker_processes: '16',
  max_locks_per_transaction: '1024',
  wal_keep_size: '0',
  max_wal_size: '512MB',
  autovacuum: 'on',
  track_commit_timestamp: 'off',
  'timescaledb.telemetry_level': 'off',
  fsync: 'off',
  full_page_writes: 'off',
  TimeZone: 'UTC',
};

// Only true of a server inside the chroot. Shared memory as files of the data directory, because
// segments in the root's /dev/shm would outlive a server that was killed.
const CHROOT_SETTINGS: Readonly<Record<string, string>> = {
  listen_addresses: '127.0.0.1',
  dynamic_shared_memory_type: 'mmap',
  log_timezone: 'UTC',
};

// The root is made beside its final place and renamed, so a folder with the final name is whole.
// A mount namespace of its own makes debootstrap's mounts end with it, however it ends.
const BUILD_SCRIPT = `
set -eu
umask 022
dir=$1 suite=$2 packages=$3
partial=$dir.partial
if [ -e "$dir/.complete" ]; then exit 0; fi
if [ -e "$dir" ]; then echo "$dir was not made by this script: remove it" >&2; exit 1; fi
if ! command -v debootstrap; then
  apt-get update || true
  DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \\
    -o DPkg::Lock::Timeout=120 debootstrap debian-archive-keyring
fi
mirror=$(apt-get indextargets --format '$(REPO_URI)' \\
  'Created-By: Packages' 'Origin: Debian' 'Label: Debian' | grep '^http' | head -n 1) || mirror=
own_mounts=
if unshare --mount true; then own_mounts='unshare --mount'; fi
umount "$partial/proc" "$partial/sys" 2>/dev/null || true
rm -rf --one-file-system "$partial"
# Without this the package would make a cluster of its own and start it.
mkdir -p "$partial/etc/postgresql-common"
echo 'create_main_cluster = false' >"$partial/etc/postgresql-common/createcluster.conf"
$own_mounts debootstrap --variant=minbase --include="$packages" "$suite" "$partial" $mirror
rm -f "$partial"/var/cache/apt/archives/*.deb
touch "$partial/.complete"
mv -T "$partial" "$dir"
`;

// The keeper owns one server: it starts and stops it as its input says, one line at a time, and
// when the input ends (the process that started it stopped it, or is gone, however it went) it
// stops the server and removes its files. The postmaster inherits the lock on the run folder
// (file 9), so a run folder that can be locked belongs to nobody and is swept away.
const KEEPER_SCRIPT = `
umask 022
root=$1 run=$2 bin=$3 settings=$4
user=$(sed -n 's/^postgres:[^:]*:\\([0-9]*:[0-9]*\\):.*/\\1/p' "$root/etc/passwd")
inside() { chroot --userspec="$user" --groups="\${user#*:}" "$root" "$@" </dev/null; }
pg_ctl() { inside "$bin/pg_ctl" "$@" -s -w -t 60 -D "$run/data"; }
folder() {
  exec 8<"$root/srv" && flock 8 || return
  for old in "$root"/srv/tsdb-*; do
    if [ -d "$old" ]; then flock -n "$old" rm -rf "$old"; fi
  done
  mkdir "$root$run" && chown "$user" "$root$run" && exec 9<"$root$run" && flock 9 || return
  exec 8<&-
}
copy() {
  folder && inside "$bin/pg_basebackup" -h 127.0.0.1 -p "$1" -U postgres -D "$run/data" -R -X stream \\
    -c fast -C -S "standby_$$" && echo 'hot_standby_feedback = on' >>"$root$run/data/postgresql.conf"
}
init() {
  folder && inside "$bin/initdb" -D "$run/data" -U postgres -A trust -E UTF8 --locale=C.UTF-8 --no-sync \\
    >"$root$run/log" && printf '%s\\n' "$settings" >>"$root$run/data/postgresql.conf" &&
    chown "$user" "$root$run/log"
}
start() {
  pg_ctl start -l "$run/log" -o "-p $1 -k $run" && return
  tail -n 20 "$root$run/log" >&2
  return 1
}
finish() {
  if [ -e "$root$run/data/postmaster.pid" ]; then pg_ctl stop -m immediate; fi
  rm -rf "$root$run"
}
trap '' PIPE
trap 'exit 1' HUP INT TERM
trap finish EXIT
while read -r verb argument; do
  case $verb in
    init) init ;;
    copy) copy "$argument" ;;
    promote) pg_ctl promote ;;
    start) start "$argument" ;;
    stop) pg_ctl stop -m "$argument" ;;
  esac && echo ok || echo failed
done
`;

/**
 * Starts a throwaway TimescaleDB out of Debian's packages, in a chroot that is made once and kept
 * in a cache folder (`SOURCE_TIMESCALEDB_CACHE`, by default `~/.cache/source-timescaledb`).
 * The server is stopped and its data removed by `stop`, or as soon as this process is gone.
 *
 * @throws Error when not root, when there is no apt, or when the root or the server can't be made.
 */
export async function startOnDebian(release: Release, log: Log): Promise<TimescaleServer> {
  const root = await ensureRoot(release, log);
  const run = `/srv/tsdb-${process.pid}-${randomBytes(4).toString('hex')}`;
  const keeper = new Keeper(root, run, POSTGRES_MAJOR[release]);
  try {
    await keeper.ask('init');
    const port = await startOnFreePort(keeper);
    return {
      url: `postgres://postgres@127.0.0.1:${port}/postgres`,
      how: 'debian',
      stop: () => keeper.end(),
      restart: async (mode: RestartMode) => {
        await keeper.ask(`stop ${mode}`);
        await keeper.ask(`start ${port}`);
      },
      standby: () => startStandby(root, release, port),
    };
  } catch (error) {
    await keeper.end();
    throw error;
  }
}

/** A hot standby of the server at this port. */
async function startStandby(root: string, release: Release, primary: number): Promise<Standby> {
  const run = `/srv/tsdb-${process.pid}-${randomBytes(4).toString('hex')}`;
  const keeper = new Keeper(root, run, POSTGRES_MAJOR[release]);
  try {
    await keeper.ask(`copy ${primary}`);
    const port = await startOnFreePort(keeper);
    return {
      url: `postgres://postgres@127.0.0.1:${port}/postgres`,
      promote: () => keeper.ask('promote'),
      stop: () => keeper.end(),
    };
  } catch (error) {
    await keeper.end();
    throw error;
  }
}

/** The folder of a root: named after what is in it, so that a cache from before a change is not taken for it. */
export function rootFolder(release: Release): string {
  const configured = process.env['SOURCE_TIMESCALEDB_CACHE'] ?? '';
  const cache = resolve(
    configured === '' ? join(homedir(), '.cache', 'source-timescaledb') : configured,
  );
  const key = createHash('sha256').update(packagesOf(release)).digest('hex').slice(0, 8);
  return join(cache, `${release}-${key}`);
}

function packagesOf(release: Release): string {
  return [`postgresql-${POSTGRES_MAJOR[release]}-timescaledb`, ...PACKAGES].join(',');
}

/**
 * Makes the root, unless it is there.
 * @throws Error when not root, when there is no apt, or when it cannot be made.
 */
export async function ensureRoot(release: Release, log: Log): Promise<string> {
  if (process.getuid?.() !== 0) throw new Error('a Debian root can only be made by root');
  if (!existsSync('/usr/bin/apt-get')) throw new Error('a Debian root needs apt-get');
  const root = rootFolder(release);
  if (existsSync(join(root, '.complete'))) return root;
  const cache = dirname(root);
  mkdirSync(cache, { recursive: true });
  const packages = packagesOf(release);
  log(`making ${root} with ${packages} (once, about a minute)`);
  // Everything that the build starts holds the lock, so even a build whose starter was killed
  // can't meet another one in the same folder.
  const lock = join(cache, 'lock');
  await runToEnd('flock', [lock, 'sh', '-c', BUILD_SCRIPT, 'sh', root, release, packages]);
  return root;
}

/** Runs a command in a process group of its own, so that all of it can be ended at our exit. */
function runToEnd(command: string, args: readonly string[]): Promise<void> {
  return new Promise((done, reject) => {
    const child = spawn(command, args, { detached: true, stdio: ['ignore', 'pipe', 'pipe'] });
    let output = '';
    const keepTail = (chunk: Buffer): void => {
      output = (output + chunk.toString()).slice(-4000);
    };
    child.stdout.on('data', keepTail);
    child.stderr.on('data', keepTail);
    const killGroup = (): void => {
      const running = child.exitCode === null && child.signalCode === null;
      if (running && child.pid !== undefined) process.kill(-child.pid, 'SIGTERM');
    };
    process.once('exit', killGroup);
    child.once('error', (error) => {
      process.off('exit', killGroup);
      reject(error);
    });
    child.once('close', (code) => {
      process.off('exit', killGroup);
      if (code === 0) done();
      else reject(new Error(`making the Debian root failed:\n${output.trim()}`));
    });
  });
}

/** A free port can be taken by another process before the server has it, so it is tried again. */
async function startOnFreePort(keeper: Keeper): Promise<number> {
  for (let attempt = 1; ; attempt += 1) {
    const port = await freePort();
    try {
      await keeper.ask(`start ${port}`);
      return port;
    } catch (error) {
      if (attempt === 3) throw error;
    }
  }
}

function freePort(): Promise<number> {
  return new Promise((done, reject) => {
    const probe = createServer();
    probe.once('error', reject);
    probe.listen(0, '127.0.0.1', () => {
      const address = probe.address();
      probe.close(() => {
        if (address !== null && typeof address === 'object') done(address.port);
        else reject(new Error('no free port on the loopback address'));
      });
    });
  });
}

/** The process that owns one server; it outlives this one just long enough to clean up. */
class Keeper {
  readonly #child: ChildProcessWithoutNullStreams;
  readonly #closed: Promise<void>;
  readonly #answers: AsyncIterator<string>;
  #errors = '';

  constructor(root: string, run: string, major: number) {
    const settings = Object.entries({ ...SERVER_SETTINGS, ...CHROOT_SETTINGS })
      .map(([name, value]) => `${name} = '${value}'`)
      .join('\n');
    const bin = `/usr/lib/postgresql/${major}/bin`;
    // Of the environment only what is needed: PGDATA and the like must not reach the server.
    // Detached, so that Ctrl-C in a terminal doesn't reach it.
    this.#child = spawn('sh', ['-c', KEEPER_SCRIPT, 'sh', root, run, bin, settings], {
      detached: true,
      cwd: '/',
      env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', LC_ALL: 'C.UTF-8' },
    });
    this.#closed = new Promise((done) => {
      this.#child.once('close', () => {
        done();
      });
    });
    this.#child.stdin.on('error', () => undefined); // its end is seen as the end of the answers
    this.#child.stderr.on('data', (chunk: Buffer) => {
      this.#errors = (this.#errors + chunk.toString()).slice(-4000);
    });
    const lines = createInterface({ input: this.#child.stdout });
    this.#answers = lines[Symbol.asyncIterator]();
  }

  async ask(line: string): Promise<void> {
    this.#errors = '';
    this.#child.stdin.write(`${line}\n`);
    const answer = await this.#answers.next();
    if (answer.value !== 'ok') {
      throw new Error(`PostgreSQL in the Debian root: "${line}" failed:\n${this.#errors.trim()}`);
    }
  }

  async end(): Promise<void> {
    this.#child.stdin.end();
    await this.#closed;
  }
}
