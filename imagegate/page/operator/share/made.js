/**
 * The address of a link that was just made: to copy, or to scan. The token in it is told this once
 * and lives only here, in the page's memory.
 *
 * @import { Door, Link } from "./links.js"
 */

import { $, element } from "../../shared/parts.js";
import { OPENING, sentence } from "./links.js";

export const MADE = `
  <section id="ig-made" aria-labelledby="ig-made-title" hidden>
    <div>
      <h3 id="ig-made-title"></h3>
      <p id="ig-made-problem" role="alert" hidden></p>
      <p id="ig-made-busy" role="status" hidden><span class="ig-spin"></span><span></span></p>
      <div class="ig-copy">
        <input id="ig-made-url" readonly aria-labelledby="ig-made-title" spellcheck="false">
        <button id="ig-made-copy" type="button" class="ig-primary">Copy</button>
      </div>
      <ul id="ig-made-hints"></ul>
      <button id="ig-made-done" type="button">Done</button>
    </div>
    <img id="ig-made-qr" alt="The address as a QR code" hidden>
  </section>`;

const COPIED = 2500; // ms for which the button says so

export class Made {
  /** @type {{link: Link, token: string} | null} */
  #made = null; // {link, token}
  #drawn = ""; // the address that the QR code shows
  #post;

  /** `post(path, body)` asks the server; returns [status, body]. `done`: the address is not needed any more.
   *  @param {(path: string, body: object) => Promise<[number, any]>} post @param {() => void} done */
  constructor(post, done) {
    this.#post = post;
    $("ig-made-url").onfocus = (/** @type {any} */ event) => event.target.select();
    $("ig-made-copy").onclick = () => this.#copy();
    $("ig-made-done").onclick = () => {
      this.clear();
      done();
    };
  }

  /** Id of the link whose address is on show, or "". */
  get id() {
    return this.#made?.link.id ?? "";
  }

  /** `again`: the link had another address before. @type {(link: Link, token: string, again: boolean) => void} */
  show(link, token, again) {
    this.clear();
    $("ig-made-copy").textContent = "Copy";
    this.#made = { link, token };
    $("ig-made-title").textContent = `Link for ${link.name}`;
    const hints = ["This address is shown only now: send it before you press Done."];
    if (link.once) hints.push("The first browser that opens it keeps it: do not open it to try.");
    if (link.passphrase) hints.push("Send the passphrase another way.");
    if (again && link.seen_at !== null) hints.push("Who has opened it before stays in; Revoke ends that.");
    $("ig-made-hints").replaceChildren(...hints.map((hint) => element("li", hint)));
    $("ig-made").hidden = false;
  }

  clear() {
    this.#made = null;
    this.#drawn = "";
    URL.revokeObjectURL($("ig-made-qr").src);
    $("ig-made-qr").removeAttribute("src");
    $("ig-made-qr").hidden = true;
    $("ig-made-url").value = "";
    $("ig-made").hidden = true;
  }

  /** The doors are known, or have changed: the address may be there, or be another. @param {Door} [door] */
  render(door) {
    if (!this.#made || !door) return;
    const { link, token } = this.#made;
    const wanted = door[link.reach];
    const instead = wanted.problem && link.reach === "internet" ? door.network : wanted;
    const url = instead.url && !instead.problem ? `${instead.url}/s/${token}` : "";
    const busy = !url && !wanted.problem;
    const problem = $("ig-made-problem");
    const nearby = url && instead !== wanted ? "In this network the address below works." : "";
    const why = [sentence(wanted.problem), nearby].filter(Boolean).join(" ");
    if (problem.textContent !== why) problem.textContent = why; // else it would be read out again
    problem.hidden = !why;
    $("ig-made-busy").hidden = !busy;
    $("ig-made-busy").lastElementChild.textContent = OPENING[link.reach];
    $("ig-made-copy").disabled = !url;
    $("ig-made-copy").parentNode.hidden = !url;
    if ($("ig-made-url").value !== url) $("ig-made-url").value = url;
    this.#draw(url);
  }

  /** @param {string} url */
  async #draw(url) {
    if (url === this.#drawn) return;
    this.#drawn = url;
    const image = $("ig-made-qr");
    image.hidden = true;
    const [status, body] = url ? await this.#post("qr", { text: url }) : [0, {}];
    if (status !== 200 || this.#drawn !== url) return; // without one the address still does
    URL.revokeObjectURL(image.src);
    // An image, never a part of the page: nothing in it can run.
    image.onload = () => (image.hidden = false);
    image.src = URL.createObjectURL(new Blob([body.svg], { type: "image/svg+xml" }));
  }

  async #copy() {
    const [field, button] = [$("ig-made-url"), $("ig-made-copy")];
    // Not there, or not allowed, over plain HTTP and in some frames.
    const done = await (navigator.clipboard?.writeText(field.value) ?? Promise.reject()).then(
      () => true,
      () => {
        field.focus();
        field.select();
        return document.execCommand("copy");
      },
    );
    button.textContent = done ? "Copied" : "Press Ctrl+C";
    setTimeout(() => (button.textContent = "Copy"), COPIED);
  }
}
