/**
 * The stage: the image in front with the mask over it, at its size or enlarged, and the strip of small
 * pictures of its batch.
 *
 * @import { Hold } from "../../shared/hold.js"
 * @import { Gate } from "../../shared/queue/rest.js"
 * @import { FolderView } from "../folder_view.js"
 * @import { OperatorGates } from "../operator_gates.js"
 * @import { Painting } from "../painting.js"
 */

import { $, element, follow, say } from "../../shared/parts.js";
import { Retry } from "../../shared/retry.js";
import { reason as reasonOf } from "../../shared/sender.js";

const AHEAD = 3; // previews kept ready
const THUMB_AGAIN = 5000; // ms after which a small picture that failed is asked for again
const PAN = 80; // px an arrow key moves a zoomed image
const ENLARGED = 4; // times at most a small image is

export class Stage {
  /** @type {Gate | null} */
  gate = null; // the one in front
  index = 0; // of its image on show
  zoomed = false;

  #page;
  #retry = new Retry(() => this.#reload());
  #dragged = false; // since the last press
  /** @type {HTMLImageElement[]} */
  #ahead = []; // images that are loaded before they are needed

  /**
   * @param {{gates: OperatorGates, folder: FolderView, hold: Hold, painting: Painting, embedded: boolean}} page
   *   what else is on the page
   */
  constructor(page) {
    this.#page = page;
    const image = $("ig-image");
    image.onclick = (/** @type {MouseEvent} */ event) => !this.#dragged && this.zoom(event);
    image.onload = () => this.#loaded();
    image.addEventListener("load", () => this.#remark());
    image.onerror = () => this.gate && !this.zoomed && this.#failed("");
    $("ig-retry").onclick = () => this.#retry.now();
    $("ig-stage").onpointerdown = (/** @type {PointerEvent} */ event) => this.#drag(event);
  }

  /** Another gate, or none, comes to the front. @param {Gate | null} gate */
  show(gate) {
    Object.assign(this, { gate, index: 0 });
    this.unzoom();
    const thumbs = gate && gate.batch > 1 ? [...Array(gate.batch).keys()] : [];
    $("ig-thumbs").replaceChildren(...thumbs.map((index) => this.#thumb(/** @type {Gate} */ (gate), index)));
    if (gate) return this.look(this.#page.painting.unsaved(gate));
    $("ig-which").textContent = "";
    $("ig-image").removeAttribute("src");
    $("ig-failed").hidden = true;
    this.#retry.end();
  }

  /** Look at one image of the gate's batch. @param {number} index */
  look(index) {
    const { gate } = /** @type {{gate: Gate}} */ (this);
    const { gates, hold, painting } = this.#page;
    this.index = index;
    this.unzoom();
    const image = $("ig-image");
    image.alt = gate.batch > 1 ? `${gate.title}, image ${index + 1} of ${gate.batch}` : gate.title;
    $("ig-stage").style.setProperty("--ig-ratio", gate.width / gate.height);
    $("ig-stage").style.setProperty("--ig-most", `${gate.width * ENLARGED}px`);
    $("ig-failed").hidden = true;
    this.#retry.end();
    hold.loading();
    image.classList.add("ig-old"); // the one before is not to be judged for it
    image.src = gates.image(gate, index);
    if (image.complete && image.naturalWidth) this.#loaded();
    $("ig-mask").hidden = true;
    $("ig-full").href = gates.image(gate, index, "full");
    $("ig-full").download = `${(gate.file || gate.title).replace(/[^\p{L}\p{N}.-]+/gu, "_")}-${index}.png`;
    this.showMask(gate);
    if (gate.batch > 1) this.prefetch();
    painting.resume();
  }

  /** The connection is back. */
  retry() {
    this.#retry.now();
  }

  /** Lay the mask over the image: what was saved, or what painting would start from. @param {Gate} gate */
  async showMask(gate) {
    const { index } = this;
    $("ig-which").textContent = gate.batch > 1 ? `${index + 1} / ${gate.batch}` : "";
    follow($("ig-thumbs"), index);
    [...$("ig-thumbs").children].forEach((button, i) => {
      button.setAttribute("aria-selected", String(i === index));
      button.classList.toggle("ig-masked", gate.masked.includes(i));
    });
    const overlay = $("ig-mask");
    const reply = await fetch(this.#page.gates.mask(gate, index)).catch(() => null);
    const png = reply?.status === 200 ? await reply.blob() : null;
    if (!this.#shows(gate, index)) return; // moved on meanwhile
    URL.revokeObjectURL(overlay.dataset.url ?? "");
    overlay.dataset.url = png ? URL.createObjectURL(png) : "";
    overlay.style.maskImage = png ? `url(${overlay.dataset.url})` : "";
    overlay.hidden = png === null;
    $("ig-mask-clear").disabled = png === null;
  }

  prefetch() {
    const { gates } = this.#page;
    const { gate: front, index } = this;
    const near = [index + 1, index + 2, index - 1].filter((i) => i >= 0 && i < (front?.batch ?? 0));
    const urls = [
      ...gates.next(AHEAD).map((gate) => gates.image(gate, 0)),
      ...near.map((i) => gates.image(/** @type {Gate} */ (front), i)),
    ];
    if (String(urls) === String(this.#ahead.map((image) => image.src))) return;
    this.#ahead = urls.map(
      (url) => this.#ahead.find((image) => image.src === url) ?? Object.assign(new Image(), { src: url }),
    );
    for (const image of this.#ahead) image.decode().catch(() => {});
  }

  /** The image gets what the screen has left, with all that is needed to decide still in sight. */
  fit() {
    const stage = document.body.classList.contains("ig-painting") ? $("ig-editor") : $("ig-stage");
    if (!stage) return;
    const beside = $("ig-bottom").getBoundingClientRect().left >= stage.getBoundingClientRect().right;
    const last = !beside ? $("ig-status").parentNode : $("ig-thumbs").offsetHeight ? $("ig-thumbs") : stage;
    const others = last.getBoundingClientRect().bottom + scrollY - stage.offsetHeight;
    const least = Math.min(innerHeight * (this.#page.embedded ? 0.38 : 0.5), 320);
    const height = `${Math.round(Math.max(least, innerHeight - others - 8))}px`;
    document.documentElement.style.setProperty("--ig-stage", height);
  }

  /** Fit, or one image pixel a screen pixel, around the point that was clicked. @param {MouseEvent} [event] */
  zoom(event) {
    const { gates, folder, painting } = this.#page;
    if (!this.gate || painting.now) return;
    if (this.zoomed) {
      this.unzoom();
      return;
    }
    const image = $("ig-image");
    const box = image.getBoundingClientRect();
    const at = event?.clientX
      ? [(event.clientX - box.x) / box.width, (event.clientY - box.y) / box.height]
      : [0.5, 0.5];
    this.zoomed = true;
    const stage = $("ig-stage");
    stage.classList.add("ig-zoomed");
    image.style.width = `${this.gate.width / devicePixelRatio}px`;
    stage.scrollTo(
      at[0] * image.offsetWidth - stage.clientWidth / 2,
      at[1] * image.offsetHeight - stage.clientHeight / 2,
    );
    // The preview stays, enlarged, until every pixel is here.
    const { gate, index } = this;
    const full = Object.assign(new Image(), { src: gates.image(gate, index, folder.brighter ? "zoom" : "full") });
    say({ text: "Loading the full size …", tone: "busy" });
    full.decode().then(
      () => {
        if (!this.zoomed || !this.#shows(gate, index)) return;
        image.src = full.src;
        say({ text: `Full size, ${gate.width} × ${gate.height}.` });
      },
      () => say({ text: "The full size could not be loaded.", tone: "bad" }),
    );
  }

  unzoom() {
    if (!this.zoomed) return;
    this.zoomed = false;
    $("ig-stage").classList.remove("ig-zoomed");
    $("ig-image").style.width = "";
  }

  /** Pan what is zoomed, else go through the images of a batch. @type {(x: number, y: number) => void} */
  arrow(x, y) {
    if (this.zoomed) return $("ig-stage").scrollBy(x * PAN, y * PAN);
    const thumb = $("ig-thumbs").children[this.index + x];
    if (x && /** @type {Element} */ (document.activeElement).closest("#ig-thumbs")) thumb?.focus();
    if (x) thumb?.click();
  }

  // -- inside

  /** @type {(gate: Gate, index: number) => boolean} */
  #shows(gate, index) {
    return this.gate?.id === gate.id && this.index === index;
  }

  /** @type {(gate: Gate, index: number) => HTMLElement} */
  #thumb(gate, index) {
    const { gates, painting } = this.#page;
    const button = element("button", "", { type: "button", role: "tab", title: `Image ${index + 1}` });
    const url = gates.image(gate, index, "thumb");
    const image = element("img", "", { src: url, loading: "lazy", alt: `Image ${index + 1}` });
    const again = () => {
      if (image.isConnected) image.src = url;
    };
    image.onerror = () => setTimeout(again, THUMB_AGAIN);
    button.append(image);
    button.onclick = () => painting.leave() && this.look(index);
    return button;
  }

  /** The image in front is here. */
  #loaded() {
    if (!this.gate) return;
    $("ig-image").classList.remove("ig-old");
    $("ig-failed").hidden = true;
    this.#retry.end();
    this.#page.hold.drawn();
  }

  /** It is not, and is asked for again by itself. @param {string} why */
  #failed(why) {
    this.#page.hold.failed();
    this.#retry.failed();
    $("ig-failed").hidden = false;
    $("ig-failed").querySelector("p").textContent = `The image could not be loaded${why && `: ${why}`}. Trying again …`;
  }

  /** Ask once more for an image that failed; the server says why, which an <img> hides. */
  async #reload() {
    const { gate, index } = /** @type {{gate: Gate, index: number}} */ (this);
    const { gates } = this.#page;
    const url = gates.image(gate, index);
    let why = "no connection";
    try {
      const reply = await gates.fetch(url, { cache: "reload" });
      if (reply.ok) await reply.blob();
      why = reply.ok ? "" : await reasonOf(reply);
    } catch {
      // no connection
    }
    if (!this.#shows(gate, index)) return; // moved on meanwhile
    if (why) this.#failed(why);
    else $("ig-image").src = url;
  }

  /** Say what the server has to say about the image that has just come. */
  #remark() {
    const { gate, index } = /** @type {{gate: Gate, index: number}} */ (this);
    this.#page.folder.look(gate, index, () => this.#shows(gate, index));
  }

  /** Pan with the mouse; fingers and wheels scroll by themselves. @param {PointerEvent} start */
  #drag(start) {
    this.#dragged = false;
    if (!this.zoomed || start.pointerType !== "mouse" || start.button !== 0) return;
    const stage = $("ig-stage");
    let [x, y] = [start.clientX, start.clientY];
    const move = (/** @type {PointerEvent} */ event) => {
      if (!this.#dragged && Math.hypot(event.clientX - x, event.clientY - y) < 4) return;
      this.#dragged = true;
      stage.scrollBy({ left: x - event.clientX, top: y - event.clientY, behavior: "instant" });
      [x, y] = [event.clientX, event.clientY];
    };
    addEventListener("pointermove", move);
    addEventListener("pointerup", () => removeEventListener("pointermove", move), { once: true });
  }
}
