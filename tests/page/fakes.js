/** A server and its gates, as the modules without a DOM meet them. */

import { Gates } from "../../imagegate/page/shared/gates.js";

/** Answer `body` as JSON. */
export function json(body, status = 200) {
  return new Response(JSON.stringify(body), { status, headers: { "content-type": "application/json" } });
}

/** A gate that waits, named by one word. */
export function gate(id, more = {}) {
  return {
    id,
    title: id,
    labels: ["keep", "fix"],
    state: "waiting",
    mode: "wait",
    batch: 1,
    version: 1,
    node_id: "1",
    workflow_id: "",
    created_at: 100,
    undoable: false,
    ...more,
  };
}

/** The gate as it is after somebody's answer. */
export function decided(one, route, by, more = {}) {
  const decision = { route, by, note: "", at: 200, mine: false };
  return { ...one, state: "decided", version: one.version + 1, decision, ...more };
}

/** `Gates` over a server that is played here. */
export class Stage extends Gates {
  /** What waits on the server, and what ended. */
  waits = [];
  ended = [];
  /** Calls that changed something: [method, path, body]. */
  calls = [];
  /** Answers to posts by the end of their path; a function is called with the body. */
  replies = {};
  /** Sentences, oldest first. */
  said = [];
  /** Whether there is no connection. */
  cut = false;

  constructor(node = "", workflow = "") {
    super(new URL("http://panel/imagegate/"), node, workflow);
    this.addEventListener("said", (event) => this.said.push(event.detail.text));
  }

  async fetch(url, options = {}) {
    if (this.cut) throw new TypeError("fetch failed");
    const { pathname, searchParams } = new URL(url);
    const path = pathname.replace("/imagegate/api/", "");
    if (!options.method) return this.#read(path, searchParams);
    const body = options.body ? JSON.parse(options.body) : null;
    this.calls.push([options.method, path, body]);
    const [, reply] = Object.entries(this.replies).find(([end]) => path.endsWith(end)) ?? [];
    return (typeof reply === "function" ? await reply(body) : reply?.clone()) ?? json({ outcome: "won" });
  }

  #read(path, query) {
    if (path === "history") return json({ gates: this.ended, next: null });
    if (path !== "gates") {
      const one = this.waits.find(({ id }) => path === `gates/${id}`);
      return one ? json(one) : json({ error: "unknown" }, 404);
    }
    const from = Number(query.get("cursor") ?? 0);
    const until = from + Number(query.get("limit"));
    const next = until < this.waits.length ? String(until) : null;
    const now = Date.now() / 1000;
    return json({ gates: this.waits.slice(from, until), next, waiting: this.waits.length, now });
  }

  /** Connected, with everything read. */
  async open() {
    this.heard("reload", {});
    await this.once("read");
    return this;
  }

  /** Resolves with the next event of this kind. */
  once(kind) {
    return new Promise((done) => this.addEventListener(kind, done, { once: true }));
  }

  /** Resolves as soon as `holds` does, seen after each change. */
  async until(holds) {
    while (!holds()) await this.once("change");
  }

  /** Resolves when this sentence, or one with this in it, is said. */
  async says(text) {
    while (!this.said.some((said) => said.includes(text))) await this.once("said");
  }

  get ids() {
    return this.queue.map(({ id }) => id);
  }

  /** The bodies of what was posted to paths with this end. */
  posted(end) {
    return this.calls.filter(([, path]) => path.endsWith(end)).map(([, , body]) => body);
  }
}
