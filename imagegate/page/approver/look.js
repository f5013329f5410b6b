/**
 * The image in front: first its preview, then, once somebody comes closer than the preview's own
 * pixels, the image at its true size; its mask over it, the batch below it.
 *
 * @import { Gates } from "../shared/gates.js"
 * @import { Gate } from "../shared/queue/rest.js"
 */

import { $, element, follow } from "../shared/parts.js";
import { Retry } from "../shared/retry.js";
import { drawMask } from "./paint.js";
import { Pictures } from "./pictures.js";
import { Touch } from "./touch.js";

const AHEAD = 2; // gates whose previews are kept ready
const SLOW = 350; // ms after which it is shown that an image is on its way
const TICK = 150; // ms between looks at how much of it is here
const THUMB_AGAIN = 5000; // ms after which a small picture that failed is asked for again
const SHARP = 1.05; // times the preview's pixels that may be missing before it looks soft

export class Look extends EventTarget {
  index = 0;
  /** @type {Gate | null} */
  gate = null;
  /** The saved mask, or the one that painting starts from; null where there is none. @type {Blob | null} */
  mask = null;

  #gates;
  #leaves;
  #pictures;
  #turn = 0; // counts what was shown, for answers that come late
  #failed = false;
  #zoom = ""; // what is known of the true size: "", "asked", "here" or "failed"
  /** @type {number[]} */
  #zooms = []; // images that were loaded at their true size
  #retry = new Retry(() => this.gate && this.#failed && this.#load());

  /**
   * @param {Gates} gates
   * @param {() => boolean} leaves whether another image may be shown: not while somebody paints
   */
  constructor(gates, leaves) {
    super();
    this.#gates = gates;
    this.#leaves = leaves;
    this.#pictures = new Pictures(gates);
    this.touch = new Touch($("ig-stage"), $("ig-frame"), {
      seen: () => this.#seen(),
      swiped: (by) => this.step(by),
    });
    $("ig-retry").onclick = () => this.again();
  }

