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
  online = false;
  /** Whether more gates are on their way to this page. */
  reading = false;
  loaded = false;
  /** Server's clock minus this one's, in seconds. */
  clock = 0;

  #base;
  #node;
  #cursor = null;
  #news = Promise.resolve(); // what the server tells is taken in one after the other
  #undone = Promise.resolve();
  #sending = new Map(); // gate id -> answer on its way
  #over = new Map(); // gate id -> its version when it ended, for lists that were read before
  #asleep = new Set(); // answers that wait for the connection
  #mine = []; // gates decided here that can be taken back, newest last

  /**
   * @param {URL} base of the panel, ends with a slash
   * @param {string} node only this node's gates, or "" for all
   */
  constructor(base, node) {
    super();
    this.#base = base;
    this.#node = node;
  }

  get current() {
    return this.queue[0] ?? null;
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
      if (kind !== "lost") this.#inOrder(() => this.#take(kind, content));
    });
  }

  #take(kind, content) {
    if (kind === "reload") return this.#readAll();
    if (content.gate && !this.#concerns(content.gate)) return null;
    // `waiting` counts all gates; `node_waiting` those of the gate's node.
    if (content.gate) this.waiting = this.#node ? content.node_waiting : content.waiting;
    this.progress = content.progress ?? this.progress;
    if (kind === "published") this.#published(content.gate);
    else if (kind === "masked") this.#masked(content.gate);
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
      this.queue = open.filter((gate) => !put_off.has(gate.id));
      this.skipped = open.filter((gate) => put_off.has(gate.id));
      this.#cursor = page.next;
      this.history = past.gates.filter((gate) => this.#concerns(gate));
      this.waiting = page.waiting;
      this.progress = page.progress ?? null;
      this.clock = page.now - Date.now() / 1000;
      if (shown && this.#isOpen(shown)) await this.#keepInFront(shown);
    } catch {
      return; // the event stream notices too, and calls again
    }
    this.loaded = true;
    this.#refill();
    this.#changed();
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

  /** The gate that Undo would take back: this page's last decision, else the newest of all. */
  get undoable() {
    const newest = this.history.find((gate) => gate.state === "decided" && gate.undoable);
    return this.#mine.at(-1) ?? newest ?? null;
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
    if (!gate) {
      const last = this.history.find((one) => one.state === "decided");
      this.#say(
        last ? "Too late to undo: the prompt already went on." : "There is nothing to undo.",
        "bad",
      );
      return;
    }
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
      if (path === "decision" && gate.undoable) this.#mine.push(gate);
      this.#say(`${said} recorded for ${gate.title}.`, "good");
    } else if (status === 409 && reply.decision) {
      this.#say(`Too late for ${gate.title}: ${told(reply.decision)} first.`, "bad");
    } else if (status === 404 || status === 410) {
      this.#say(`${gate.title} is over: ${reply.error}`, "bad");
    } else {
      this.queue.unshift(gate); // it still waits
      this.#say(`Not recorded: ${reply.error}`, "bad");
    }
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
    const known = [...this.queue, ...this.skipped].some((one) => one.id === gate.id);
    if (known || !this.#isOpen(gate)) return;
    const again = gate.version > FIRST; // taken back: its place may be on a page long read
    if (again) this.#waitsAgain(gate);
    // A new one with unread pages before it will be read in its turn.
    if (again || this.#cursor === null) this.queue.push(gate);
  }

  #waitsAgain(gate) {
    this.history = this.history.filter((one) => one.id !== gate.id);
    this.#mine = this.#mine.filter((one) => one.id !== gate.id);
  }

  #masked(gate) {
    for (const list of [this.queue, this.skipped]) {
      const at = list.findIndex((one) => one.id === gate.id);
      if (at >= 0) list[at] = gate;
    }
  }

  #ended(gate) {
    this.#ends(gate);
    const shown = this.current?.id === gate.id;
    this.#drop(gate.id);
    this.history = [gate, ...this.history.filter((one) => one.id !== gate.id)].slice(0, HISTORY);
    if (shown) {
      const why = gate.decision && gate.state !== "expired" ? told(gate.decision) : gate.reason;
      this.#say(`${gate.title}: ${why}.`, "bad");
    }
    this.#refill();
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
    return !this.#node || gate.node_id === this.#node;
  }

  #filtered(path) {
    const url = this.url(path);
    if (this.#node) url.searchParams.set("node", this.#node);
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
      const known = new Set([...this.queue, ...this.skipped].map((gate) => gate.id));
      this.queue.push(
        ...page.gates.filter((gate) => !known.has(gate.id) && this.#isOpen(gate)),
      );
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
    this.#changed();
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }

  #say(text, tone = "") {
    this.dispatchEvent(new CustomEvent("said", { detail: { text, tone } }));
  }
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
