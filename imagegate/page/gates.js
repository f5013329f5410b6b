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
  loaded = false;
  /** Server's clock minus this one's, in seconds. */
  clock = 0;

  #base;
  #node;
  #cursor = null;
  #reading = null;
  #sending = new Map(); // gate id -> answer on its way
  #over = new Map(); // gate id -> its version when it ended, for lists that were read before
  #wake = null;
  #mine = []; // ids this page decided, newest last

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
      if (kind === "lost" || (content.gate && !this.#concerns(content.gate))) return;
      // `waiting` counts all gates; `node_waiting` those of the gate's node.
      if (content.gate) this.waiting = this.#node ? content.node_waiting : content.waiting;
      this.progress = content.progress ?? this.progress;
      if (kind === "reload") this.reload();
      else if (kind === "published") this.#published(content.gate);
      else if (kind === "masked") this.#masked(content.gate);
      else if (content.gate) this.#ended(content.gate);
      else this.#changed();
    });
  }

  /** Read the list and the history anew; what is on show stays on show while it waits. */
  async reload() {
    const shown = this.current;
    try {
      const [page, past] = await Promise.all([
        this.#get(this.#filtered(`gates?limit=${PAGE}`)),
        this.#get(this.url(`history?limit=${HISTORY}`)),
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
    const label = gate.labels[route - 1];
    this.#mine.push(gate.id);
    return this.#answer(gate, "decision", { route, ...signed }, `“${label}”`);
  }

  stop(gate, signed) {
    return this.#answer(gate, "stop", signed, "Stop");
  }

  /** The gate that Undo would take back: this page's last decision, else the newest of all. */
  get undoable() {
    const open = this.history.filter((gate) => gate.state === "decided" && gate.undoable);
    const mine = this.#mine.findLast((id) => open.some((gate) => gate.id === id));
    return open.find((gate) => gate.id === mine) ?? open[0] ?? null;
  }

  async undo(gate = this.undoable) {
    if (!gate) {
      const last = this.history.find((one) => one.state === "decided");
      this.#say(
        last ? "Too late to undo: the prompt already went on." : "There is nothing to undo.",
        "bad",
      );
      return;
    }
    const [status, body] = await this.#send(gate, "undo", {});
    if (status !== 200) {
      this.#say(`Not undone: ${body.error}`, "bad");
      return;
    }
    this.#mine = this.#mine.filter((id) => id !== gate.id);
    this.history = this.history.filter((one) => one.id !== gate.id);
    this.#drop(gate.id);
    this.queue.unshift(body);
    this.#say(`Taken back: ${gate.title} waits again.`);
    this.#changed();
  }

  async clearMask(gate, index) {
    const reply = await fetch(this.mask(gate, index), { method: "DELETE" }).catch(() => null);
    if (reply?.ok) this.#say("Mask cleared.");
    else this.#say(`Mask not cleared: ${await reason(reply)}`, "bad");
  }

  // -- answers

  async #answer(gate, path, body, said) {
    this.#sending.set(gate.id, said);
    this.#drop(gate.id);
    this.#refill();
    this.#say(`${said} for ${gate.title}: sending …`, "busy");
    this.#changed();
    const [status, reply] = await this.#send(gate, path, body);
    this.#sending.delete(gate.id);
    if (status < 422) this.#ends(gate);
    if (status === 200) {
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
      await new Promise((resolve) => {
        this.#wake = resolve;
        setTimeout(resolve, pause);
      });
    }
  }

  // -- news

  #published(gate) {
    this.history = this.history.filter((one) => one.id !== gate.id);
    const known = [...this.queue, ...this.skipped].some((one) => one.id === gate.id);
    // With unread pages before it, it will be read in its turn.
    if (!known && this.#cursor === null && !this.#sending.has(gate.id)) this.queue.push(gate);
    this.#changed();
  }

  #masked(gate) {
    for (const list of [this.queue, this.skipped]) {
      const at = list.findIndex((one) => one.id === gate.id);
      if (at >= 0) list[at] = gate;
    }
    this.dispatchEvent(new CustomEvent("masked", { detail: gate }));
    this.#changed();
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
    this.#changed();
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

  #drop(id) {
    this.queue = this.queue.filter((gate) => gate.id !== id);
    this.skipped = this.skipped.filter((gate) => gate.id !== id);
  }

  /** See to it that the queue goes on: with the next page, or with what was skipped. */
  #refill() {
    if (this.queue.length < LOW && this.#cursor !== null && !this.#reading) {
      this.#reading = this.#readOn().finally(() => {
        this.#reading = null;
        this.#changed();
      });
    }
    if (this.queue.length === 0 && this.#cursor === null) {
      [this.queue, this.skipped] = [this.skipped, []];
    }
  }

  async #readOn() {
    const cursor = this.#cursor;
    try {
      const page = await this.#get(this.#filtered(`gates?limit=${PAGE}&cursor=${cursor}`));
      if (cursor !== this.#cursor) return; // reloaded meanwhile
      const known = new Set([...this.queue, ...this.skipped].map((gate) => gate.id));
      this.queue.push(
        ...page.gates.filter((gate) => !known.has(gate.id) && this.#isOpen(gate)),
      );
      this.#cursor = page.next;
      this.waiting = page.waiting;
    } catch {
      // the next change tries again
    }
  }

  #setOnline(online) {
    if (online) {
      this.#wake?.(); // what could not be sent is sent now
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
