/**
 * The gates as a page knows them, whoever looks at it: REST, the event stream, the queue. No DOM.
 *
 * The server is the truth. After each (re)connection the list is read anew, then the events keep
 * it current; an answer is sent until the server has said what became of it.
 */

import { isolated, toldApart } from "./labels.js";
import { Sender, reason } from "./sender.js";
import { subscribe } from "./stream.js";
import { Viewers } from "./viewers.js";

const PAGE = 50;
const LOW = 5; // fewer known gates than this: read the next page
const HISTORY = 30;
const SLOW = 300; // ms after which an answer that is still on its way is spoken of
const ENDED = { expired: "the time was up", withdrawn: "it is no longer needed" };
const OFFERED = 20; // gates of which the server chooses one that nobody else looks at
const CHOICE = 1000; // ms to choose
const ATTENTIVE = 20_000; // ms between signs of attention
const PROMPT = 500; // ms in which an undo follows the key that asked for it
const OURS = { "x-imagegate": "1" }; // which a page of another origin cannot send
const FIRST = 1; // version of a gate that was just published
const GONE = new Set([404, 410]); // what an answer meets where there is nothing to answer any more

/** @typedef {{id: string, title: string, labels: string[], state: string, batch: number}} Gate */

export class Gates extends EventTarget {
  /** @type {Gate[]} what comes next, the gate on show first */
  queue = [];
  /** @type {Gate[]} put off, shown again after the queue */
  skipped = [];
  /** @type {Gate[]} newest first */
  history = [];
  /** How many wait on the server, those included that this page has not read yet. */
  waiting = 0;
  /** What a folder session says of itself; null in ComfyUI. */
  progress = null;
  /** Who answers here. */
  me = () => "";
  /** The list of what ended, and where it goes on; null where it does not. */
  past = "history?";
  older = null;
  online = false;
  /** Whether more gates are on their way to this page. */
  reading = false;
  loaded = false;
  /** Whether the lists were read since the connection came. */
  fresh = false;
  /** Whether this page may no longer know of any gate. */
  over = false;
  /** Server's clock minus this one's, in seconds. */
  clock = 0;
  /** What brought the gate in front: whether this person did, else a sentence about what happened. */
  cause = { own: true, why: "" };

  #base;
  #node;
  #workflow;
  #cursor = null;
  #news = Promise.resolve(); // what the server tells is taken in one after the other
  #undone = Promise.resolve();
  #sending = new Map(); // gate id -> answer on its way
  #over = new Map(); // gate id -> its version when it ended, for lists that were read before
  #sender = new Sender((url, options) => this.fetch(url, options));
  #meanwhile = new Map(); // gates that came back before the answer to them was confirmed
  #mine = []; // gates decided here that can be taken back, newest last
  #viewers = new Viewers();
  #page = newKey();
  #ours = new Set(); // ids of gates that were answered, or whose answer was taken back, here
  #shows = ""; // the gate of which the server knows that it is on show here
  #attends = true;
  #attended = 0; // when it was told so
  #deaf = () => {}; // ends the event stream

  /**
   * @param {URL} base of the panel, ends with a slash
   * @param {string} node only this node's gates, or "" for all
   * @param {string} workflow of these only that workflow's, or "" for any: numbers of nodes come
   *   again in another
   */
  constructor(base, node, workflow) {
    super();
    this.#base = base;
    this.#node = node;
    this.#workflow = node && workflow;
  }

  get current() {
    return this.queue[0] ?? null;
  }

  /** The youngest of those that wait and were read. */
  get newest() {
    const known = [...this.queue, ...this.skipped];
    return known.reduce((best, gate) => (best?.created_at >= gate.created_at ? best : gate), null);
  }

  get unsent() {
    return this.#sending.size;
  }

