/**
 * The gates as a page knows them, whoever looks at it: REST, the event stream, the queue. No DOM.
 *
 * The server is the truth. After each (re)connection the list is read anew, then the events keep
 * it current; an answer is sent until the server has said what became of it.
 *
 * @import { Gate, Progress } from "./queue/rest.js"
 * @typedef {{own: boolean, why: string}} Cause
 * @typedef {{gates: Gate[], next: string | null, waiting: number, now: number, progress?: Progress}} List
 */

import { Attention } from "./queue/attention.js";
import { isGone, newKey } from "./queue/rest.js";
import { subscribe } from "./queue/stream.js";
import { Viewers } from "./queue/viewers.js";
import { urgentFirst, Waiting } from "./queue/waiting.js";

export { newKey, told } from "./queue/rest.js";

const PAGE = 50;
const LOW = 5; // fewer known gates than this: read the next page
const SLOW = 300; // ms after which an answer that is still on its way is spoken of
/** @type {Record<string, string>} */
const ENDED = { expired: "the time was up", withdrawn: "it is no longer needed" };
const PROMPT = 500; // ms in which an undo follows the key that asked for it
const FIRST = 1; // version of a gate that was just published

export class Gates extends Waiting {
  online = false;
  /** Whether more gates are on their way to this page. */
  reading = false;
  loaded = false;
  /** Whether the lists were read since the connection came. */
  fresh = false;
  /** What brought the gate in front: whether this person did, else a sentence about what happened.
   *  @type {Cause} */
  cause = { own: true, why: "" };

  /** @type {string | null} */
  #cursor = null;
  /** @type {Promise<unknown>} */
  #undone = Promise.resolve();
  /** @type {Map<string, Promise<void>>} */
  #sending = new Map(); // gate id -> answer on its way
  /** @type {Map<string, number>} */
  #over = new Map(); // gate id -> its version when it ended, for lists that were read before
  /** @type {Map<string, Gate>} */
  #meanwhile = new Map(); // gates that came back before the answer to them was confirmed
  #attention = new Attention(this, () => this.viewer());
  #deaf = () => {}; // ends the event stream

  get unsent() {
    return this.#sending.size;
  }

  /**
   * Listen for as long as the page lives, or until it is over.
   *
   * @param {string} whose pages of this name share a stream
   */
  listen(whose = "") {
    this.#deaf = subscribe(this.base, (kind, content) => this.heard(kind, content), whose);
  }

  /** News from the server; "lost" says that the connection broke. @type {(kind: string, content?: any) => void} */
  heard(kind, content) {
    if (this.over) return;
    this.#setOnline(kind !== "lost");
    if (kind === "over") this.end();
    else if (kind !== "lost") this.inOrder(() => !this.over && this.#take(kind, content));
  }

  /** Forget all gates, and ask and hear nothing more. */
  end() {
    if (this.over) return;
    this.#deaf();
    super.end();
    this.dispatchEvent(new Event("over"));
  }

  /** @type {(kind: string, content: any) => unknown} */
  #take(kind, content) {
    if (kind === "reload") return this.#readAll();
    if (kind === "looking") return this.#attention.take(content.looks);
    if (content.gate && !this.concerns(content.gate)) return null;
    if (content.gate) this.waiting = content[this.count];
    if (content.progress) this.report(content.progress);
    this.goesOnWith(content.gate);
    if (kind === "published") this.#published(content.gate);
    else if (kind === "masked") this.update(content.gate);
    else if (content.gate) return this.#ended(content.gate).then(() => this.changed());
    this.changed();
    return null;
  }

  /** Read the list and the history anew; what is on show stays on show while it waits. */
  async #readAll() {
    try {
      const [page, past] = await Promise.all([
        /** @type {Promise<List>} */ (this.get(this.filtered(`gates?limit=${PAGE}`))),
        this.get(this.pastFrom()),
      ]);
      // Another session over the same folder: its gates have the same ids, and begin anew.
      if (page.progress?.session !== this.progress?.session) this.#over.clear();
      const looked = this.current; // it may be of a later page
      const unread = looked && !page.gates.some((gate) => gate.id === looked.id);
      const shown = unread ? await this.standing(looked) : null;
      const first = looked ? "" : await this.#choose(urgentFirst(page.gates).filter((gate) => this.#isOpen(gate)));
      if (this.over) return;
      // From here to the end at once: what is on show may not change in between.
      const open = page.gates.filter((gate) => this.#isOpen(gate));
      const putOff = new Set(this.skipped.map((gate) => gate.id));
      const queue = urgentFirst(open.filter((gate) => !putOff.has(gate.id)));
      const before = this.current;
      const front =
        before?.id === looked?.id && unread ? shown : before && (open.find((gate) => gate.id === before.id) ?? before);
      const stays = front && this.#isOpen(front);
      this.list(
        stays ? [front, ...queue.filter((gate) => gate.id !== front.id)] : Viewers.front(queue, first),
        open.filter((gate) => putOff.has(gate.id) && !(stays && gate.id === front.id)),
      );
      this.#cursor = page.next;
      this.setPast(past);
      for (const gate of open) this.waitsAgain(gate);
      this.waiting = page.waiting;
      this.report(page.progress ?? null);
      this.clock = page.now - Date.now() / 1000;
      this.cause = { own: !this.loaded, why: "" }; // who opens a page waits for what it shows
      if (before && !stays) this.#isGone(this.history.find((gate) => gate.id === before.id) ?? before);
    } catch {
      return; // the event stream notices too, and calls again
    }
    this.loaded = this.fresh = true;
    this.#refill();
    this.changed();
    this.dispatchEvent(new Event("read"));
  }

