/**
 * The CPU of a server's backends, as far as its processes can be seen from here: on the same machine, and not in a
 * container that numbers its processes by itself. Sampled, since what a backend used is gone with it.
 */
import { readFileSync } from 'node:fs';
import type { Database } from './database.ts';

/** The kernel counts in hundredths of a second, whatever its own tick is. */
const TICKS_PER_SECOND = 100;

export class ServerCpu {
  readonly #postmaster: number | undefined;
  readonly #mark: string;
  /** Whether a process works for the database; asked once for each. */
  readonly #known = new Map<number, boolean>();
  /** Ticks by process, as last seen. */
  readonly #ticks = new Map<number, number>();
  #before = new Map<number, number>();

  private constructor(postmaster: number | undefined, database: string) {
    this.#postmaster = postmaster;
    this.#mark = ` ${database} `;
  }

  /** Watches the backends of one database. */
  static async of(db: Database): Promise<ServerCpu> {
    const client = await db.client();
    try {
      const { rows } = await client.query<{ pid: number }>('SELECT pg_backend_pid() AS pid');
      const pid = rows[0]?.pid ?? 0;
      const visible = titleOf(pid).includes(` ${db.name} `);
      return new ServerCpu(visible ? parentOf(pid) : undefined, db.name);
    } finally {
      await client.end();
    }
  }

  begin(): void {
    this.#ticks.clear();
    this.sample();
    this.#before = new Map(this.#ticks);
  }

  sample(): void {
    for (const pid of childrenOf(this.#postmaster)) {
      if (this.#works(pid)) this.#ticks.set(pid, ticksOf(pid) ?? this.#ticks.get(pid) ?? 0);
    }
  }

  /** CPU seconds of the backends since `begin`. */
  end(): number | undefined {
    if (this.#postmaster === undefined) return undefined;
    this.sample();
    let ticks = 0;
    for (const [pid, now] of this.#ticks) ticks += now - (this.#before.get(pid) ?? 0);
    return ticks / TICKS_PER_SECOND;
  }

  /** A backend gets its title a moment after its start; a parallel worker has its leader's number in it. */
  #works(pid: number): boolean {
    const known = this.#known.get(pid);
    if (known !== undefined) return known;
    const title = titleOf(pid);
    const leader = /parallel worker for PID (\d+)/.exec(title)?.[1];
    const works =
      leader === undefined ? title.includes(this.#mark) : this.#known.get(Number(leader)) === true;
    if (works || /^postgres: \S+ \S+ \S/.test(title)) this.#known.set(pid, works);
    return works;
  }
}

function titleOf(pid: number): string {
  return read(`/proc/${pid}/cmdline`)?.replaceAll('\0', ' ') ?? '';
}

function childrenOf(pid: number | undefined): readonly number[] {
  if (pid === undefined) return [];
  return (read(`/proc/${pid}/task/${pid}/children`) ?? '').split(' ').filter(Boolean).map(Number);
}

/** The fields behind the name, which may hold anything: proc_pid_stat(5) from the third on. */
function fieldsOf(pid: number): readonly string[] {
  const text = read(`/proc/${pid}/stat`) ?? '';
  return text.slice(text.lastIndexOf(')') + 2).split(' ');
}

function parentOf(pid: number): number {
  return Number(fieldsOf(pid)[1]);
}

function ticksOf(pid: number): number | undefined {
  const fields = fieldsOf(pid);
  return fields.length < 13 ? undefined : Number(fields[11]) + Number(fields[12]);
}

function read(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
}
