/**
 * Who else looks at which gate, so that several people at one queue are shown different ones first. No DOM.
 */

export class Viewers {
  /** @type {Map<string, [string, number][]>} */
  #looks = new Map(); // gate id -> [[who, until], ...]
  /** How the server calls this page's person to the others; "" until it has said so. */
  me = "";

  /** What the server says: [[gate id, who, seconds], ...] of everybody. `now` in ms.
   *  @type {(looks: [string, string, number][], now: number) => void} */
  take(looks, now) {
    this.#looks.clear();
    for (const [id, who, seconds] of looks) {
      this.#looks.set(id, [...(this.#looks.get(id) ?? []), [who, now + seconds * 1000]]);
    }
  }

  /** Whether somebody else looks at a gate. @type {(gate: {id: string}, now: number) => boolean} */
  taken(gate, now) {
    return (this.#looks.get(gate.id) ?? []).some(([who, until]) => who !== this.me && until > now);
  }

  /** Whether anybody else is known to look at anything. @param {number} now */
  alone(now) {
    return ![...this.#looks.values()].flat().some(([who, until]) => who !== this.me && until > now);
  }

  /** The gates in the order in which they are shown: first, oldest first, those that nobody else looks at.
   *  @type {<T extends {id: string}>(gates: T[], now: number) => T[]} */
  order(gates, now) {
    /** @param {{id: string}} gate */
    const taken = (gate) => this.taken(gate, now);
    return [...gates.filter((gate) => !taken(gate)), ...gates.filter(taken)];
  }

  /** The queue with another gate in front; all others keep their places.
   *
   * @template {{id: string}} T
   * @param {T[]} queue
   * @param {string} id
   */
  static front(queue, id) {
    const first = queue.find((gate) => gate.id === id);
    return first ? [first, ...queue.filter((gate) => gate !== first)] : queue;
  }
}
