/**
 * A stand-in for `node:24-slim` where no registry of images can be asked: Debian by debootstrap, Node 24 and npm as
 * their packages on the npm registry bring them, and the user that Node's images have.
 */
import { existsSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { capture, type Log } from './programs.ts';

const BASE = 'localhost/source-timescaledb-base:24';
const NODE_MAJOR = 24;
const NPM_MAJOR = 11;

// Made beside its final place and renamed, so a folder with the final name is whole.
const SCRIPT = `
set -eu
umask 022
root=$1 node=$2 npm=$3
if [ -e "$root" ]; then exit 0; fi
if ! command -v debootstrap; then
  apt-get update || true
  DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends debootstrap debian-archive-keyring
fi
partial=$root.partial
mirror=$(apt-get indextargets --format '$(REPO_URI)' \\
  'Created-By: Packages' 'Origin: Debian' 'Label: Debian' | grep '^http' | head -n 1) || mirror=
own_mounts=
if unshare --mount true; then own_mounts='unshare --mount'; fi
umount "$partial/proc" "$partial/sys" 2>/dev/null || true
rm -rf --one-file-system "$partial"
$own_mounts debootstrap --variant=minbase bookworm "$partial" $mirror
# What Debian's slim images leave out too.
for part in var/cache/apt var/lib/apt/lists var/log usr/share/doc usr/share/man usr/share/info usr/share/locale; do
  rm -rf "$partial/$part"; mkdir -p "$partial/$part"
done
mkdir -p "$partial/usr/local/lib/node_modules/npm"
tar -xzf "$node" -C "$partial/usr/local" --strip-components=1 package/bin/node
tar -xzf "$npm" -C "$partial/usr/local/lib/node_modules/npm" --strip-components=1
ln -s ../lib/node_modules/npm/bin/npm-cli.js "$partial/usr/local/bin/npm"
ln -s ../lib/node_modules/npm/bin/npx-cli.js "$partial/usr/local/bin/npx"
chroot "$partial" groupadd --gid 1000 node
chroot "$partial" useradd --uid 1000 --gid node --shell /bin/bash --create-home node
mv -T "$partial" "$root"
`;

/** Makes the base once; its folder is kept. @returns its name. */
export async function makeBase(
  store: string,
  buildah: (...args: readonly string[]) => Promise<string>,
  log: Log,
): Promise<string> {
  const present = await buildah('images', '--quiet', BASE).catch(() => '');
  if (present.trim() !== '') return BASE;
  await mkdir(store, { recursive: true });
  const root = join(store, 'base');
  if (!existsSync(root)) {
    log('making a base image (once, a few minutes)');
    const packages = [`node-linux-${process.arch}@${NODE_MAJOR}`, `npm@${NPM_MAJOR}`];
    const packed: string[] = [];
    for (const name of packages) {
      const pack = ['pack', name, '--silent', '--pack-destination', store];
      packed.push(join(store, lastLine(await capture('npm', pack))));
    }
    await capture('sh', ['-c', SCRIPT, 'sh', root, ...packed]);
  }
  const container = lastLine(await buildah('from', 'scratch'));
  try {
    await buildah('add', '--quiet', container, root, '/');
    await buildah(
      'config',
      '--env',
      'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
      container,
    );
    await buildah('config', '--cmd', 'node', container);
    await buildah('commit', '--quiet', container, BASE);
  } finally {
    await buildah('rm', container);
  }
  return BASE;
}

function lastLine(text: string): string {
  return text.trim().split('\n').at(-1) ?? '';
}
