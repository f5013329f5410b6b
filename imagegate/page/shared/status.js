/**
 * The sentence about what just happened, one at a time. No DOM. A message has a rank: one that a
 * person must read stands for its time before anything else takes its place, and what came meanwhile
 * is shown then.
 */

/** Hints and what is under way; what was done; what a person must read. */
export const HINT = 0;
export const DONE = 1;
export const MUST_READ = 2;

const READ = 4000; // ms that a message stands which must be read
const NEXT = 1800; // ms, if another one of these waits
const TICK = 100; // ms
const MOST = 3; // messages that must be read and wait; of more the oldest are left out

/** @type {Record<string, number>} */
const RANKS = { busy: HINT, good: DONE, bad: MUST_READ };

/**
 * @import { Message } from "./queue/rest.js"
 * @typedef {{text: string, tone?: string, rank: number, about: string}} Ranked
 */

export class StatusLine {
  #show;
  #every;
  /** @type {Ranked | null} */
  #now = null;
  #left = 0; // ms that what is shown still stands
  /** @type {Ranked[]} */
  #waiting = []; // messages that must be read, oldest first
  /** @type {Ranked | null} */
  #last = null; // of the others the latest
  /** @type {unknown} */
  #timer = null;

  /**
   * @param {(message: Message) => void} show
   * @param {(act: () => void, ms: number) => unknown} every as setInterval. Its ticks are counted, not the time: while the page is too busy to
   *   draw, or is out of sight, nobody reads
   */
  constructor(show, every = (act, ms) => setInterval(act, ms)) {
    this.#show = show;
    this.#every = every;
  }

  /**
   * @param {Message} message `rank`: by default after its tone; `about`: takes the place of whatever was said
   *   about the same before, also of what must be read
   */
  say(message) {
    const one = { about: "", ...message, rank: message.rank ?? RANKS[message.tone ?? ""] ?? DONE };
    if (one.about) this.#forget(one.about);
    if (!this.#now || this.#left <= 0) {
      this.#last = null;
      this.#put(one);
    } else if (one.rank < MUST_READ) this.#last = one;
    else if (![this.#now, ...this.#waiting].some(({ text }) => text === one.text)) {
      this.#waiting = [...this.#waiting, one].slice(-MOST);
    }
  }

  /** Nothing more is shown. */
  end() {
    clearInterval(/** @type {number} */ (this.#timer));
    this.#show = () => {};
  }

  /** @param {string} about */
  #forget(about) {
    this.#waiting = this.#waiting.filter((one) => one.about !== about);
    if (this.#last?.about === about) this.#last = null;
    if (this.#now?.about === about) this.#left = 0;
  }

  /** @param {Ranked} one */
  #put(one) {
    this.#now = one;
    this.#left = one.rank === MUST_READ ? READ : 0;
    if (this.#left && this.#timer === null) this.#timer = this.#every(() => this.#tick(), TICK);
    this.#show(one);
  }

  #tick() {
    this.#left -= TICK;
    if (this.#waiting.length && this.#left <= READ - NEXT) this.#put(/** @type {Ranked} */ (this.#waiting.shift()));
    else if (this.#left <= 0) {
      clearInterval(/** @type {number} */ (this.#timer));
      this.#timer = null;
      const last = this.#last;
      this.#last = null;
      if (last) this.#put(last);
    }
  }
}
