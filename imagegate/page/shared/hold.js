/**
 * Sees to it that a press is meant for the image on show (see `Pause`), and shows which presses were not
 * taken. What changed without the person, and who changed it, is said over the image.
 */

/**
 * @import { Gates } from "./gates.js"
 * @import { Gate } from "./queue/rest.js"
 */

import { $, element, say, shake } from "./parts.js";
import { ACKNOWLEDGES, COUNTS, EARLY, Pause, UNSEEN } from "./pause.js";

const MISSED = 1600; // ms for which it is shown that a press was not taken
const TICK = 100; // ms
const ALONE = new Set(["Shift", "Control", "Alt", "AltGraph", "Meta", "CapsLock", "Tab", "Escape"]);
const FIELDS = "input:not([type=range]), textarea, select, [contenteditable]";

export class Hold {
  #pause = new Pause();
  #area;
  #busy;
  #sign;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #hides;
  /** @type {ReturnType<typeof setInterval> | undefined} */
  #ticks;

  /**
   * @param {Gates} gates hear whether somebody attends to this page
   * @param {string} area selects the parts of the page that act on the gate in front
   * @param {() => boolean} busy whether something with keys of its own lies over the page
   */
  constructor(gates, area, busy) {
    this.#area = area;
    this.#busy = busy;
    this.#sign = element("p", "", { id: "ig-pause", role: "alert", hidden: "" });
    $("ig-stage").append(this.#sign);
    $("ig-status").addEventListener("said", () => this.#compare());
    const attend = () => gates.attend(document.visibilityState === "visible");
    for (const kind of ["keydown", "pointerdown", "visibilitychange"])
      document.addEventListener(kind, attend, { capture: true });
    addEventListener("pagehide", () => gates.attend(false));
    document.addEventListener("keydown", (event) => this.#key(event), { capture: true });
    document.addEventListener("click", (event) => this.#click(event), { capture: true });
  }

  /** Another gate, or none, is shown. `cause`: see `Gates`.
   *  @type {(gate: Gate | null, cause: {own: boolean, why: string}) => void} */
  changed(gate, { own, why }) {
    const now = performance.now();
    this.#pause.changed(own || !gate, now);
    if (own || !gate) this.#free();
    else {
      clearTimeout(this.#hides);
      this.#say([element("b", why || "A new image."), " Press a key or tap to go on with the one that is shown now."]);
      for (const part of document.querySelectorAll(this.#area)) part.setAttribute("aria-disabled", "true");
      if ($("ig-note")) $("ig-note").readOnly = true;
      document.body.classList.add("ig-held");
      clearInterval(this.#ticks);
      this.#ticks = setInterval(() => this.#pause.held(performance.now()) || this.#free(), TICK);
    }
  }

  /** The press at `at` brought what is shown. @param {number} at */
  began(at) {
    this.#pause.began(at);
  }

  /** The image in front is on its way, is drawn with the next frame, or could not be loaded. */
  loading() {
    this.#pause.hidden();
  }

  drawn() {
    requestAnimationFrame((at) => this.#pause.visible(Math.max(at, performance.now())));
  }

  failed() {
    this.#pause.failed();
  }

  /** Whether a press sends the answer `route`; shows why not. @type {(event: UIEvent, route: number, label: string) => boolean} */
  takes(event, route, label) {
    const click = event.type === "click" && event.detail > 0; // a button's Enter is a key
    const verdict = this.#pause.press(event.timeStamp, click, route);
    if (verdict === COUNTS) return true;
    if (verdict === UNSEEN) {
      const text = `The image is not shown. Send it to “${label}” all the same? Then once more.`;
      say({ text, tone: "bad", about: "unseen" });
      this.#missed(text);
    } else this.#refuse(verdict, label);
    return false;
  }

  // -- inside

  /** @param {KeyboardEvent} event */
  #key(event) {
    if (!event.key || this.#busy() || event.ctrlKey || event.metaKey || event.altKey) return;
    const field = /** @type {Element} */ (event.target).closest?.(FIELDS);
    if (!this.#pause.held(event.timeStamp) || (field && field.id !== "ig-note")) return;
    if (ALONE.has(event.key)) return;
    swallow(event);
    if (field) this.#pause.typed(event.timeStamp); // meant for the note about the one before
    if (field || event.repeat) return this.#refuse(EARLY, event.key);
    return this.#touch(event, event.key === " " ? "Space" : event.key);
  }

  /** @param {MouseEvent} event */
  #click(event) {
    const target = /** @type {Element} */ (event.target);
    if (!this.#pause.held(event.timeStamp) || !target.closest?.(this.#area)) return;
    swallow(event);
    const button = target.closest("button, a");
    this.#touch(event, button?.textContent?.trim() || "The tap");
  }

  /** @type {(event: Event, name: string) => void} */
  #touch(event, name) {
    const verdict = this.#pause.touch(event.timeStamp);
    if (verdict === ACKNOWLEDGES) this.#free();
    this.#refuse(verdict, name);
  }

  /** @type {(verdict: string, name: string) => void} */
  #refuse(verdict, name) {
    const why =
      verdict === ACKNOWLEDGES
        ? "another image came to the front. The next press counts"
        : "the image had only just changed";
    const text = `“${name}” was not taken: ${why}.`;
    say({ text, tone: "busy" });
    this.#missed(text);
  }

  /** @param {string} text */
  #missed(text) {
    if (this.#pause.held(performance.now())) return shake(this.#sign); // who took it stays to be read
    this.#say([text]);
    shake(this.#sign);
    clearTimeout(this.#hides);
    this.#hides = setTimeout(() => this.#hide(), MISSED);
  }

  /** @param {(string | Node)[]} parts */
  #say(parts) {
    this.#sign.replaceChildren(...parts);
    this.#sign.hidden = false;
    this.#compare();
  }

  #hide() {
    this.#sign.hidden = true;
    this.#compare();
  }

  /** Whether the sentence about what happened says the same again: a page may leave it out. */
  #compare() {
    const said = $("ig-status").textContent;
    const again = !this.#sign.hidden && said !== "" && this.#sign.textContent.includes(said);
    $("ig-status").classList.toggle("ig-repeats", again);
  }

  #free() {
    clearInterval(this.#ticks);
    this.#hide();
    for (const part of document.querySelectorAll(this.#area)) part.removeAttribute("aria-disabled");
    if ($("ig-note")) $("ig-note").readOnly = false;
    document.body.classList.remove("ig-held");
  }
}

/** @param {Event} event */
function swallow(event) {
  event.preventDefault();
  event.stopImmediatePropagation();
}
