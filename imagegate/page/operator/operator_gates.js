/**
 * What only an operator may do with gates, or ask about them.
 *
 * @import { Gate } from "../shared/queue/rest.js"
 * @typedef {{name: string, kind: string, alive: boolean, seen_at: number}} Worker
 * @typedef {{workers: Worker[], keep_days: number, bytes: number}} Status
 * @typedef {{kind: string, at: number, route?: number, label?: string, by?: string, note?: string, text?: string,
 *   link?: string, worker?: string, cleared?: boolean, attempt?: number}} Line of a gate's history
 */

import { Gates, newKey } from "../shared/gates.js";
import { remembered } from "../shared/parts.js";

const PERSON = "imagegate.viewer";

export class OperatorGates extends Gates {
  /** What the store says of itself and of who shares it; null where there is none. @type {Status | null} */
  status = null;

  #person = remembered(PERSON) || remembered(PERSON, newKey());

  /** @param {[base: URL, node: string, workflow: string]} where */
  constructor(...where) {
    super(...where);
    this.addEventListener("read", () => this.readStatus());
  }

  /** The same on all pages of this browser, and a secret of theirs. */
  viewer() {
    return { person: this.#person };
  }

  /** What changed about the links, an answer through one too, is for whoever shows them.
   *  @type {(kind: string, content?: any) => void} */
  heard(kind, content) {
    super.heard(kind, content);
    if (kind === "links" || content?.gate?.decision?.link) this.dispatchEvent(new Event("links"));
  }

  /** The ComfyUIs that share the store. */
  get workers() {
    return this.status?.workers.filter((worker) => worker.kind === "comfyui") ?? [];
  }

  /** Ask how the store is, where there is one: a folder has none. */
  async readStatus() {
    if (this.progress) return;
    const reply = await this.fetch(this.url("status"), { cache: "no-store" }).catch(() => null);
    if (!reply?.ok && reply?.status !== 404) return; // as it was, until it can be asked again
    this.status = /** @type {Response} */ (reply).ok ? await /** @type {Response} */ (reply).json() : null;
    this.changed();
  }

  /** All that happened to a gate, oldest first: [lines, ""], or [null, why not].
   *  @type {(gate: Gate) => Promise<[Line[], ""] | [null, string]>} */
  async lines(gate) {
    try {
      return [(await this.get(this.url(`gates/${gate.id}/history`))).lines, ""];
    } catch (error) {
      return [null, /** @type {Error} */ (error).message];
    }
  }

  /** @type {(gate: Gate, signed: {by: string, note: string}) => Promise<void>} */
  stop(gate, signed) {
    return this.answer(gate, "stop", signed, "Stop");
  }

  /** See to it that an answer is not used again. @param {Gate} gate */
  async askAgain(gate) {
    const [status, body] = await this.send(gate, "ask-again", {});
    if (status === 200) {
      this.remember(body);
      this.say(`Asked again from now on: images like ${gate.title}.`, "good");
    } else {
      this.say(`Not done: ${body.error}`, "bad");
    }
    this.changed();
  }
}
