/**
 * Whether what somebody presses is meant for the image on show. No DOM; the caller gives the times.
 *
 * After a change that the person caused (an answer, Skip, Undo) a press counts as soon as the image can
 * be seen. After any other (somebody else's answer, a timeout, a withdrawal, a new gate) nothing counts
 * until a press has acknowledged the change, or the person has rested for a second.
 */

const DOUBLE = 200; // ms in which a second click is that of a double click
const BOUNCE = 80; // ms in which a key that was pressed once may come twice
const REST = 1000; // ms without a press after which a change has been seen
const CONSIDER = 600; // ms without a press before one more sends an answer to an image that is not shown

/** What becomes of a press. */
export const COUNTS = "counts";
export const EARLY = "early"; // it came too soon after the change to be meant for what is shown now
export const ACKNOWLEDGES = "acknowledges"; // it says that the change was seen, and does nothing else
export const UNSEEN = "unseen"; // the image is not shown: once more, and it counts all the same

export class Pause {
  #since = 0; // when what is on show came, or the press that brought it was made
  #seen = Infinity; // when its image could be seen
  #failed = false;
  #pressed = -Infinity; // when something was pressed last, whatever became of it
  #held = false;
  /** @type {number | null} */
  #asked = null; // the answer that would be sent though the image is not shown

  /** Something else is shown. `own`: the person caused it; `at`: when. @type {(own: boolean, at: number) => void} */
  changed(own, at) {
    this.#held = !own;
    this.#since = at;
    this.#asked = null;
    this.hidden();
    if (!own) this.#pressed = at;
  }

  /** The press that brought it was made at `at`: a page that was busy since loses no rhythm. @param {number} at */
  began(at) {
    this.#since = at;
  }

  /** Another image is on its way. */
  hidden() {
    this.#seen = Infinity;
    this.#failed = false;
  }

  /** The image can be seen. @param {number} at */
  visible(at) {
    this.#seen = Math.min(this.#seen, at);
    this.#failed = false;
    this.#asked = null;
  }

  /** The image could not be loaded. */
  failed() {
    this.#failed = true;
  }

  /** Whether nothing counts yet. @param {number} at */
  held(at) {
    if (this.#held && at - this.#pressed >= REST) this.#held = false;
    return this.#held;
  }

  /** What somebody types prolongs the wait, and acknowledges nothing: they may not look at the image. @param {number} at */
  typed(at) {
    if (this.held(at)) this.#pressed = at;
  }

  /** What becomes of a press that decides nothing: it acts, unless it came too soon or acknowledges. @param {number} at */
  touch(at) {
    if (!this.held(at)) return COUNTS;
    if (at <= this.#since) return EARLY; // made before the change, heard of after it
    this.#held = false;
    this.#since = this.#pressed = at;
    return ACKNOWLEDGES;
  }

  /**
   * What becomes of a press that decides.
   *
   * @param {number} at
   * @param {boolean} click or else a key
   * @param {number} answer which one
   */
  press(at, click, answer) {
    const touched = this.touch(at);
    if (touched !== COUNTS) return touched;
    const before = at - this.#pressed;
    this.#pressed = at;
    if (before < BOUNCE || (click && at - this.#since < DOUBLE)) return EARLY;
    if (this.#seen <= at) return COUNTS;
    // A rhythm goes on without looking; who looks sees that there is no image yet.
    if (!click && !this.#failed && at - this.#since < REST) return EARLY;
    if (this.#asked === answer && before >= CONSIDER) return COUNTS;
    this.#asked = answer;
    return UNSEEN;
  }
}