  url(path) {
    return new URL(`api/${path}`, this.#base);
  }

  image(gate, index, size = "preview") {
    return this.url(`gates/${gate.id}/image/${index}?size=${size}`).href;
  }

  mask(gate, index) {
    return this.url(`gates/${gate.id}/mask/${index}`).href;
  }

  /**
   * Listen for as long as the page lives, or until it is over.
   *
   * @param {string} whose pages of this name share a stream
   */
  listen(whose = "") {
    this.#deaf = subscribe(this.#base, (kind, content) => this.heard(kind, content), whose);
  }

  /** News from the server; "lost" says that the connection broke. */
  heard(kind, content) {
    if (this.over) return;
    this.#setOnline(kind !== "lost");
    if (kind === "over") this.end();
    else if (kind !== "lost") this.#inOrder(() => !this.over && this.#take(kind, content));
  }

  /** Forget all gates, and ask and hear nothing more. */
  end() {
    if (this.over) return;
    this.over = true;
    this.#deaf();
    Object.assign(this, { queue: [], skipped: [], history: [], waiting: 0, progress: null });
    this.#sender.end();
    this.dispatchEvent(new Event("over"));
  }

  #take(kind, content) {
    if (kind === "reload") return this.#readAll();
    if (kind === "looking") return this.#viewers.take(content.looks, performance.now());
    if (content.gate && !this.#concerns(content.gate)) return null;
    // `waiting` counts all gates, `node_waiting` those of the gate's node, `place_waiting` of these
    // only those of its workflow.
    const count = this.#workflow ? "place_waiting" : this.#node ? "node_waiting" : "waiting";
    if (content.gate) this.waiting = content[count];
    this.progress = content.progress ?? this.progress;
    this.#goesOnWith(content.gate);
    if (kind === "published") this.#published(content.gate);
    else if (kind === "masked") this.#updated(content.gate);
    else if (content.gate) return this.#ended(content.gate).then(() => this.changed());
    this.changed();
    return null;
  }

  /** Read the list and the history anew; what is on show stays on show while it waits. */
  async #readAll() {
    try {
      const [page, past] = await Promise.all([
        this.get(this.#filtered(`gates?limit=${PAGE}`)),
        this.get(this.#filtered(`${this.past}limit=${HISTORY}`)),
      ]);
      // Another session over the same folder: its gates have the same ids, and begin anew.
      if (page.progress?.session !== this.progress?.session) this.#over.clear();
      const looked = this.current; // it may be of a later page
      const unread = looked && !page.gates.some((gate) => gate.id === looked.id);
      const shown = unread ? await this.#standing(looked) : null;
      const first = looked ? "" : await this.#choose(urgentFirst(page.gates).filter((gate) => this.#isOpen(gate)));
      if (this.over) return;
      // From here to the end at once: what is on show may not change in between.
      const open = page.gates.filter((gate) => this.#isOpen(gate));
      const put_off = new Set(this.skipped.map((gate) => gate.id));
      const queue = urgentFirst(open.filter((gate) => !put_off.has(gate.id)));
      const before = this.current;
      const front = before?.id === looked?.id && unread ? shown : before && (open.find((gate) => gate.id === before.id) ?? before);
      const stays = front && this.#isOpen(front);
      this.queue = stays ? [front, ...queue.filter((gate) => gate.id !== front.id)] : Viewers.front(queue, first);
      this.skipped = open.filter((gate) => put_off.has(gate.id) && !(stays && gate.id === front.id));
      this.#cursor = page.next;
      this.#setPast(past);
      for (const gate of open) this.#waitsAgain(gate);
      this.waiting = page.waiting;
      this.progress = page.progress ?? null;
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

  /** Read what ended anew, newest first. */
  readPast() {
    return this.#readHistory("", (page) => this.#setPast(page));
  }

  /** The next page of what ended. */
  readOlder() {
    return this.#readHistory(`&cursor=${this.older ?? ""}`, (page) => {
      const known = new Set(this.history.map((gate) => gate.id));
      this.history.push(...page.gates.filter((gate) => !known.has(gate.id)));
      this.older = page.next;
    });
  }

  #readHistory(from, take) {
    return this.#inOrder(async () => {
      try {
        const page = await this.get(this.#filtered(`${this.past}limit=${HISTORY}${from}`));
        if (!this.over) take(page);
      } catch (error) {
        this.say(`Not read: ${error instanceof TypeError ? "no connection" : error.message}`, "bad");
      }
      this.changed();
    });
  }

  #setPast(page) {
    this.history = page.gates;
    this.older = page.next;
    for (const gate of this.history) this.#forgetUndo(gate);
  }

