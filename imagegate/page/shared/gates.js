/**
 * The gates as this page knows them: REST, the event stream, the queue. No DOM.
 *
 * The server is the truth. After each (re)connection the list is read anew, then the events keep
 * it current; an answer is sent until the server has said what became of it.
 */

import { subscribe } from "./stream.js";

const PAGE = 50;
const LOW = 5; // fewer known gates than this: read the next page
const HISTORY = 30;
const RETRY_FIRST = 400; // ms
const RETRY_MOST = 5000;
const SLOW = 300; // ms after which an answer that is still on its way is spoken of
const FIRST = 1; // version of a gate that was just published
const GONE_FOR_NOW = new Set([502, 503, 504]);

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
  /** What the store says of itself and of who shares it; null where there is none. */
  status = null;
  /** Who answers here. */
  me = () => "";
  online = false;
  /** Whether more gates are on their way to this page. */
  reading = false;
  loaded = false;
  /** Whether the lists were read since the connection came. */
  fresh = false;
  /** Server's clock minus this one's, in seconds. */
  clock = 0;

  #base;
  #node;
  #workflow;
  #cursor = null;
  #news = Promise.resolve(); // what the server tells is taken in one after the other
  #undone = Promise.resolve();
  #sending = new Map(); // gate id -> answer on its way
  #over = new Map(); // gate id -> its version when it ended, for lists that were read before
  #asleep = new Set(); // answers that wait for the connection
  #meanwhile = new Map(); // gates that came back before the answer to them was confirmed
  #mine = []; // gates decided here that can be taken back, newest last

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

  /** The ComfyUIs that share the store. */
  get workers() {
    return this.status?.workers.filter((worker) => worker.kind === "comfyui") ?? [];
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

  /** Listen for as long as the page lives. */
  listen() {
    subscribe(this.#base, (kind, content) => {
      this.#setOnline(kind !== "lost");
      this.dispatchEvent(new Event(kind));
      if (kind !== "lost") this.#inOrder(() => this.#take(kind, content));
    });
  }

  #take(kind, content) {
    if (kind === "reload") return this.#readAll();
    if (content.gate && !this.#concerns(content.gate)) return null;
    // `waiting` counts all gates, `node_waiting` those of the gate's node, `place_waiting` of these
    // only those of its workflow.
    const count = this.#workflow ? "place_waiting" : this.#node ? "node_waiting" : "waiting";
    if (content.gate) this.waiting = content[count];
    this.progress = content.progress ?? this.progress;
    if (kind === "published") this.#published(content.gate);
    else if (kind === "masked") this.#updated(content.gate);
    else if (content.gate) this.#ended(content.gate);
    this.#changed();
    return null;
  }

  /** Read the list and the history anew; what is on show stays on show while it waits. */
  async #readAll() {
    const shown = this.current;
    try {
      const [page, past] = await Promise.all([
        this.#get(this.#filtered(`gates?limit=${PAGE}`)),
        this.#get(this.#filtered(`history?limit=${HISTORY}`)),
      ]);
      const open = page.gates.filter((gate) => this.#isOpen(gate));
      const put_off = new Set(this.skipped.map((gate) => gate.id));
      this.queue = urgentFirst(open.filter((gate) => !put_off.has(gate.id)));
      this.skipped = open.filter((gate) => put_off.has(gate.id));
      this.#cursor = page.next;
      this.history = past.gates;
      for (const gate of this.history) this.#forgetUndo(gate);
      for (const gate of open) this.#waitsAgain(gate);
      this.waiting = page.waiting;
      this.progress = page.progress ?? null;
      this.clock = page.now - Date.now() / 1000;
      if (shown && this.#isOpen(shown)) await this.#keepInFront(shown);
    } catch {
      return; // the event stream notices too, and calls again
    }
    this.loaded = this.fresh = true;
    this.#refill();
    this.#changed();
    this.readStatus();
  }

  /** Ask how the store is, where there is one: a folder has none. */
  async readStatus() {
    if (this.progress) return;
    const reply = await fetch(this.url("status"), { cache: "no-store" }).catch(() => null);
    if (!reply?.ok && reply?.status !== 404) return; // as it was, until it can be asked again
    this.status = reply.ok ? await reply.json() : null;
    this.#changed();
  }

  /** All that happened to a gate, oldest first: [lines, ""], or [null, why not]. */
  async lines(gate) {
    try {
      return [(await this.#get(this.url(`gates/${gate.id}/history`))).lines, ""];
    } catch (error) {
      return [null, error.message];
    }
  }

  /** Put the gate on show off until the others were shown. */
  skip() {
    const gate = this.queue.shift();
    if (!gate) return;
    this.skipped.push(gate);
    this.#refill();
    this.#changed();
    this.#say(this.current === gate ? "There is no other gate to go to." : `Skipped ${gate.title}.`);
  }

  decide(gate, route, signed) {
    return this.#answer(gate, "decision", { route, ...signed }, `“${gate.labels[route - 1]}”`);
  }

  stop(gate, signed) {
    return this.#answer(gate, "stop", signed, "Stop");
  }

  /** The gate that Undo would take back: this page's last decision, else this person's. */
  get undoable() {
    const mine = (gate) => this.progress || (gate.decision.by ?? "") === this.me();
    const newest = this.history.find((gate) => gate.state === "decided" && gate.undoable && mine(gate));
    return this.#mine.at(-1) ?? newest ?? null;
  }

  /** The gate that was given a route last, by anybody. */
  get answered() {
    return this.history.find((gate) => gate.decision && gate.decision.route !== null) ?? null;
  }

  /** One after the other, and after the answers on their way: it is the last one that is meant. */
  undo(gate = null) {
    this.#undone = this.#undone.then(async () => {
      await Promise.all(this.#sending.values());
      await this.#undo(gate ?? this.undoable);
    });
    return this.#undone;
  }

  async #undo(gate) {
    const last = this.answered;
    if (!gate && !last) {
      this.#say("There is nothing to undo.", "bad");
      return;
    }
    if (!gate && last.undoable) {
      this.#say(`${told(last.decision)} for ${last.title}; the history can take it back.`, "bad");
      return;
    }
    gate ??= last; // the server knows why it is too late
    const [status, body] = await this.#send(gate, "undo", {});
    this.#mine = this.#mine.filter((one) => one.id !== gate.id);
    if (status !== 200) {
      this.#say(`Not undone: ${body.error}`, "bad");
    } else {
      this.#waitsAgain(gate);
      this.#drop(gate.id);
      this.queue.unshift(body);
      this.#say(`Taken back: ${gate.title} waits again.`);
    }
    this.#changed();
    if (!this.undoable) this.#inOrder(() => this.#readAll()); // for older decisions
  }

  /** See to it that an answer is not used again. */
  async askAgain(gate) {
    const [status, body] = await this.#send(gate, "ask-again", {});
    if (status === 200) {
      this.#remember(body);
      this.#say(`Asked again from now on: images like ${gate.title}.`, "good");
    } else {
      this.#say(`Not done: ${body.error}`, "bad");
    }
    this.#changed();
  }

  async clearMask(gate, index) {
    const reply = await fetch(this.mask(gate, index), { method: "DELETE" }).catch(() => null);
    if (reply?.ok) this.#say("Mask cleared.");
    else this.#say(`Mask not cleared: ${await reason(reply)}`, "bad");
  }

  // -- answers

  #answer(gate, path, body, said) {
    const answer = this.#deliver(gate, path, body, said);
    this.#sending.set(gate.id, answer);
    this.#drop(gate.id);
    this.#refill();
    this.#changed();
    return answer;
  }

  async #deliver(gate, path, body, said) {
    const slow = setTimeout(() => this.#say(`${said} for ${gate.title}: sending …`, "busy"), SLOW);
    const [status, reply] = await this.#send(gate, path, body);
    clearTimeout(slow);
    this.#sending.delete(gate.id);
    if (status < 422) this.#ends(gate);
    if (status === 200) {
      const taken = this.history.some((one) => one.id === gate.id && !one.undoable);
      if (path === "decision" && gate.undoable && !taken) this.#mine.push(gate);
      const later = gate.state === "parked" && path === "decision" ? "; it goes on by itself" : "";
      this.#say(`${said} recorded for ${gate.title}${later}.`, "good");
    } else if (status === 409 && reply.decision) {
      this.#say(`Too late for ${gate.title}: ${told(reply.decision)} first.`, "bad");
    } else if (status === 404 || status === 410) {
      this.#say(`${gate.title} is over: ${reply.error}`, "bad");
    } else {
      this.queue.unshift(gate); // it still waits
      this.#say(`Not recorded: ${reply.error}`, "bad");
    }
    const back = this.#meanwhile.get(gate.id);
    if (back) this.#published(back);
    this.#meanwhile.delete(gate.id);
    this.#changed();
  }

  /** Post until there is an answer. Sending twice is safe: the server knows a repetition. */
  async #send(gate, path, body) {
    for (let pause = RETRY_FIRST; ; pause = Math.min(pause * 2, RETRY_MOST)) {
      try {
        const reply = await fetch(this.url(`gates/${gate.id}/${path}`), {
          method: "POST",
          headers: { "content-type": "application/json" },
          body: JSON.stringify(body),
        });
        if (!GONE_FOR_NOW.has(reply.status)) {
          return [reply.status, await reply.json().catch(() => ({ error: reply.statusText }))];
        }
        const why = await reason(reply);
        if (why) this.#say(`${gate.title}: ${why}. Trying again …`, "busy");
      } catch {
        // no connection: said below, tried again
      }
      this.#setOnline(false);
      await new Promise((wake) => {
        this.#asleep.add(wake);
        setTimeout(wake, pause);
      });
    }
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
      if (gate.reason) this.#say(`${gate.title} could not go on: it waits again.`, "bad");
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

  /** It ended; or it had, and now somebody goes on with it, or has. */
  #ended(gate) {
    const open = this.#open(gate.id);
    if (open && open.version > gate.version) return; // old news: it waits again
    this.#ends(gate);
    this.#meanwhile.delete(gate.id);
    const shown = this.current?.id === gate.id;
    this.#drop(gate.id);
    this.#remember(gate);
    this.#forgetUndo(gate);
    if (shown) {
      const why = gate.decision && gate.state !== "expired" ? told(gate.decision) : gate.reason;
      this.#say(`${gate.title}: ${why}.`, "bad");
    }
    this.#refill();
  }

  /** In the history a gate keeps its place; one that was decided long ago gets it. */
  #remember(gate) {
    const at = this.history.findIndex((one) => one.id === gate.id);
    if (at >= 0) {
      if (this.history[at].version <= gate.version) this.history[at] = gate;
      return;
    }
    const old = gate.resuming || gate.state === "resumed";
    const after = old ? this.history.findIndex((one) => one.decision?.at < gate.decision.at) : 0;
    this.history.splice(after < 0 ? HISTORY : after, 0, gate);
    this.history.length = Math.min(this.history.length, HISTORY);
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

  async #get(url) {
    const reply = await fetch(url, { cache: "no-store" });
    if (!reply.ok) throw new Error(await reason(reply));
    return reply.json();
  }

  async #keepInFront(shown) {
    const rest = this.queue.filter((gate) => gate.id !== shown.id);
    const known = this.queue.find((gate) => gate.id === shown.id);
    const reply = known ?? (await fetch(this.url(`gates/${shown.id}`)).then((r) => r.json()));
    if (["waiting", "parked"].includes(reply.state)) this.queue = [reply, ...rest];
  }

  /** A list that is read and the news about it must not overtake each other. */
  #inOrder(act) {
    this.#news = this.#news.then(act).catch((error) => console.error(error));
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
      const page = await this.#get(this.#filtered(`gates?limit=${PAGE}&cursor=${this.#cursor ?? ""}`));
      const unknown = (gate) => !this.#open(gate.id) && this.#isOpen(gate);
      this.#line(page.gates.filter(unknown));
      this.#cursor = page.next;
      this.waiting = page.waiting;
      this.reading = false;
      this.#refill(); // perhaps it knew all of them
    } catch {
      this.reading = false; // the next change tries again
    }
    this.#changed();
  }

  #setOnline(online) {
    if (online) {
      for (const wake of this.#asleep) wake(); // what could not be sent is sent now
      this.#asleep.clear();
    }
    if (this.online === online) return;
    this.online = online;
    if (!online) this.fresh = false;
    this.#changed();
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }

  #say(text, tone = "") {
    this.dispatchEvent(new CustomEvent("said", { detail: { text, tone } }));
  }
}

/** What waits holds up a prompt, and the queue behind it; what is parked does not. */
function urgentFirst(gates) {
  const parked = (gate) => gate.state === "parked";
  return [...gates.filter((gate) => !parked(gate)), ...gates.filter(parked)];
}

/** "Anna chose “keep”" */
export function told(decision) {
  const who = decision.by || "somebody";
  return decision.route === null ? `${who} stopped it` : `${who} chose “${decision.label}”`;
}

async function reason(reply) {
  if (!reply) return "no connection";
  const body = await reply.json().catch(() => ({}));
  return body.error ?? reply.statusText;
}
