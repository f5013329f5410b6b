/** Does again what failed, after ever longer pauses. No DOM. */

const FIRST = 1000; // ms
const MOST = 30_000;

export class Retry {
  #act;
  #pause = FIRST;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;

  /** @param {() => void} act tries; whoever calls it says `failed` or `end` */
  constructor(act) {
    this.#act = act;
  }

  /** It failed: it is tried again after a pause. */
  failed() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#try(), this.#pause);
    this.#pause = Math.min(this.#pause * 2, MOST);
  }

  /** If something failed, try it again at once. */
  now() {
    if (this.#timer !== undefined) this.#try();
  }

  /** It went well, or is not wanted any more. */
  end() {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#pause = FIRST;
  }

  #try() {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#act();
  }
}