  /** Put the gate on show off until the others were shown. */
  skip() {
    const gate = this.queue.shift();
    if (!gate) return;
    this.skipped.push(gate);
    this.#byOneself();
    this.say(this.current === gate ? "There is no other gate to go to." : `Skipped ${this.brief(gate.title)}.`);
  }

  /** Each click has its own key, by which the server knows it again when it is sent twice. */
  decide(gate, route, words) {
    const click = { route, ...words, key: newKey() };
    return this.answer(gate, "decision", click, `“${this.label(gate, route)}”`);
  }

  /** The gate that Undo would take back: this page's last decision, else this person's. */
  get undoable() {
    const back = (gate) => gate.state === "decided" && gate.undoable && this.isMine(gate);
    const newest = this.history.find(back);
    return this.#mine.at(-1) ?? newest ?? null;
  }

  /** What is said of somebody's decision about the gate in front. */
  others(gate) {
    return this.told(gate);
  }

  /** A text that people wrote, as it stands in a sentence. */
  brief(text) {
    return isolated(text);
  }

  /** The label of a route, as it stands in a sentence. */
  label(gate, route) {
    return this.brief(toldApart(gate.labels, route));
  }

  /** What was decided about a gate, by whom. */
  told(gate, decision = gate.decision) {
    const label = decision.route === null ? "" : this.label(gate, decision.route);
    return told({ ...decision, label, by: isolated(decision.by ?? "") });
  }

  /** The gate that was given a route last, by anybody. */
  get answered() {
    return this.history.find((gate) => gate.decision && gate.decision.route !== null) ?? null;
  }

  /** Whether a decision is this person's, for Undo. */
  isMine(gate) {
    return Boolean(this.progress) || (gate.decision.by ?? "") === this.me();
  }

  /** Whether others have changed what ended since it had these ids. */
  changedByOthers(before) {
    const now = new Set(this.history.map((gate) => gate.id));
    const changed = [...now].filter((id) => !before.has(id)).concat([...before.keys()].filter((id) => !now.has(id)));
    return before.size > 0 && changed.some((id) => !this.#ours.has(id));
  }

  /** One after the other, and after the answers on their way: it is the last one that is meant. */
  undo(gate = null) {
    const asked = performance.now();
    this.#undone = this.#undone.then(async () => {
      await Promise.all(this.#sending.values());
      await this.#undo(gate ?? this.undoable, asked);
    });
    return this.#undone;
  }

