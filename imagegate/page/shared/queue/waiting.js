/**
 * The gates that wait, in the order in which they are shown. No DOM.
 *
 * @import { Gate } from "./rest.js"
 */

import { History } from "./history.js";
import { Viewers } from "./viewers.js";

export class Waiting extends History {
  /** @type {Gate[]} what comes next, the gate on show first */
  queue = [];
  /** @type {Gate[]} put off, shown again after the queue */
  skipped = [];
  /** How many wait on the server, those included that this page has not read yet. */
  waiting = 0;

  end() {
    super.end();
    this.list([], []);
    this.waiting = 0;
  }

  /** These wait, and no others. @type {(queue: Gate[], skipped: Gate[]) => void} */
  list(queue, skipped) {
    this.queue = queue;
    this.skipped = skipped;
  }

  /** The gate on show. @returns {Gate | null} */
  get current() {
    return this.queue[0] ?? null;
  }

  /** All that wait and were read. */
  get known() {
    return [...this.queue, ...this.skipped];
  }

  /** The youngest of those that wait and were read. @returns {Gate | null} */
  get newest() {
    const [first, ...others] = this.known;
    return others.reduce((best, gate) => (best.created_at >= gate.created_at ? best : gate), first) ?? null;
  }

  /** @param {string} id */
  find(id) {
    return this.known.find((gate) => gate.id === id);
  }

  /** More gates for the queue; the one on show stays on show. @param {Gate[]} gates */
  line(gates) {
    const [shown, ...others] = this.queue;
    this.queue = [...(shown ? [shown] : []), ...urgentFirst([...others, ...gates])];
  }

  /** It comes to the front. @param {string} id */
  bring(id) {
    this.queue = Viewers.front(this.queue, id);
  }

  /** @param {string} id */
  drop(id) {
    this.queue = this.queue.filter((gate) => gate.id !== id);
    this.skipped = this.skipped.filter((gate) => gate.id !== id);
  }

  /** Something about a gate that waits has changed. @param {Gate} gate */
  update(gate) {
    for (const list of [this.queue, this.skipped]) {
      const at = list.findIndex((one) => one.id === gate.id);
      if (at >= 0 && list[at].version < gate.version) list[at] = gate;
    }
  }

  /** Of images that go on together, one was answered or taken back: the others wait for as many. @param {Gate} [gate] */
  goesOnWith(gate) {
    if (!gate?.waits_for) return;
    for (const one of this.known) {
      const same = one.together && one.node_id === gate.node_id && one.prompt_id === gate.prompt_id;
      if (same) one.waits_for = gate.waits_for;
    }
  }
}

/** What waits holds up a prompt, and the queue behind it; what is parked does not. @param {Gate[]} gates */
export function urgentFirst(gates) {
  /** @param {Gate} gate */
  const parked = (gate) => gate.state === "parked";
  return [...gates.filter((gate) => !parked(gate)), ...gates.filter(parked)];
}
