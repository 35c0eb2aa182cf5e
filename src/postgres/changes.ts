/**
 * The slot's changes, window by window. What is read here moves only temporary copies of the slot. A second copy decodes
 * the next window while the rows of the one before are taken, so that server and connector work at the same time.
 */
import type { RowHandler } from './exchange.ts';
import { advanceLsn, type Lsn, minLsn } from './lsn.ts';
import type { SlotCopy, Window } from './slot-copy.ts';
import { isTakenSlowly, nextWindow, WINDOW_BYTES, type WindowRead } from './window-size.ts';

/** How much WAL the windows take, in bytes. */
type WindowSizes = { readonly first: number; readonly next: (last: WindowRead) => number };

export class ChangeReader {
  /** In turn. */
  readonly #copies: SlotCopy[];
  readonly #openSecond: () => Promise<SlotCopy | null>;
  readonly #nextWindow: WindowSizes['next'];
  #windowBytes: number;
  /** It is being decoded. */
  #ahead: Window | null = null;
  /** The rows of the last window were taken slowly. */
  #slow = false;
  /** The second copy was asked for. */
  #asked = false;

  /** @param openSecond asked once, when there is more than one window to read; null: there is to be none. */
  constructor(
    first: SlotCopy,
    openSecond: () => Promise<SlotCopy | null>,
    sizes: WindowSizes = { first: WINDOW_BYTES, next: nextWindow },
  ) {
    this.#copies = [first];
    this.#openSecond = openSecond;
    this.#windowBytes = sizes.first;
    this.#nextWindow = sizes.next;
  }

  /**
   * Reads the transactions that committed between `from` and the end of the next window.
   * @param target the same one until it is reached.
   * @param onMessage gets each pgoutput message, whole transactions in the order of their commits.
   * @returns the end of the window: every transaction that committed before it was delivered.
   */
  async readWindow(from: Lsn, target: Lsn, onMessage: RowHandler): Promise<Lsn> {
    const window = this.#ahead ?? this.#begin(from, target);
    this.#ahead = null;
    if (this.#slow) await this.#giveUpSecond();
    else if (window.upto < target) await this.#workAhead(window.upto, target);
    const done = await window.read(onMessage);
    this.#windowBytes = this.#nextWindow(done);
    this.#slow = isTakenSlowly(done);
    return window.upto;
  }

  /** With the copy whose turn it is. */
  #begin(from: Lsn, target: Lsn): Window {
    const [copy] = this.#copies;
    if (copy === undefined) throw new Error('no copy of the slot');
    return copy.begin(from, minLsn(target, advanceLsn(from, this.#windowBytes)));
  }

  async #workAhead(from: Lsn, target: Lsn): Promise<void> {
    if (!this.#asked) {
      this.#asked = true;
      const second = await this.#openSecond();
      if (second !== null) this.#copies.unshift(second);
    } else this.#copies.reverse();
    if (this.#copies.length > 1) this.#ahead = this.#begin(from, target);
  }

  /** For the rest of the sync: others may need its slot, and one that lies idle may be ended (PostgreSQL 18). */
  async #giveUpSecond(): Promise<void> {
    await Promise.all(this.#copies.splice(1).map((copy) => copy.close()));
  }

  async close(): Promise<void> {
    await Promise.all(this.#copies.map((copy) => copy.close()));
  }
}
