/**
 * Which gate is on show here, as the server and so everybody else knows it, and which one is shown next
 * where several people work at one queue. No DOM.
 *
 * @import { Gate, Rest } from "./rest.js"
 */

import { newKey } from "./rest.js";
import { Viewers } from "./viewers.js";

const OFFERED = 20; // gates of which the server chooses one that nobody else looks at
const CHOICE = 1000; // ms to choose
const ATTENTIVE = 20_000; // ms between signs of attention

export class Attention {
  /** @type {Rest} */
  #rest;
  /** @type {() => object | null} */
  #viewer;
  #viewers = new Viewers();
  #page = newKey();
  #shows = ""; // the gate of which the server knows that it is on show here
  #attends = true;
  #attended = 0; // when the server heard so

  /**
   * @param {Rest} rest
   * @param {() => object | null} viewer who this is; null: who is in nobody's way
   */
  constructor(rest, viewer) {
    [this.#rest, this.#viewer] = [rest, viewer];
  }

  /** What everybody looks at, as the server says. @param {[string, string, number][]} looks */
  take(looks) {
    this.#viewers.take(looks, performance.now());
  }

  /** Gates as they will come: first those that nobody else looks at. @param {Gate[]} gates */
  order(gates) {
    return this.#viewers.order(gates, performance.now());
  }

  /**
   * The id of the gate that is shown next, where this person did not ask for it: the server knows best what
   * others look at just now.
   *
   * @param {Gate[]} gates
   * @param {boolean} known whether it is known what others look at
   */
  async choose(gates, known) {
    const now = performance.now();
    if (gates.length < 2 || (this.#viewers.alone(now) && known)) return gates[0]?.id ?? "";
    /** @type {Promise<string>} */
    const late = new Promise((done) => setTimeout(done, CHOICE, ""));
    const chosen = await Promise.race([this.#look(gates.slice(0, OFFERED)), late]);
    return chosen || this.#viewers.order(gates, now)[0].id;
  }

  /** Whether somebody attends to this page. Returns whether the server must hear of it. @param {boolean} on */
  attend(on) {
    const changed = on !== this.#attends;
    this.#attends = on;
    return changed || (on && performance.now() - this.#attended > ATTENTIVE);
  }

  /** Let the server know what is on show, if that is news. @type {(gate: Gate | null, again: boolean) => void} */
  show(gate, again) {
    if (!this.#viewer()) return;
    const seen = this.#attends ? gate : null;
    const id = seen?.id ?? "";
    if (id === this.#shows && !again) return;
    this.#shows = id;
    this.#look(seen ? [seen] : []);
  }

  /** Say what is looked at: the one of these gates that the server answers with. @param {Gate[]} gates */
  async #look(gates) {
    const viewer = this.#viewer();
    if (!viewer) return "";
    const body = JSON.stringify({ ...viewer, page: this.#page, gates: gates.map((gate) => gate.id) });
    this.#attended = performance.now();
    try {
      const headers = { "content-type": "application/json" };
      const reply = await this.#rest.fetch(this.#rest.url("looking"), {
        method: "POST",
        headers,
        body,
        keepalive: true,
      });
      const said = reply.ok ? await reply.json() : { gate: "", you: this.#viewers.me };
      this.#viewers.me = said.you;
      this.#shows = said.gate ?? "";
      return this.#shows;
    } catch {
      return ""; // it is a courtesy
    }
  }
}
