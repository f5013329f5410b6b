/**
 * What every page of gates asks the server, one thing after the other where that matters. No DOM.
 *
 * @typedef {object} Decision
 * @property {number | null} route from 1; null: stopped
 * @property {string} by
 * @property {string} note
 * @property {number} at in the server's seconds
 * @property {boolean} [mine] this person's own
 * @property {string} [link] id of the link it came through
 *
 * @typedef {object} Gate
 * @property {string} id
 * @property {string} title
 * @property {string[]} labels of its routes
 * @property {string} state waiting, parked, decided, resumed, expired or withdrawn
 * @property {"wait" | "park"} mode
 * @property {number} version grows with each change
 * @property {number} batch how many images it has
 * @property {number} width px
 * @property {number} height px
 * @property {number} created_at in the server's seconds
 * @property {string} node_id
 * @property {string} workflow_id
 * @property {string} prompt_id
 * @property {boolean} undoable
 * @property {number[]} masked indexes of images with a mask
 * @property {string} [reason] why it waits again, or ended
 * @property {number | null} [deadline] in the server's seconds
 * @property {Decision | null} [decision]
 * @property {boolean} [together] goes on with other images of its list
 * @property {object | null} [waits_for] how many of these are answered
 * @property {string} [resuming] who goes on with it
 * @property {string} [file] path in the folder of a session
 * @property {number} [attempts]
 * @property {boolean} [reusable]
 * @property {string} [worker] the ComfyUI that asks
 * @property {string} [warning]
 *
 * @typedef {object} Progress what a folder's session says of itself
 * @property {string} session
 * @property {number} total
 * @property {number} done
 * @property {number} waiting
 * @property {boolean} [ended]
 * @property {boolean} [scanning]
 * @property {boolean} [all_done]
 * @property {string} folder
 * @property {string} out where it sorts to
 * @property {string} [away] why the folder is not there
 * @property {number} unreadable_count
 * @property {{file: string, reason: string}[]} unreadable the first of them
 * @property {{reason: string, count: number}[]} unreadable_reasons
 * @property {number} missing_count
 * @property {{file: string, reason: string}[]} missing the first of them
 *
 * @typedef {{text: string, tone?: string, rank?: number, about?: string}} Message
 */

import { isolated, toldApart } from "../labels.js";
import { reason, Sender } from "../sender.js";

const OURS = { "x-imagegate": "1" }; // which a page of another origin cannot send
const GONE = new Set([404, 410]); // what an answer meets where there is nothing to answer any more

/** Whether a status says that there is nothing to answer any more. @param {number} status */
export const isGone = (status) => GONE.has(status);

export class Rest extends EventTarget {
  /** Whether this page may no longer know of any gate. */
  over = false;
  /** Server's clock minus this one's, in seconds. */
  clock = 0;
  /** What a folder session says of itself; null in ComfyUI. @type {Progress | null} */
  progress = null;
  /** Who answers here. */
  me = () => "";

  /** @protected */
  sender = new Sender((url, options) => this.fetch(url, options));
  #base;
  #node;
  #workflow;
  /** @type {Promise<unknown>} */
  #order = Promise.resolve(); // what the server says is taken in one after the other

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

  /** Know nothing more, and ask nothing more. */
  end() {
    this.over = true;
    this.progress = null;
    this.sender.end();
  }

  /** What a folder's session says of itself now. @param {Progress | null} progress */
  report(progress) {
    this.progress = progress;
  }

  /** Where the panel is. */
  get base() {
    return this.#base;
  }

