/**
 * The images as blobs in this page's memory, and nowhere else: those of the gate in front and of
 * the next ones. What is dropped is gone, and so is all of it when the page goes dark.
 *
 * @import { Gates } from "../shared/gates.js"
 * @import { Gate } from "../shared/queue/rest.js"
 * @typedef {{picture: Promise<string>, url: string, blob: Blob | null, part: number, remarks: string[],
 *   stop: AbortController}} Entry
 */

import { remarks } from "../shared/parts.js";

export class Pictures {
  #gates;
  /** @type {Map<string, Entry>} */
  #kept = new Map(); // by name

  /** @param {Gates} gates */
  constructor(gates) {
    this.#gates = gates;
  }

  /** Its URL in this page, once it is here. Fails with a sentence that says why not.
   *  @type {(gate: Gate, index: number, size?: string) => Promise<string>} */
  load(gate, index, size = "preview") {
    const name = nameOf(gate, index, size);
    const known = this.#kept.get(name);
    if (known) return known.picture;
    const stop = new AbortController();
    /** @type {Entry} */
    const entry = { url: "", blob: null, part: 0, remarks: [], stop, picture: Promise.resolve("") };
    this.#kept.set(name, entry);
    entry.picture = this.#read(this.#gates.image(gate, index, size), entry).catch((error) => {
      if (this.#kept.get(name) === entry) this.#kept.delete(name); // so that it can be asked again
      throw error;
    });
    entry.picture.catch(() => {}); // whoever waits for it hears of it
    return entry.picture;
  }

  /** Its URL, if it is here already. @type {(gate: Gate, index: number, size?: string) => string} */
  here(gate, index, size = "preview") {
    return this.#kept.get(nameOf(gate, index, size))?.url ?? "";
  }

  /** The image itself, if it is here already. @type {(gate: Gate, index: number, size?: string) => Blob | null} */
  blob(gate, index, size = "preview") {
    return this.#kept.get(nameOf(gate, index, size))?.blob ?? null;
  }

  /** What is to be said about it, once it is here. @type {(gate: Gate, index: number, size?: string) => string[]} */
  remarks(gate, index, size = "preview") {
    return this.#kept.get(nameOf(gate, index, size))?.remarks ?? [];
  }

  /** How much of it is here, 0 to 1. @type {(gate: Gate, index: number, size?: string) => number} */
  part(gate, index, size = "preview") {
    return this.#kept.get(nameOf(gate, index, size))?.part ?? 0;
  }

  /** Drop all but the images of these gates. @param {Gate[]} gates */
  keep(gates) {
    const ids = new Set(gates.map((gate) => gate.id));
    for (const name of this.#kept.keys()) if (!ids.has(name.split("/")[0])) this.#drop(name);
  }

  /** Drop an image that is too large to keep after it was looked at.
   *  @type {(gate: Gate, index: number, size: string) => void} */
  drop(gate, index, size) {
    this.#drop(nameOf(gate, index, size));
  }

  clear() {
    for (const name of this.#kept.keys()) this.#drop(name);
  }

  /** @param {string} name */
  #drop(name) {
    const entry = this.#kept.get(name);
    if (!entry) return;
    this.#kept.delete(name);
    entry.stop.abort();
    if (entry.url) URL.revokeObjectURL(entry.url);
    Object.assign(entry, { url: "", blob: null });
  }

  /** @type {(address: string, entry: Entry) => Promise<string>} */
  async #read(address, entry) {
    const reply = await this.#gates.fetch(address, { cache: "no-store", signal: entry.stop.signal });
    if (!reply.ok) {
      const said = await reply.json().catch(() => ({}));
      throw new Error(said.error ?? `the server answered ${reply.status}`);
    }
    entry.remarks = remarks(reply);
    const whole = Number(reply.headers.get("content-length")) || 0;
    /** @type {BlobPart[]} */
    const chunks = [];
    let got = 0;
    for (const reader = /** @type {ReadableStream<BlobPart & {length: number}>} */ (reply.body).getReader(); ; ) {
      const { done, value } = await reader.read();
      if (done) break;
      chunks.push(value);
      got += value.length;
      entry.part = whole ? Math.min(1, got / whole) : 0;
    }
    if (entry.stop.signal.aborted) throw new DOMException("dropped", "AbortError");
    entry.blob = new Blob(chunks, { type: reply.headers.get("content-type") ?? "" });
    entry.url = URL.createObjectURL(entry.blob);
    return entry.url;
  }
}

/** @type {(gate: Gate, index: number, size: string) => string} */
function nameOf(gate, index, size) {
  return `${gate.id}/${index}/${size}`;
}
