/**
 * The mask of the image in front: its tools, and what becomes of what was painted.
 *
 * @import { Gates } from "../shared/gates.js"
 * @import { Gate } from "../shared/queue/rest.js"
 * @import { Look } from "./look.js"
 * @typedef {{gate: Gate, index: number, paint: Paint | null}} Painted
 */

import { $ } from "../shared/parts.js";
import { reason } from "../shared/sender.js";
import { Paint } from "./paint.js";

const RING = 900; // ms that the size of the brush is shown

export class Mask extends EventTarget {
  /** What is painted on; null while nobody paints. @type {Painted | null} */
  now = null;

  /** @type {Gates} */
  #gates;
  /** @type {Look} */
  #look;
  #size = 36;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #ring;
  /** @type {Promise<boolean> | null} */
  #saving = null;

  /**
   * @param {Gates} gates
   * @param {Look} look
   */
  constructor(gates, look) {
    super();
    [this.#gates, this.#look] = [gates, look];
    $("ig-mask-edit").onclick = () => this.open();
    $("ig-mask-save").onclick = () => this.save();
    $("ig-mask-cancel").onclick = () => this.close();
    $("ig-mask-clear").onclick = () => this.now?.paint?.clear();
    $("ig-paint-undo").onclick = () => this.undo();
    $("ig-paint-brush").onclick = () => this.erase(false);
    $("ig-paint-eraser").onclick = () => this.erase(true);
    $("ig-paint-size").value = this.#size;
    $("ig-paint-size").oninput = (/** @type {any} */ event) => this.#resize(Number(event.target.value));
    $("ig-stage").addEventListener("pointermove", (/** @type {PointerEvent} */ event) => this.#hover(event));
    $("ig-stage").addEventListener("pointerleave", () => ($("ig-ring").hidden = true));
  }

  async open() {
    const { gate, index } = this.#look;
    if (!gate || this.now || !$("ig-image").naturalWidth) return;
    /** @type {Painted} */
    const now = { gate, index, paint: null };
    this.now = now;
    this.#changed();
    const url = this.#gates.mask(gate, index);
    const reply = await this.#gates.fetch(url, { cache: "no-store" }).catch(() => null);
    if (this.now !== now) return;
    if (!reply?.ok) {
      this.close();
      this.#say(`The mask could not be read: ${await reason(reply)}`, "bad");
      return;
    }
    const png = reply.status === 200 ? await reply.blob() : null;
    const paint = new Paint(this.#look.touch, gate, () => this.#changed());
    await paint.open(png);
    if (this.now !== now) {
      paint.close();
      return;
    }
    now.paint = paint;
    paint.size = this.#size;
    $("ig-mask").hidden = true;
    $("ig-frame").append(paint.canvas);
    this.erase(false);
    this.#changed();
    this.#say("Paint what the mask shall cover. Two fingers move the image.", "", "");
  }

  /** @param {boolean} on */
  erase(on) {
    if (!this.now?.paint) return;
    this.now.paint.erases = on;
    $("ig-paint-brush").setAttribute("aria-pressed", String(!on));
    $("ig-paint-eraser").setAttribute("aria-pressed", String(on));
  }

  undo() {
    if (this.now?.paint?.touched) this.now.paint.undo();
  }

  /** Save what was painted. @returns {Promise<boolean>} whether it is saved */
  save() {
    if (!this.now?.paint?.touched) {
      this.close(); // nothing was painted
      return Promise.resolve(true);
    }
    const saving =
      this.#saving ??
      this.#send().finally(() => {
        this.#saving = null;
        if (!this.#gates.over) this.#changed();
      });
    this.#saving = saving;
    this.#changed();
    return saving;
  }

  /** False, and a word, where going on would throw away what is being painted. */
  leave() {
    if (!this.now) return true;
    this.#say("Save or cancel the mask first.", "bad");
    return false;
  }

  close() {
    if (!this.now) return;
    const { paint } = this.now;
    this.now = null;
    this.#look.touch.tool = null;
    paint?.close();
    if (!this.#look.gate) return;
    $("ig-mask").hidden = this.#look.mask === null;
    $("ig-ring").hidden = true;
    this.#changed();
  }

  // -- inside

  async #send() {
    const { now } = this;
    if (!now?.paint) return true;
    this.#say("Saving the mask …", "busy");
    const url = this.#gates.mask(now.gate, now.index);
    const png = await now.paint.png();
    const how = png ? { method: "PUT", headers: { "content-type": "image/png" }, body: png } : { method: "DELETE" };
    const reply = await this.#gates.fetch(url, how).catch(() => null);
    if (this.#gates.over) return false;
    if (!reply?.ok) {
      this.#say(`Mask not saved: ${await reason(reply)}. What you painted is still here.`, "bad");
      return false;
    }
    if (this.now === now) {
      this.close();
      this.#look.showMask();
      this.#say(png ? "Mask saved." : "Mask cleared.", "good");
    }
    return true;
  }

  /** @param {number} size */
  #resize(size) {
    this.#size = size;
    if (this.now?.paint) this.now.paint.size = size;
    const stage = $("ig-stage").getBoundingClientRect();
    this.#showRing(stage.width / 2, stage.height / 2);
    clearTimeout(this.#ring);
    this.#ring = setTimeout(() => $("ig-ring")?.toggleAttribute("hidden", true), RING);
  }

  /** A mouse sees where, and how wide, it would paint. @param {PointerEvent} event */
  #hover(event) {
    if (event.pointerType !== "mouse" || !this.now?.paint) return;
    const stage = $("ig-stage").getBoundingClientRect();
    this.#showRing(event.clientX - stage.x, event.clientY - stage.y);
  }

  /** @type {(x: number, y: number) => void} */
  #showRing(x, y) {
    const ring = $("ig-ring");
    ring.hidden = false;
    ring.style.width = ring.style.height = `${this.#size}px`;
    ring.style.transform = `translate(${x - this.#size / 2}px, ${y - this.#size / 2}px)`;
  }

  #changed() {
    const on = this.now !== null;
    $("ig-paint").hidden = !on;
    $("ig-tools").hidden = on;
    $("ig-routes").hidden = on;
    $("ig-paint-undo").disabled = !this.now?.paint?.touched;
    $("ig-mask-save").disabled = !this.now?.paint || this.#saving !== null;
    this.dispatchEvent(new Event("change"));
  }

  /** @type {(text: string, tone?: string, about?: string) => void} */
  #say(text, tone = "", about = "mask") {
    this.dispatchEvent(new CustomEvent("said", { detail: { text, tone, about } }));
  }
}
