/**
 * Painting a mask: Gradio's ImageEditor, in the page only while it is used.
 *
 * @import { Gate } from "../shared/queue/rest.js"
 * @typedef {{promise: Promise<boolean>, resolve: (saved: boolean) => void}} Saving
 * @typedef {{gate: Gate, index: number, how: string, opened: boolean, touched: boolean, watched?: any,
 *   back?: Promise<void>, saved?: Saving | null, keeping?: ReturnType<typeof setTimeout>}} Painted
 */

import { isolated } from "../shared/labels.js";
import { $, say } from "../shared/parts.js";
import { draftOf, drawn, dropDraft, keepDraft } from "./drafts.js";

const MASK = "mask"; // what the messages are about: each takes the place of the one before
const KEEP_AFTER = 100; // ms
const SAVE_MOST = 90_000; // ms; a small machine takes seconds to read a large canvas

export class Painting {
  /**
   * What is painted on: {gate, index, how, opened, touched, watched, back, saved}; null while nobody paints.
   * `touched`: somebody used the editor since it was opened or cleared; `back`: unsaved strokes are drawn again.
   *
   * @type {Painted | null}
   */
  now = null;

  #page;
  #saves = 0;

  /**
   * @param {{looking: () => {gate: Gate | null, index: number}, begins: () => void, ends: () => unknown, fit: () => void,
   *   blank: (gate: Gate, index: number) => Promise<string>}} page
   *   `looking` gives the gate and the image on show, `begins` makes room for the editor, `ends`
   *   shows them again, `fit` sizes what stands there, `blank` saves an empty mask and says why it could not
   */
  constructor(page) {
    this.#page = page;
    const touch = (/** @type {any} */ event) => {
      if (this.now && event.target.closest?.("#ig-editor")) this.now.touched = true;
    };
    document.addEventListener("pointerdown", touch, { capture: true });
    /** For Gradio's events: which image they are about, and what became of it. */
    /** @type {any} */ (globalThis).imageGate = {
      target: () => this.#target(),
      draft: () => (this.now?.how === "start" ? draftOf(this.now.gate, this.now.index) : ""),
      opened: () => this.#opened(),
      saved: (/** @type {string} */ result) => this.#saved(result),
    };
    addEventListener("keydown", (event) => this.#key(event), true);
    addEventListener("pointerdown", (event) => this.#watch(event), true);
  }

  /** The first image of a gate that has strokes which are not saved; without any the first. @param {Gate} gate */
  unsaved(gate) {
    return Math.max(
      0,
      [...Array(gate.batch).keys()].findIndex((index) => draftOf(gate, index)),
    );
  }

  /** Go on where painting was broken off: strokes are not saved, and a decision would go without them. */
  resume() {
    const { gate, index } = this.#page.looking();
    if (gate && !this.now && draftOf(gate, index)) this.open();
  }

  open() {
    const { gate, index } = this.#page.looking();
    if (!gate || this.now) return;
    this.#page.begins();
    this.now = { gate, index, how: "start", opened: false, touched: false };
    this.#show(true);
    say({ text: "Opening the mask editor …", tone: "busy" });
    press("ig-edit-open");
  }

  /** Start again from nothing. */
  clear() {
    dropDraft(/** @type {Painted} */ (this.now).gate, /** @type {Painted} */ (this.now).index);
    Object.assign(/** @type {Painted} */ (this.now), { how: "blank", touched: false });
    say({ text: "Clearing …", tone: "busy" });
    press("ig-edit-open");
  }

  /** Save what was painted. Resolves to whether it is saved. */
  save() {
    const { now } = this;
    if (!now) return Promise.resolve(true);
    if (!now.opened) {
      if (draftOf(now.gate, now.index)) return Promise.resolve(false); // it is on its way back
      this.close(); // nothing can have been painted yet
      return Promise.resolve(true);
    }
    if (now.saved) return now.saved.promise;
    // The editor takes a while to draw what it is given: what nobody touched is known without it.
    if (!now.touched && now.how === "start") {
      this.close();
      say({ text: "Nothing was painted.", about: MASK });
      return Promise.resolve(true);
    }
    say({ text: "Saving the mask …", tone: "busy", about: MASK });
    now.saved = resolvers();
    if (!now.touched && now.how === "blank") {
      const { saved } = now;
      this.#page.blank(now.gate, now.index).then((error) => this.#saved(error || `saved ${this.#target()}`, saved));
      return saved.promise;
    }
    now.how = String(++this.#saves);
    const late = `the server did not answer within ${SAVE_MOST / 1000} s`;
    setTimeout(() => this.#saved(late, now.saved), SAVE_MOST);
    const { saved } = now;
    Promise.resolve(now.back).then(() => now.saved === saved && press("ig-edit-save"));
    return saved.promise;
  }

  /** Throw away what was painted and is not saved. */
  cancel() {
    if (this.now) dropDraft(this.now.gate, this.now.index);
    this.close();
  }

  close() {
    if (!this.now) return;
    this.now.saved?.resolve(false);
    this.now = null;
    this.#show(false);
    press("ig-edit-close");
    this.#page.ends();
  }

  /** False, and a word, where going on would throw away what is being painted. */
  leave() {
    if (!this.now) return true;
    say({ text: "Save or cancel the mask first.", tone: "bad", about: MASK });
    return false;
  }

  // -- called by Gradio

  #target() {
    return this.now ? `${this.now.gate.id} ${this.now.index} ${this.now.how}` : "";
  }

  /** The editor stands in the page. */
  #opened() {
    if (!this.now) return;
    this.now.opened = true;
    this.#page.fit();
    const back = /** @type {any} */ (globalThis).imageGate.draft() !== "";
    if (back) Object.assign(this.now, { touched: true, back: drawn() });
    say({ text: `${back ? "Your unsaved strokes are back. " : ""}Paint what the mask shall cover.` });
  }

  /** The server took the mask, or refused it. @type {(result: string, saved?: Saving | null) => void} */
  #saved(result, saved = this.now?.saved) {
    const { now } = this;
    if (!saved || now?.saved !== saved) return;
    const error = result === `saved ${this.#target()}` ? "" : result;
    /** @type {Painted} */ (now).saved = null;
    if (error) say({ text: `Mask not saved: ${error}`, tone: "bad", about: MASK });
    else {
      this.cancel();
      say({ text: `Mask saved for ${isolated(/** @type {Painted} */ (now).gate.title)}.`, tone: "good", about: MASK });
    }
    saved.resolve(!error);
  }

  // -- inside

  /** Undo and redo are buttons of Gradio's editor; it knows no keys. @param {KeyboardEvent} event */
  #key(event) {
    if (!this.now?.opened || event.altKey || !(event.ctrlKey || event.metaKey)) return;
    const key = event.key.toLowerCase();
    const button = /** @type {Record<string, string>} */ ({ z: event.shiftKey ? "Redo" : "Undo", y: "Redo" })[key];
    if (!button || /** @type {Element} */ (event.target).closest?.("input[type=text], input:not([type]), textarea"))
      return;
    event.preventDefault();
    event.stopPropagation();
    /** @type {HTMLElement | null} */ (document.querySelector(`#ig-editor button[aria-label="${button}"]`))?.click();
  }

  /** From the first stroke on, each one is kept until the mask is saved. @param {PointerEvent} event */
  #watch(event) {
    const { now } = this;
    if (!now?.opened || now.watched || !(/** @type {Element} */ (event.target).closest?.("#ig-editor"))) return;
    now.watched = /** @type {any} */ (globalThis).editor;
    now.watched?.on?.("change", () => {
      clearTimeout(now.keeping); // once for changes that come together: reading the canvas takes a while
      now.keeping = setTimeout(() => this.now === now && keepDraft(now.gate, now.index), KEEP_AFTER);
    });
  }

  /** @param {boolean} on */
  #show(on) {
    document.body.classList.toggle("ig-painting", on);
    $("ig-mask-edit").hidden = on;
    $("ig-mask-save").hidden = !on;
    $("ig-mask-cancel").hidden = !on;
    if (on) $("ig-mask-clear").disabled = false;
  }
}

/** @param {string} id */
function press(id) {
  const host = $(id);
  (host?.matches("button") ? host : host?.querySelector("button"))?.click();
}

function resolvers() {
  const made = /** @type {Saving} */ ({});
  made.promise = new Promise((resolve) => (made.resolve = resolve));
  return made;
}
