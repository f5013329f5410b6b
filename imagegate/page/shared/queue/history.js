/**
 * What ended, newest first, and which of it can be taken back from here. No DOM.
 *
 * @import { Decision, Gate } from "./rest.js"
 * @typedef {Gate & {decision: Decision}} Decided
 */

import { Rest } from "./rest.js";

const LENGTH = 30; // gates that are read at once

export class History extends Rest {
  /** Newest first. @type {Gate[]} */
  history = [];
  /** The list of what ended. */
  past = "history?";
  /** Where that goes on; null where it does not. @type {string | null} */
  older = null;

  /** @type {Gate[]} */
  #mine = []; // gates decided here that can be taken back, newest last
  /** @type {Set<string>} */
  #ours = new Set(); // ids of gates that were answered, or whose answer was taken back, here

  end() {
    super.end();
    this.history = [];
  }

  /** The address of the newest of what ended, or of what comes after a cursor. */
  pastFrom(cursor = "") {
    return this.filtered(`${this.past}limit=${LENGTH}${cursor}`);
  }

  /** Read what ended anew, newest first. */
  readPast() {
    return this.#read("", (page) => this.setPast(page));
  }

  /** The next page of what ended. */
  readOlder() {
    return this.#read(`&cursor=${this.older ?? ""}`, (page) => {
      const known = new Set(this.history.map((gate) => gate.id));
      this.history.push(...page.gates.filter((gate) => !known.has(gate.id)));
      this.older = page.next;
    });
  }

  /** @type {(from: string, take: (page: {gates: Gate[], next: string | null}) => void) => Promise<unknown>} */
  #read(from, take) {
    return this.inOrder(async () => {
      try {
        const page = await this.get(this.pastFrom(from));
        if (!this.over) take(page);
      } catch (error) {
        const why = error instanceof TypeError ? "no connection" : /** @type {Error} */ (error).message;
        this.say(`Not read: ${why}`, "bad");
      }
      this.changed();
    });
  }

  /** @param {{gates: Gate[], next: string | null}} page */
  setPast(page) {
    this.history = page.gates;
    this.older = page.next;
    for (const gate of this.history) this.forgetUndo(gate);
  }

  /** In the history a gate keeps its place; one that was decided long ago gets it. @param {Gate} gate */
  remember(gate) {
    const at = this.history.findIndex((one) => one.id === gate.id);
    if (at >= 0) {
      if (this.history[at].version <= gate.version) this.history[at] = gate;
      return;
    }
    const old = gate.resuming || gate.state === "resumed";
    const when = gate.decision?.at ?? 0;
    const after = old ? this.history.findIndex((one) => one.decision && one.decision.at < when) : 0;
    const most = Math.max(LENGTH, this.history.length); // more, where older ones were asked for
    this.history.splice(after < 0 ? most : after, 0, gate);
    this.history.length = Math.min(this.history.length, most);
  }

  /** It was answered, or an answer to it taken back, here. @param {Gate} gate */
  own(gate) {
    this.#ours.add(gate.id);
  }

  /** An answer from here is recorded, and can be taken back unless somebody went on with it. @param {Gate} gate */
  keepUndo(gate) {
    const taken = this.history.some((one) => one.id === gate.id && !one.undoable);
    if (gate.undoable && !taken) this.#mine.push(gate);
  }

  /** @param {Gate} gate */
  forgetUndo(gate) {
    if (!gate.undoable) this.dropUndo(gate);
  }

  /** @param {Gate} gate */
  dropUndo(gate) {
    this.#mine = this.#mine.filter((one) => one.id !== gate.id);
  }

  /** It waits again. @param {Gate} gate */
  waitsAgain(gate) {
    this.history = this.history.filter((one) => one.id !== gate.id);
    this.dropUndo(gate);
  }

  /** The gate that Undo would take back: this page's last decision, else this person's. @returns {Gate | null} */
  get undoable() {
    const newest = this.history.find((gate) => gate.state === "decided" && gate.undoable && this.isMine(gate));
    return this.#mine.at(-1) ?? newest ?? null;
  }

  /** The gate that was given a route last, by anybody. @returns {Decided | null} */
  get answered() {
    return this.history.find(isAnswered) ?? null;
  }

  /** Whether a decision is this person's, for Undo. @param {Gate} gate */
  isMine(gate) {
    return Boolean(this.progress) || (gate.decision?.by ?? "") === this.me();
  }

  /** Whether others have changed what ended since it had these ids. @param {Map<string, unknown>} before */
  changedByOthers(before) {
    const now = new Set(this.history.map((gate) => gate.id));
    const changed = [...now].filter((id) => !before.has(id)).concat([...before.keys()].filter((id) => !now.has(id)));
    return before.size > 0 && changed.some((id) => !this.#ours.has(id));
  }
}

/** Whether a gate was given a route. @returns {gate is Decided} @param {Gate} gate */
export function isAnswered(gate) {
  return gate.decision != null && gate.decision.route !== null;
}
