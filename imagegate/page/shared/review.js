/**
 * What every page does with the gate in front, whatever it looks like: it decides it by clicks and keys,
 * takes back, keeps the notes that were not sent, and says in its title how many wait.
 *
 * @import { Alerts } from "./alerts.js"
 * @import { Gates } from "./gates.js"
 * @import { Gate, Message } from "./queue/rest.js"
 *
 * @typedef {{now: unknown, leave: () => boolean, save: () => Promise<boolean>}} Painter
 *
 * @typedef {object} Page what a page has of its own
 * @property {string} area selects its parts that act on the gate in front
 * @property {() => boolean} busy whether something with keys of its own lies over it
 * @property {(gate: Gate | null) => void} show another gate, or none, comes to the front
 * @property {(gate: Gate) => void} update something about the gate in front has changed
 * @property {() => void} again the connection is back: what failed is tried again
 * @property {() => {by?: string, note: string}} words what goes with a decision
 * @property {(gate: Gate) => void} [decides] a decision about the gate goes out now
 * @property {(key: string, event: KeyboardEvent) => (() => unknown) | null | undefined} act what a key does
 * @property {(message: Message) => void} say
 */

import { Hold } from "./hold.js";
import { $ } from "./parts.js";

const RHYTHM = 200; // ms in which a page may be busy with a press
const FIELDS = "input:not([type=range]), textarea, select, [contenteditable]";
const TITLE = "Image Gate";

export class Review {
  /** The gate on show. @type {Gate | null} */
  gate = null;
  /** Whether this page's title is its own to write. */
  titled = true;
  /** @type {Painter | null} */
  painter = null;
  /** @type {Alerts | null} */
  alerts = null;
  hold;

  /** @type {Gates} */
  #gates;
  /** @type {Page} */
  #page;
  #version = -1;
  #online = false;
  /** @type {Map<string, string>} */
  #notes = new Map(); // gate id -> what is written but not sent

  /**
   * @param {Gates} gates
   * @param {Page} page
   */
  constructor(gates, page) {
    [this.#gates, this.#page] = [gates, page];
    this.hold = new Hold(gates, page.area, page.busy);
    document.addEventListener("keydown", this.#key);
    addEventListener("beforeunload", (event) => {
      if (gates.unsent) event.preventDefault(); // an answer is still on its way
    });
    gates.addEventListener("said", (event) => page.say(/** @type {CustomEvent} */ (event).detail));
    gates.addEventListener("answered", (event) => this.#notes.delete(/** @type {CustomEvent} */ (event).detail.id));
  }

  /** What all pages show of the gates. Returns whether another one, or none, has come to the front. */
  render() {
    const { current, waiting, fresh, newest, online, queue, skipped } = this.#gates;
    const another = current?.id !== this.gate?.id;
    const changed = current !== null && current.version !== this.#version;
    this.gate = current;
    this.#version = current?.version ?? -1;
    if (another) {
      this.hold.changed(current, this.#gates.cause);
      this.#page.show(current);
    } else if (changed) this.#page.update(current);
    document.body.classList.toggle("ig-idle", current === null);
    this.alerts?.count(fresh ? waiting : null, newest?.title);
    if (this.titled) document.title = waiting ? `(${waiting}) ${TITLE}` : TITLE;
    if (online && !this.#online) this.#page.again();
    this.#online = online;
    $("ig-skip").disabled = queue.length + skipped.length < 2;
    return another;
  }

  /** Nothing of what was seen or written stays, and no key does anything any more. */
  end() {
    this.gate = null;
    this.#notes.clear();
    document.removeEventListener("keydown", this.#key);
    if (this.titled) document.title = TITLE;
  }

  // -- notes: each waits with its gate while another one is on show

  /** What is written about the gate on show. */
  get note() {
    return this.#notes.get(this.gate?.id ?? "") ?? "";
  }

  set note(text) {
    if (text) this.#notes.set(this.gate?.id ?? "", text);
    else this.#notes.delete(this.gate?.id ?? "");
  }

  // -- deciding

  /**
   * Decide the gate that the press was meant for, with the mask that is being painted.
   *
   * @param {Gate} gate
   * @param {number} route from 1
   * @param {UIEvent} event
   */
  async decide(gate, route, event) {
    if (gate.id !== this.gate?.id || !this.hold.takes(event, route, this.#gates.label(gate, route))) return;
    const words = this.#page.words();
    if (this.painter?.now && !(await this.painter.save())) return;
    if (gate.id !== this.gate?.id) return;
    const busy = performance.now() - event.timeStamp;
    this.#page.decides?.(gate);
    this.#gates.decide(gate, route, words);
    // Counted from the press itself: a page that was busy does not lose the next one of a rhythm.
    if (busy < RHYTHM) this.hold.began(event.timeStamp);
  }

  /** Undo brings another gate to the front, which would throw away what is being painted. @param {Gate} [gate] */
  undo(gate) {
    if (this.leaves()) this.#gates.undo(gate);
  }

  skip() {
    if (this.leaves()) this.#gates.skip();
  }

  /** False, and a sentence, where going on would throw away what is being painted. */
  leaves() {
    return this.painter?.leave() ?? true;
  }

  // -- keys

  /** @param {KeyboardEvent} event */
  #key = (event) => {
    if (!event.key || this.#page.busy()) return; // without a key: a browser that fills in a field
    /** @type {HTMLElement | null | undefined} */
    const field = /** @type {Element} */ (event.target).closest?.(FIELDS);
    if (field && event.key === "Escape") field.blur(); // back to the keys
    const held = event.repeat && !event.key.startsWith("Arrow");
    if (field || event.ctrlKey || event.metaKey || event.altKey || held) return;
    const act = /^[0-9]$/.test(event.key) ? this.#route(event) : this.#page.act(event.key.toLowerCase(), event);
    if (!act) return;
    event.preventDefault(); // Space would scroll, or press the button that has the focus
    act();
  };

  /** @param {KeyboardEvent} event */
  #route(event) {
    const { gate } = this;
    const route = Number(event.key) || 10;
    const decides = gate && $("ig-routes") && route <= gate.labels.length;
    return decides ? () => this.decide(gate, route, event) : null;
  }
}