  async #undo(gate, asked) {
    const last = this.answered;
    if (!gate && !last) {
      this.say("There is nothing to undo.", "bad");
      return;
    }
    if (!gate && last.undoable) {
      this.say(`${this.told(last)} for ${this.brief(last.title)}; the history can take it back.`, "bad");
      return;
    }
    gate ??= last; // the server knows why it is too late
    this.#ours.add(gate.id);
    const [status, body] = await this.send(gate, "undo", {});
    if (this.over) return;
    this.#mine = this.#mine.filter((one) => one.id !== gate.id);
    if (status !== 200) {
      this.say(`Not undone: ${body.error}`, "bad");
    } else {
      this.#waitsAgain(gate);
      this.#drop(gate.id);
      this.queue.unshift(body);
      const said = `Taken back: ${this.brief(gate.title)} waits again.`;
      // Who has waited long for it may be about to press something else.
      this.cause = { own: performance.now() - asked < PROMPT, why: said };
      this.say(said, "", gate.id);
    }
    this.changed();
    if (!this.undoable) this.#inOrder(() => this.#readAll()); // for older decisions
  }

  async clearMask(gate, index) {
    const reply = await this.fetch(this.mask(gate, index), { method: "DELETE" }).catch(() => null);
    if (reply?.ok) this.say("Mask cleared.");
    else this.say(`Mask not cleared: ${await reason(reply)}`, "bad");
    return reply?.ok ?? false;
  }

  // -- answers

  answer(gate, path, body, said) {
    this.#ours.add(gate.id);
    const answer = this.#deliver(gate, path, body, said);
    this.#sending.set(gate.id, answer);
    this.#drop(gate.id);
    this.#byOneself();
    return answer;
  }

  /** What comes to the front now was brought there by this person. */
  #byOneself() {
    this.cause = { own: true, why: "" };
    this.#refill();
    const [next] = this.#viewers.order(this.queue, performance.now());
    if (next) this.queue = Viewers.front(this.queue, next.id);
    this.changed();
  }

  async #deliver(gate, path, body, said) {
    const slow = setTimeout(() => this.say(`${said} for ${this.brief(gate.title)}: sending …`, "busy", gate.id), SLOW);
    const [status, reply] = await this.send(gate, path, body);
    clearTimeout(slow);
    this.#sending.delete(gate.id);
    if (this.over) return;
    const lost = status === 409 && reply.decision;
    if (status === 200 || lost || GONE.has(status)) this.#answered(gate);
    if (status === 200) {
      const taken = this.history.some((one) => one.id === gate.id && !one.undoable);
      if (path === "decision" && gate.undoable && !taken) this.#mine.push(gate);
      const later = gate.mode === "park" && path === "decision" ? "; it goes on by itself" : "";
      this.say(`${said} recorded for ${this.brief(gate.title)}${later}.`, "good", gate.id);
    } else if (lost) {
      this.say(`Too late for ${this.brief(gate.title)}: ${this.told(gate, reply.decision)} first.`, "bad", gate.id);
    } else if (GONE.has(status)) {
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

  /** It is known that no answer from here is needed any more. */
  #answered(gate) {
    this.#ends(gate);
    this.dispatchEvent(new CustomEvent("answered", { detail: gate }));
  }

  /** Post until there is an answer: [status, body]. */
  send(gate, path, body) {
    return this.#sender.post(this.url(`gates/${gate.id}/${path}`), body, (why) => {
      if (why) this.say(`${this.brief(gate.title)}: ${why}. Trying again …`, "busy", gate.id);
      this.#setOnline(false);
    });
  }

  // -- news

  #published(gate) {
    if (this.#open(gate.id)) {
      this.#updated(gate);
    } else if (this.#sending.has(gate.id)) {
      this.#meanwhile.set(gate.id, gate);
    } else if (this.#isOpen(gate)) {
      const again = gate.version > FIRST; // taken back, or put back: perhaps of a page long read
      if (again) this.#waitsAgain(gate);
      // A new one with unread pages before it will be read in its turn.
      const urgent = gate.state === "waiting" && this.queue.some((one) => one.state === "parked");
      if (again || urgent || this.#cursor === null) this.#line([gate]);
      if (gate.reason) this.say(`${this.brief(gate.title)} could not go on: it waits again.`, "bad");
    }
  }

  #waitsAgain(gate) {
    this.history = this.history.filter((one) => one.id !== gate.id);
    this.#mine = this.#mine.filter((one) => one.id !== gate.id);
  }

  #updated(gate) {
    for (const list of [this.queue, this.skipped]) {
      const at = list.findIndex((one) => one.id === gate.id);
      if (at >= 0 && list[at].version < gate.version) list[at] = gate;
    }
  }

  /** Of images that go on together, one was answered or taken back: the others wait for as many. */
  #goesOnWith(gate) {
    if (!gate?.waits_for) return;
    for (const one of [...this.queue, ...this.skipped]) {
      const same = one.together && one.node_id === gate.node_id && one.prompt_id === gate.prompt_id;
      if (same) one.waits_for = gate.waits_for;
    }
  }

  /** It ended; or it had, and now somebody goes on with it, or has. */
  async #ended(gate) {
    const open = this.#open(gate.id);
    if (open && open.version > gate.version) return; // old news: it waits again
    this.#ends(gate);
    this.#meanwhile.delete(gate.id);
    const shown = this.current?.id === gate.id;
    // Until it is known what comes next, what is on show stays there.
    const next = shown ? await this.#choose(this.queue.slice(1)) : "";
    if (this.over) return;
    const still = shown && this.current?.id === gate.id; // and not left meanwhile
    this.#drop(gate.id);
    if (still) this.queue = Viewers.front(this.queue, next);
    this.remember(gate);
    this.#forgetUndo(gate);
    if (still) this.#isGone(gate);
    this.#refill();
  }

  /**
   * Which of these gates is shown next, where this person did not ask for it: the server knows best what
   * others look at just now.
   */
  async #choose(gates) {
    const now = performance.now();
    if (gates.length < 2 || (this.#viewers.alone(now) && this.loaded)) return gates[0]?.id ?? "";
    const late = new Promise((done) => setTimeout(done, CHOICE, ""));
    const chosen = await Promise.race([this.#look(gates.slice(0, OFFERED)), late]);
    return chosen || this.#viewers.order(gates, now)[0].id;
  }

  /** Tell the server what is looked at: the one of these gates that it answers with. */
  async #look(gates) {
    if (!this.viewer()) return "";
    const body = JSON.stringify({ ...this.viewer(), page: this.#page, gates: gates.map((gate) => gate.id) });
    this.#attended = performance.now();
    try {
      const headers = { "content-type": "application/json" };
      const reply = await this.fetch(this.url("looking"), { method: "POST", headers, body, keepalive: true });
      const said = reply.ok ? await reply.json() : { gate: "", you: this.#viewers.me };
      this.#viewers.me = said.you;
      this.#shows = said.gate ?? "";
      return this.#shows;
    } catch {
      return ""; // it is a courtesy
    }
  }

  /** Who this is, for whoever asks who looks at what. */
  viewer() {
    return {};
  }

  /** Whether somebody attends to this page: where nobody does, others are shown its gate. */
  attend(on) {
    const changed = on !== this.#attends;
    this.#attends = on;
    if (changed || (on && performance.now() - this.#attended > ATTENTIVE)) this.#tellShown(true);
  }

  /** Tell the server what is on show, if that is news. */
  #tellShown(again = false) {
    if (this.over || !this.loaded || !this.viewer()) return;
    const gate = this.#attends ? this.current : null;
    const id = gate?.id ?? "";
    if (id === this.#shows && !again) return;
    this.#shows = id;
    this.#look(gate ? [gate] : []);
  }

  /** The gates after the one on show, as they will come. */
  next(count) {
    return this.#viewers.order(this.queue.slice(1), performance.now()).slice(0, count);
  }

  /** The gate on show ended, and not by an answer from here. */
  #isGone(gate) {
    const why = gate.decision && gate.state !== "expired" ? this.others(gate) : gate.reason || ENDED[gate.state] || ENDED.withdrawn;
    const said = `${this.brief(gate.title)}: ${why}.`;
    this.cause = { own: false, why: said };
    this.say(said, "bad", gate.id);
  }

  /** In the history a gate keeps its place; one that was decided long ago gets it. */
  remember(gate) {
    const at = this.history.findIndex((one) => one.id === gate.id);
    if (at >= 0) {
      if (this.history[at].version <= gate.version) this.history[at] = gate;
      return;
    }
    const old = gate.resuming || gate.state === "resumed";
    const after = old ? this.history.findIndex((one) => one.decision?.at < gate.decision.at) : 0;
    const most = Math.max(HISTORY, this.history.length); // more, where older ones were asked for
    this.history.splice(after < 0 ? most : after, 0, gate);
    this.history.length = Math.min(this.history.length, most);
  }

  #forgetUndo(gate) {
    if (!gate.undoable) this.#mine = this.#mine.filter((one) => one.id !== gate.id);
  }

  // -- inside

  #ends(gate) {
    this.#over.set(gate.id, Math.max(gate.version, this.#over.get(gate.id) ?? 0));
  }

  /** Whether a gate of a list still waits; an undo gives it a higher version. */
  #isOpen(gate) {
    return !this.#sending.has(gate.id) && gate.version > (this.#over.get(gate.id) ?? -1);
  }

  #concerns(gate) {
    if (this.#node && gate.node_id !== this.#node) return false;
    return !this.#workflow || gate.workflow_id === this.#workflow;
  }

  #open(id) {
    return [...this.queue, ...this.skipped].find((gate) => gate.id === id);
  }

  /** More gates for the queue; the one on show stays on show. */
  #line(gates) {
    const [shown, ...rest] = this.queue;
    this.queue = [...(shown ? [shown] : []), ...urgentFirst([...rest, ...gates])];
  }

  #filtered(path) {
    const url = this.url(path);
    if (this.#node) url.searchParams.set("node", this.#node);
    if (this.#workflow) url.searchParams.set("workflow", this.#workflow);
    return url;
  }

  /** Every call goes through here, and says that it comes from a page of ours. */
  fetch(url, options = {}) {
    return fetch(url, { ...options, headers: { ...options.headers, ...OURS } });
  }

  async get(url) {
    const reply = await this.fetch(url, { cache: "no-store" });
    if (!reply.ok) throw new Error(await reason(reply));
    return reply.json();
  }

  /** A gate as it stands on the server; null if there it is over. */
  async #standing(gate) {
    const reply = await this.fetch(this.url(`gates/${gate.id}`), { cache: "no-store" });
    if (GONE.has(reply.status)) return null;
    if (!reply.ok) throw new Error(await reason(reply));
    const now = await reply.json();
    return ["waiting", "parked"].includes(now.state) ? now : null;
  }

  /** A list that is read and the news about it must not overtake each other. */
  #inOrder(act) {
    this.#news = this.#news.then(act).catch((error) => console.error(error));
    return this.#news;
  }

  #drop(id) {
    this.queue = this.queue.filter((gate) => gate.id !== id);
    this.skipped = this.skipped.filter((gate) => gate.id !== id);
  }

  /** See to it that the queue goes on: with the next page, or with what was skipped. */
  #refill() {
    if (this.queue.length < LOW && this.#cursor !== null && !this.reading) {
      this.reading = true;
      this.#inOrder(() => this.#readOn());
    }
    if (this.queue.length === 0 && this.#cursor === null) {
      [this.queue, this.skipped] = [this.skipped, []];
    }
  }

  async #readOn() {
    try {
      const page = await this.get(this.#filtered(`gates?limit=${PAGE}&cursor=${this.#cursor ?? ""}`));
      const unknown = (gate) => !this.#open(gate.id) && this.#isOpen(gate);
      this.#line(page.gates.filter(unknown));
      this.#cursor = page.next;
      this.waiting = page.waiting;
      this.reading = false;
      this.#refill(); // perhaps it knew all of them
    } catch {
      this.reading = false; // the next change tries again
    }
    this.changed();
  }

  #setOnline(online) {
    if (online) this.#sender.wake();
    if (this.online === online) return;
    this.online = online;
    if (!online) this.fresh = false;
    this.changed();
  }

  changed() {
    this.dispatchEvent(new Event("change"));
    this.cause = { own: false, why: "" }; // of whatever comes next
    this.#tellShown();
  }

  /** `about`: takes the place of what was said about the same before. */
  say(text, tone = "", about = "") {
    this.dispatchEvent(new CustomEvent("said", { detail: { text, tone, about } }));
  }
}

/** What waits holds up a prompt, and the queue behind it; what is parked does not. */
function urgentFirst(gates) {
  const parked = (gate) => gate.state === "parked";
  return [...gates.filter((gate) => !parked(gate)), ...gates.filter(parked)];
}

/** "Anna chose “keep”"; a decision that is marked as this person's own: "You chose “keep”" */
export function told(decision) {
  const who = decision.mine ? "You" : decision.by || "somebody";
  return decision.route === null ? `${who} stopped it` : `${who} chose “${decision.label}”`;
}

/** Nobody guesses it. (randomUUID would need HTTPS, which a network's own address has not.) */
export function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