  /** @param {string} kind */
  #tell(kind) {
    this.dispatchEvent(new Event(kind));
  }

  /** Another gate comes to the front, or none. @param {Gate | null} gate */
  show(gate) {
    this.gate = gate;
    const front = gate ? [gate, ...this.#gates.next(AHEAD)] : [];
    this.#pictures.keep(front);
    this.#zooms = [];
    const batch = gate && gate.batch > 1 ? [...Array(gate.batch).keys()] : [];
    $("ig-thumbs").replaceChildren(...batch.map((index) => this.#thumb(/** @type {Gate} */ (gate), index)));
    if (gate) this.at(0);
    else this.#blank();
  }

  /** The same gate, about which something changed: its mask. @param {Gate} gate */
  update(gate) {
    this.gate = gate;
    this.showMask();
  }

  /** Look at one image of the batch. @param {number} index */
  at(index) {
    const { gate } = this;
    if (!gate) return;
    this.index = index;
    this.#blank();
    this.touch.show(gate.width, gate.height);
    $("ig-frame").hidden = false;
    this.#load();
    this.showMask();
  }

  /** The next image of the batch, or the one before. @param {number} by */
  step(by) {
    const thumb = $("ig-thumbs").children[this.index + by];
    if (!thumb) return;
    if (document.activeElement?.closest("#ig-thumbs")) thumb.focus();
    thumb.click();
  }

  /** What is to be said about the image on show. */
  get remarks() {
    return this.gate ? this.#pictures.remarks(this.gate, this.index) : [];
  }

  /** Try once more what failed. */
  again() {
    this.#retry.now();
    if (this.#zoom === "failed") this.#zoom = "";
  }

  /** Have the next previews ready. */
  ahead() {
    const next = this.#gates.next(AHEAD);
    this.#pictures.keep(this.gate ? [this.gate, ...next] : next);
    // Not before the one in front: a slow line has one image at a time.
    if (!this.gate || !this.#pictures.here(this.gate, this.index)) return;
    for (const gate of next) this.#pictures.load(gate, 0);
    for (const near of [this.index + 1, this.index - 1]) {
      if (near >= 0 && near < this.gate.batch) this.#pictures.load(this.gate, near);
    }
  }

  /** Lay the mask over the image. */
  async showMask() {
    const { gate, index } = this;
    if (!gate) return;
    $("ig-which").textContent = `${index + 1} / ${gate.batch}`;
    follow($("ig-thumbs"), index);
    [...$("ig-thumbs").children].forEach((thumb, i) => {
      thumb.setAttribute("aria-selected", String(i === index));
      thumb.tabIndex = i === index ? 0 : -1;
      thumb.classList.toggle("ig-masked", gate.masked.includes(i));
    });
    const reply = await this.#gates.fetch(this.#gates.mask(gate, index), { cache: "no-store" }).catch(() => null);
    const png = reply?.status === 200 ? await reply.blob().catch(() => null) : null;
    const canvas = element("canvas", "", { id: "ig-mask" });
    if (png) await drawMask(canvas, gate, png).catch(() => {});
    if (this.gate?.id !== gate.id || this.index !== index) return; // moved on meanwhile
    this.mask = png;
    canvas.hidden = png === null;
    $("ig-mask").replaceWith(canvas);
  }

  /** Forget every image. */
  clear() {
    this.gate = this.mask = null;
    this.#turn++;
    this.#retry.end();
    this.touch.tool = null;
    this.#pictures.clear();
  }

  // -- inside

  /** Nothing is shown: the image before is not to be judged for the next one. */
  #blank() {
    this.#turn++;
    this.#zoom = "";
    this.#failed = false;
    this.#retry.end();
    this.mask = null;
    this.#tell("loading");
    $("ig-frame").hidden = true;
    $("ig-image").replaceWith(this.#image(""));
    $("ig-mask").hidden = true;
    $("ig-failed").hidden = true;
    $("ig-loading").hidden = true;
  }

  /** @param {string} url */
  #image(url) {
    const { gate, index } = this;
    const alt = !gate ? "" : gate.batch > 1 ? `${gate.title}, image ${index + 1} of ${gate.batch}` : gate.title;
    const image = element("img", "", { id: "ig-image", alt, draggable: "false" });
    if (url) image.src = url;
    return image;
  }

  /** The preview. */
  async #load() {
    const { gate, index } = this;
    if (!gate) return;
    const turn = this.#turn;
    this.#failed = false;
    $("ig-failed").hidden = true;
    const done = this.#progress(gate, index, "preview");
    try {
      const image = this.#image(await this.#pictures.load(gate, index));
      await image.decode();
      if (this.#turn !== turn) return;
      image.dataset.size = "preview";
      $("ig-image").replaceWith(image);
      this.#retry.end();
      this.#tell("drawn");
      this.#seen();
      this.ahead();
    } catch (error) {
      if (this.#turn !== turn || this.#gates.over) return;
      this.#failed = true;
      this.#tell("failed");
      this.#retry.failed();
      this.#pictures.drop(gate, index, "preview");
      $("ig-failed").hidden = false;
      $("ig-failed").querySelector("p").textContent = `The image could not be loaded: ${plain(error)}. Trying again …`;
    } finally {
      done();
    }
  }

  /** What is seen changed: perhaps the preview has no longer enough pixels. */
  #seen() {
    const image = $("ig-image");
    if (!this.gate || !image?.naturalWidth) return;
    const { width } = this.gate;
    image.classList.toggle("ig-pixels", this.touch.density < 0.5 && image.naturalWidth >= width);
    const wanted = Math.min(width, this.touch.seen * devicePixelRatio);
    if (this.touch.zoomed && !this.#zoom && wanted > image.naturalWidth * SHARP) this.#closer();
  }

  /** The true size, in the place of the preview, without a jump. */
  async #closer() {
    const { gate, index } = this;
    if (!gate) return;
    const turn = this.#turn;
    this.#zoom = "asked";
    const done = this.#progress(gate, index, "zoom");
    try {
      const image = this.#image(await this.#pictures.load(gate, index, "zoom"));
      await image.decode();
      if (this.#turn !== turn) return;
      image.dataset.size = "zoom";
      $("ig-image").replaceWith(image);
      this.#zoom = "here";
      this.#keepFew(gate, index);
      this.#seen();
    } catch (error) {
      if (this.#turn !== turn || this.#gates.over) return;
      this.#zoom = "failed";
      this.#pictures.drop(gate, index, "zoom");
      const text = `The image at its true size could not be loaded: ${plain(error)}.`;
      this.dispatchEvent(new CustomEvent("said", { detail: { text, tone: "bad" } }));
    } finally {
      done();
    }
  }

  /** Of a batch only the last two stay at their true size. @type {(gate: Gate, index: number) => void} */
  #keepFew(gate, index) {
    const all = [...this.#zooms.filter((one) => one !== index), index];
    this.#zooms = all.slice(-2);
    for (const one of all.slice(0, -2)) this.#pictures.drop(gate, one, "zoom");
  }

  /** Show how much of an image is here, if it takes long. Returns what ends that.
   *  @type {(gate: Gate, index: number, size: string) => () => void} */
  #progress(gate, index, size) {
    const bar = $("ig-loading");
    const turn = this.#turn;
    const begun = performance.now();
    const tick = setInterval(() => {
      if (this.#turn !== turn) return clearInterval(tick);
      if (performance.now() - begun < SLOW) return null;
      const percent = Math.round(this.#pictures.part(gate, index, size) * 100);
      bar.hidden = false;
      bar.dataset.size = size;
      bar.classList.toggle("ig-unknown", percent === 0);
      bar.setAttribute("aria-valuenow", String(percent));
      bar.firstElementChild.style.width = percent ? `${percent}%` : "";
      return null;
    }, TICK);
    return () => {
      clearInterval(tick);
      if (this.#turn === turn) bar.hidden = true;
    };
  }

  /** @type {(gate: Gate, index: number) => HTMLElement} */
  #thumb(gate, index) {
    const name = `Image ${index + 1}`;
    const button = element("button", "", { type: "button", role: "tab", title: name, "aria-label": name });
    button.onclick = () => this.index !== index && this.#leaves() && this.at(index);
    // Fetched when it comes into sight: a batch may be large.
    const sight = new IntersectionObserver(async ([entry]) => {
      if (!entry.isIntersecting) return;
      sight.disconnect();
      await this.#pictures.load(gate, index, "thumb").catch(() => "");
      if (!button.isConnected) return;
      const blob = this.#pictures.blob(gate, index, "thumb");
      const small = blob && (await createImageBitmap(blob).catch(() => null));
      if (!small) return void setTimeout(() => button.isConnected && sight.observe(button), THUMB_AGAIN);
      const canvas = element("canvas", "", { width: small.width, height: small.height });
      canvas.getContext("2d")?.drawImage(small, 0, 0);
      small.close();
      button.replaceChildren(canvas);
    });
    sight.observe(button);
    return button;
  }
}

/** Why, in the middle of a sentence. @param {unknown} error */
function plain(error) {
  const { name, message } = /** @type {Error} */ (error);
  return error instanceof TypeError || name === "EncodingError" ? "the connection broke" : message;
}