  /** @param {string} path */
  url(path) {
    return new URL(`api/${path}`, this.#base);
  }

  /** @type {(gate: Gate, index: number, size?: string) => string} */
  image(gate, index, size = "preview") {
    return this.url(`gates/${gate.id}/image/${index}?size=${size}`).href;
  }

  /** @type {(gate: Gate, index: number) => string} */
  mask(gate, index) {
    return this.url(`gates/${gate.id}/mask/${index}`).href;
  }

  /**
   * Every call goes through here, and says that it comes from a page of ours.
   *
   * @param {string | URL} url
   * @param {RequestInit} [options]
   * @returns {Promise<Response>}
   */
  fetch(url, options = {}) {
    return fetch(url, { ...options, headers: { ...options.headers, ...OURS } });
  }

  /**
   * @param {string | URL} url
   * @returns {Promise<any>} what it has, as JSON; fails with the server's sentence
   */
  async get(url) {
    const reply = await this.fetch(url, { cache: "no-store" });
    if (!reply.ok) throw new Error(await reason(reply));
    return reply.json();
  }

  /** A gate as it stands on the server; null if there it is over. @type {(gate: Gate) => Promise<Gate | null>} */
  async standing(gate) {
    const reply = await this.fetch(this.url(`gates/${gate.id}`), { cache: "no-store" });
    if (isGone(reply.status)) return null;
    if (!reply.ok) throw new Error(await reason(reply));
    const now = await reply.json();
    return ["waiting", "parked"].includes(now.state) ? now : null;
  }

  /** @type {(gate: Gate, index: number) => Promise<boolean>} */
  async clearMask(gate, index) {
    const reply = await this.fetch(this.mask(gate, index), { method: "DELETE" }).catch(() => null);
    if (reply?.ok) this.say("Mask cleared.");
    else this.say(`Mask not cleared: ${await reason(reply)}`, "bad");
    return reply?.ok ?? false;
  }

  /** A list's address, for the gates that this page is about. @param {string} path */
  filtered(path) {
    const url = this.url(path);
    if (this.#node) url.searchParams.set("node", this.#node);
    if (this.#workflow) url.searchParams.set("workflow", this.#workflow);
    return url;
  }

  /** Whether this page is about a gate. @param {Gate} gate */
  concerns(gate) {
    if (this.#node && gate.node_id !== this.#node) return false;
    return !this.#workflow || gate.workflow_id === this.#workflow;
  }

  /**
   * What counts the gates that this page is about, where news say how many wait: `waiting` counts all gates,
   * `node_waiting` those of a gate's node, `place_waiting` of these only those of its workflow.
   */
  get count() {
    return this.#workflow ? "place_waiting" : this.#node ? "node_waiting" : "waiting";
  }

  /** A list that is read and the news about it must not overtake each other. @param {() => unknown} act */
  inOrder(act) {
    this.#order = this.#order.then(act).catch((error) => console.error(error));
    return this.#order;
  }

  /** A text that people wrote, as it stands in a sentence. @param {string} text */
  brief(text) {
    return isolated(text);
  }

  /** The label of a route, as it stands in a sentence. @type {(gate: Gate, route: number) => string} */
  label(gate, route) {
    return this.brief(toldApart(gate.labels, route));
  }

  /** What was decided about a gate, by whom. @type {(gate: Gate, decision?: Decision) => string} */
  told(gate, decision = /** @type {Decision} */ (gate.decision)) {
    const label = decision.route === null ? "" : this.label(gate, decision.route);
    return told({ ...decision, label, by: isolated(decision.by ?? "") });
  }

  /** Something that is shown has changed. */
  changed() {
    this.dispatchEvent(new Event("change"));
  }

  /**
   * @param {string} text
   * @param {string} [tone]
   * @param {string} [about] takes the place of what was said about the same before
   */
  say(text, tone = "", about = "") {
    this.dispatchEvent(new CustomEvent("said", { detail: { text, tone, about } }));
  }
}

/**
 * "Anna chose “keep”"; a decision that is marked as this person's own: "You chose “keep”"
 *
 * @param {{route: number | null, label: string, by: string, mine?: boolean}} decision
 */
export function told(decision) {
  const who = decision.mine ? "You" : decision.by || "somebody";
  return decision.route === null ? `${who} stopped it` : `${who} chose “${decision.label}”`;
}

/** Nobody guesses it. (randomUUID would need HTTPS, which a network's own address has not.) */
export function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