  /** Put the gate on show off until the others were shown. */
  skip() {
    const gate = this.queue.shift();
    if (!gate) return;
    this.skipped.push(gate);
    this.#byOneself();
    this.say(this.current === gate ? "There is no other gate to go to." : `Skipped ${this.brief(gate.title)}.`);
  }

  /**
   * Each click has its own key, by which the server knows it again when it is sent twice.
   *
   * @param {Gate} gate
   * @param {number} route from 1
   * @param {{by?: string, note: string}} words
   */
  decide(gate, route, words) {
    const click = { route, ...words, key: newKey() };
    return this.answer(gate, "decision", click, `“${this.label(gate, route)}”`);
  }

  /** What is said of somebody's decision about the gate in front. @param {Gate} gate */
  others(gate) {
    return this.told(gate);
  }

  /** One after the other, and after the answers on their way: it is the last one that is meant.
   *  @param {Gate | null} [gate] */
  undo(gate = null) {
    const asked = performance.now();
    this.#undone = this.#undone.then(async () => {
      await Promise.all(this.#sending.values());
      await this.#undo(gate ?? this.undoable, asked);
    });
    return this.#undone;
  }

  /** @type {(gate: Gate | null, asked: number) => Promise<void>} */
  async #undo(gate, asked) {
    const last = this.answered;
    if (!gate && last?.undoable) {
      this.say(`${this.told(last)} for ${this.brief(last.title)}; the history can take it back.`, "bad");
      return;
    }
    gate ??= last; // the server knows why it is too late
    if (!gate) {
      this.say("There is nothing to undo.", "bad");
      return;
    }
    this.own(gate);
    const [status, body] = await this.send(gate, "undo", {});
    if (this.over) return;
    this.dropUndo(gate);
    if (status !== 200) {
      this.say(`Not undone: ${body.error}`, "bad");
    } else {
      this.waitsAgain(gate);
      this.drop(gate.id);
      this.queue.unshift(body);
      const said = `Taken back: ${this.brief(gate.title)} waits again.`;
      // Who has waited long for it may be about to press something else.
      this.cause = { own: performance.now() - asked < PROMPT, why: said };
      this.say(said, "", gate.id);
    }
    this.changed();
    if (!this.undoable) this.inOrder(() => this.#readAll()); // for older decisions
  }

  // -- answers

  /** @type {(gate: Gate, path: string, body: object, said: string) => Promise<void>} */
  answer(gate, path, body, said) {
    this.own(gate);
    const answer = this.#deliver(gate, path, body, said);
    this.#sending.set(gate.id, answer);
    this.drop(gate.id);
    this.#byOneself();
    return answer;
  }

  /** What comes to the front now was brought there by this person. */
  #byOneself() {
    this.cause = { own: true, why: "" };
    this.#refill();
    const [next] = this.#attention.order(this.queue);
    if (next) this.bring(next.id);
    this.changed();
  }

  /** @type {(gate: Gate, path: string, body: object, said: string) => Promise<void>} */
  async #deliver(gate, path, body, said) {
    const slow = setTimeout(() => this.say(`${said} for ${this.brief(gate.title)}: sending …`, "busy", gate.id), SLOW);
    const [status, reply] = await this.send(gate, path, body);
    clearTimeout(slow);
    this.#sending.delete(gate.id);
    if (this.over) return;
    const lost = status === 409 && reply.decision;
    if (status === 200 || lost || isGone(status)) this.#answered(gate);
    if (status === 200) {
      if (path === "decision") this.keepUndo(gate);
      const later = gate.mode === "park" && path === "decision" ? "; it goes on by itself" : "";
      this.say(`${said} recorded for ${this.brief(gate.title)}${later}.`, "good", gate.id);
    } else if (lost) {
      this.say(`Too late for ${this.brief(gate.title)}: ${this.told(gate, reply.decision)} first.`, "bad", gate.id);
    } else if (isGone(status)) {
      this.say(`${this.brief(gate.title)} is over: ${reply.error}`, "bad", gate.id);
    } else {
      const why = `Not recorded: ${reply.error}`;
      this.queue.unshift(gate); // it still waits
      this.cause = { own: false, why };
      this.say(why, "bad", gate.id);
    }
    const back = this.#meanwhile.get(gate.id);
    if (back) this.#published(back);
    this.#meanwhile.delete(gate.id);
    this.changed();
  }

  /** It is known that no answer from here is needed any more. @param {Gate} gate */
  #answered(gate) {
    this.#ends(gate);
    this.dispatchEvent(new CustomEvent("answered", { detail: gate }));
  }

  /** Post until there is an answer: [status, body]. @type {(gate: Gate, path: string, body: object) => Promise<[number, any]>} */
  send(gate, path, body) {
    return this.sender.post(this.url(`gates/${gate.id}/${path}`), body, (why) => {
      if (why) this.say(`${this.brief(gate.title)}: ${why}. Trying again …`, "busy", gate.id);
      this.#setOnline(false);
    });
  }

  // -- news

  /** @param {Gate} gate */
  #published(gate) {
    if (this.find(gate.id)) {
      this.update(gate);
    } else if (this.#sending.has(gate.id)) {
      this.#meanwhile.set(gate.id, gate);
    } else if (this.#isOpen(gate)) {
      const again = gate.version > FIRST; // taken back, or put back: perhaps of a page long read
      if (again) this.waitsAgain(gate);
      // A new one with unread pages before it will be read in its turn.
      const urgent = gate.state === "waiting" && this.queue.some((one) => one.state === "parked");
      if (again || urgent || this.#cursor === null) this.line([gate]);
      if (gate.reason) this.say(`${this.brief(gate.title)} could not go on: it waits again.`, "bad");
    }
  }

  /** It ended; or it had, and now somebody goes on with it, or has. @param {Gate} gate */
  async #ended(gate) {
    const open = this.find(gate.id);
    if (open && open.version > gate.version) return; // old news: it waits again
    this.#ends(gate);
    this.#meanwhile.delete(gate.id);
    const shown = this.current?.id === gate.id;
    // Until it is known what comes next, what is on show stays there.
    const next = shown ? await this.#choose(this.queue.slice(1)) : "";
    if (this.over) return;
    const still = shown && this.current?.id === gate.id; // and not left meanwhile
    this.drop(gate.id);
    if (still) this.bring(next);
    this.remember(gate);
    this.forgetUndo(gate);
    if (still) this.#isGone(gate);
    this.#refill();
  }

  /** Who this is, for whoever asks who looks at what; null: in nobody's way. @returns {object | null} */
  viewer() {
    return {};
  }

  /** Whether somebody attends to this page: where nobody does, others are shown its gate. @param {boolean} on */
  attend(on) {
    if (this.#attention.attend(on)) this.#showCurrent(true);
  }

  /** Let the server know what is on show, if that is news. */
  #showCurrent(again = false) {
    if (!this.over && this.loaded) this.#attention.show(this.current, again);
  }

  /** @type {(gates: Gate[]) => Promise<string>} the id of the one that is shown next */
  #choose(gates) {
    return this.#attention.choose(gates, this.loaded);
  }

  /** The gates after the one on show, as they will come. @param {number} count */
  next(count) {
    return this.#attention.order(this.queue.slice(1)).slice(0, count);
  }

  /** The gate on show ended, and not by an answer from here. @param {Gate} gate */
  #isGone(gate) {
    const why =
      gate.decision && gate.state !== "expired"
        ? this.others(gate)
        : gate.reason || ENDED[gate.state] || ENDED.withdrawn;
    const said = `${this.brief(gate.title)}: ${why}.`;
    this.cause = { own: false, why: said };
    this.say(said, "bad", gate.id);
  }

  // -- inside

  /** @param {Gate} gate */
  #ends(gate) {
    this.#over.set(gate.id, Math.max(gate.version, this.#over.get(gate.id) ?? 0));
  }

  /** Whether a gate of a list still waits; an undo gives it a higher version. @param {Gate} gate */
  #isOpen(gate) {
    return !this.#sending.has(gate.id) && gate.version > (this.#over.get(gate.id) ?? -1);
  }

  /** See to it that the queue goes on: with the next page, or with what was skipped. */
  #refill() {
    if (this.queue.length < LOW && this.#cursor !== null && !this.reading) {
      this.reading = true;
      this.inOrder(() => this.#readOn());
    }
    if (this.queue.length === 0 && this.#cursor === null) {
      this.list(this.skipped, []);
    }
  }

  async #readOn() {
    try {
      /** @type {List} */
      const page = await this.get(this.filtered(`gates?limit=${PAGE}&cursor=${this.#cursor ?? ""}`));
      /** @param {Gate} gate */
      const unknown = (gate) => !this.find(gate.id) && this.#isOpen(gate);
      this.line(page.gates.filter(unknown));
      this.#cursor = page.next;
      this.waiting = page.waiting;
      this.reading = false;
      this.#refill(); // perhaps it knew all of them
    } catch {
      this.reading = false; // the next change tries again
    }
    this.changed();
  }

  /** @param {boolean} online */
  #setOnline(online) {
    if (online) this.sender.wake();
    if (this.online === online) return;
    this.online = online;
    if (!online) this.fresh = false;
    this.changed();
  }

  changed() {
    super.changed();
    this.cause = { own: false, why: "" }; // of whatever comes next
    this.#showCurrent();
  }
}
