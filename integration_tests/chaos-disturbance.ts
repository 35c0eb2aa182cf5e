/** What happens to a sync while it runs: kills, cuts, restarts and pauses at random moments. */
import type { ChildProcess } from 'node:child_process';
import type { Network } from './chaos-network.ts';
import type { Journal, Totals } from './chaos-report.ts';
import type { RunOptions } from './connector.ts';
import type { Message } from './messages.ts';
import type { RestartMode, TimescaleServer } from './server.ts';
import type { Random } from './writers.ts';

type Kind = 'kill' | 'kill after states' | 'cut' | 'restart' | 'pause' | 'slow reader' | 'nothing';

const DISTURBING: readonly Kind[] = [
  ...(['kill', 'kill', 'kill after states', 'kill after states', 'kill after states'] as const),
  ...(['cut', 'cut'] as const),
  ...(['restart', 'pause', 'slow reader', 'nothing', 'nothing'] as const),
];
/** These leave a sync whole. */
const GENTLE: readonly Kind[] = ['pause', 'slow reader', 'nothing'];

const LONGEST_PAUSE_MS = 2000;
const SLOW_BYTES_PER_SECOND = 4_000_000;

type Surroundings = {
  readonly random: Random;
  readonly server: TimescaleServer;
  readonly network: Network;
  readonly journal: Journal;
  readonly totals: Totals;
};

/** The disturbance of one sync; its moments are chosen when it is made. */
export class Disturbance {
  readonly what: string;
  /** Whether the server or the network failed the sync, so that it may say so. */
  broken = false;
  readonly #around: Surroundings;
  readonly #kinds: readonly Kind[];
  readonly #at: number;
  readonly #states: number;
  readonly #pauseMs: number;
  readonly #timers = new Set<NodeJS.Timeout>();
  #child: ChildProcess | null = null;
  #seenStates = 0;
  #restart: Promise<void> = Promise.resolve();

  /** @param typicalMs how long a sync takes that nothing disturbs. */
  constructor(around: Surroundings, gentle: boolean, typicalMs: number) {
    const { random, server } = around;
    this.#around = around;
    const possible = (gentle ? GENTLE : DISTURBING).map((kind) =>
      kind === 'restart' && server.restart === undefined ? 'cut' : kind,
    );
    const first = random.pick(possible);
    this.#kinds = random.below(4) === 0 ? [first, random.pick(possible)] : [first];
    // More often early: there what is read again is much.
    this.#at = random.next() * random.next() * typicalMs * 1.5;
    this.#states = 1 + random.below(40);
    this.#pauseMs = random.below(LONGEST_PAUSE_MS);
    this.what = `${this.#kinds.join(' and ')} (${this.#at.toFixed(0)} ms, ${this.#states} states)`;
  }

  options(): Pick<RunOptions, 'onStart' | 'slowReader'> {
    const slow = this.#kinds.includes('slow reader');
    return {
      onStart: (child) => {
        this.#child = child;
        for (const [index, kind] of this.#kinds.entries()) {
          this.#later(this.#at * (1 + index / 2), () => {
            this.#act(kind);
          });
        }
      },
      ...(slow ? { slowReader: { bytesPerSecond: SLOW_BYTES_PER_SECOND } } : {}),
    };
  }

  see(message: Message): void {
    if (message.type !== 'STATE') return;
    this.#seenStates += 1;
    if (this.#seenStates === this.#states && this.#kinds.includes('kill after states')) {
      this.#kill(`after ${this.#states} states`);
    }
  }

  /** Nothing more happens; a restart under way ends first. */
  async end(): Promise<void> {
    for (const timer of this.#timers) clearTimeout(timer);
    this.#child = null;
    await this.#restart;
  }

  #later(ms: number, work: () => void): void {
    this.#timers.add(setTimeout(work, ms));
  }

  #act(kind: Kind): void {
    switch (kind) {
      case 'kill':
        this.#kill('');
        break;
      case 'cut':
        this.#cut();
        break;
      case 'restart':
        // Two of them do not overlap.
        this.#restart = this.#restart.then(() => this.#restartServer());
        // It is awaited at the end; until then it must not end the process.
        this.#restart.catch(() => undefined);
        break;
      case 'pause':
        this.#pause();
        break;
      default:
    }
  }

  #kill(when: string): void {
    const { journal, totals } = this.#around;
    if (this.#child?.kill('SIGKILL') !== true) return;
    totals.kills += 1;
    journal.note(`  SIGKILL ${when}`);
  }

  #cut(): void {
    const { network, random, journal, totals } = this.#around;
    const cut = network.cut(random);
    if (cut === null) return;
    this.broken = true;
    totals.cuts += 1;
    journal.note(`  cut: ${cut}`);
  }

  async #restartServer(): Promise<void> {
    const { server, random, journal, totals } = this.#around;
    const mode: RestartMode = random.below(2) === 0 ? 'fast' : 'immediate';
    this.broken = true;
    totals.restarts += 1;
    journal.note(`  ${mode} restart begins`);
    await server.restart?.(mode);
    journal.note(`  ${mode} restart is done`);
  }

  #pause(): void {
    const child = this.#child;
    const { journal, totals } = this.#around;
    if (child?.kill('SIGSTOP') !== true) return;
    totals.pauses += 1;
    journal.note(`  paused for ${this.#pauseMs} ms`);
    this.#later(this.#pauseMs, () => {
      child.kill('SIGCONT');
    });
  }
}
