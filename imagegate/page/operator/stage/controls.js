/**
 * What Gradio generated for the page: the buttons, the text fields and the history's accordion. Gradio
 * draws them once and no event of its own hangs on them, so that the page may give them their words,
 * take them out and put them back.
 *
 * @import { Gate } from "../../shared/queue/rest.js"
 */

import { $, element, remembered, routeText } from "../../shared/parts.js";

const NAME = "imagegate.name";
const ROUTES = 10;
const KEYS = { "ig-mask-edit": "M", "ig-zoom": "Space", "ig-skip": "N", "ig-undo": "U" };
const FIELDS = { "ig-note": "#ig-note-box", "ig-name": "#ig-name-box" };
const DRAWN = [
  "#ig-image",
  "#ig-route-10",
  "#ig-stop",
  "#ig-full",
  "#ig-edit-close",
  "#ig-status",
  "#ig-history",
  "#ig-store",
  "#ig-past > button",
  ...Object.values(FIELDS).map((box) => `${box} :is(input, textarea)`),
];

/** Resolves once Gradio has drawn all parts of the panel, which it does one by one. @returns {Promise<void>} */
export function drawn() {
  const there = () => DRAWN.every((part) => document.querySelector(part));
  if (there()) return Promise.resolve();
  return new Promise((resolve) => {
    const watch = new MutationObserver(() => {
      if (!there()) return;
      watch.disconnect();
      resolve();
    });
    watch.observe(document.documentElement, { childList: true, subtree: true });
  });
}

export class Controls {
  #routes = [...Array(ROUTES).keys()].map((i) => $(`ig-route-${i + 1}`));
  /** @type {Gate | null} */
  #gate = null;
  #pressed = ""; // the gate that a press on a route began with

  /**
   * @param {boolean} small whether the history begins closed
   * @param {(gate: Gate, route: number, event: UIEvent) => void} decide takes a gate, a route from 1 on, and the press
   */
  constructor(small, decide) {
    for (const [id, box] of Object.entries(FIELDS)) {
      /** @type {Element} */ (document.querySelector(`${box} :is(input, textarea)`)).id = id;
    }
    for (const [id, key] of Object.entries(KEYS)) $(id).title = key;
    for (const id of ["ig-mask-save", "ig-mask-cancel"]) $(id).hidden = true;
    $("ig-routes").setAttribute("role", "group");
    $("ig-routes").setAttribute("aria-label", "Routes");
    $("ig-routes").addEventListener("pointerdown", () => (this.#pressed = this.#gate?.id ?? ""), { capture: true });
    this.#routes.forEach((button, i) => {
      button.onclick = (/** @type {MouseEvent} */ event) => {
        // The buttons stay while gates come and go: a press is about the gate that it began with.
        const began = event.detail > 0 ? this.#pressed : this.#gate?.id;
        if (this.#gate && began === this.#gate.id) decide(this.#gate, i + 1, event);
      };
      button.remove();
    });
    type($("ig-name"), remembered(NAME));
    $("ig-name").addEventListener("change", (/** @type {any} */ event) => remembered(NAME, event.target.value.trim()));
    if (small) /** @type {HTMLElement | null} */ (document.querySelector("#ig-past > button.open"))?.click();
    $("ig-bottom").classList.add("ig-drawn");
  }

  /** As many of the ten as the gate has routes, with their labels. @param {Gate | null} gate */
  show(gate) {
    const focused = /** @type {HTMLElement} */ (document.activeElement);
    this.#gate = gate;
    const labels = gate?.labels ?? [];
    this.#routes.forEach((button, i) => {
      if (i >= labels.length) {
        button.remove();
        return;
      }
      const text = element("span");
      text.append(...routeText(i + 1, labels[i]));
      button.replaceChildren(text);
      button.title = labels[i]; // a long one is cut off
      if (!button.isConnected) $("ig-routes").append(button);
    });
    // Whoever decides by Tab and Enter goes on from here.
    if (focused.isConnected && focused !== document.activeElement) focused.focus({ preventScroll: true });
  }
}

/** Write into a text field of Gradio's, which keeps its own copy of what is in it.
 *  @type {(field: HTMLInputElement | HTMLTextAreaElement, text: string) => void} */
export function type(field, text) {
  if (field.value === text) return;
  field.value = text;
  field.dispatchEvent(new Event("input", { bubbles: true }));
}
