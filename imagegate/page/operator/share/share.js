/**
 * The Share tab: links for people who are not at this machine. The operator's only, and there only
 * where the server has links to give.
 *
 * @import { OperatorGates } from "../operator_gates.js"
 * @import { Known, Link, Scope } from "./links.js"
 */

import { $, element } from "../../shared/parts.js";
import { LINKS, Links } from "./links.js";
import { MADE, Made } from "./made.js";

const TICK = 20_000; // ms between looks at the clock while the sheet is open

const SHEET = `
  <button id="ig-share-open" type="button" aria-haspopup="dialog">Share</button>
  <dialog id="ig-sheet" aria-labelledby="ig-sheet-title">
    <div class="ig-sheet">
      <header>
        <h2 id="ig-sheet-title" tabindex="-1">Share</h2>
        <button id="ig-sheet-close" type="button" aria-label="Close">×</button>
      </header>
      <p class="ig-quiet">A link lets one person look, decide and paint masks, as far as you choose, on any device, and
        nothing else.</p>
      <form id="ig-link">
        <label class="ig-wide">Name
          <input id="ig-link-name" required maxlength="100" autocomplete="off" spellcheck="false"
            placeholder="Who is it for? Shown in the history">
        </label>
        <label>Can
          <select id="ig-link-may">
            <option value="mask">Decide and paint masks</option>
            <option value="decide">Decide</option>
            <option value="look">Look only</option>
          </select>
        </label>
        <label>Sees
          <select id="ig-link-scope"></select>
        </label>
        <label>Valid for
          <select id="ig-link-hours">
            <option value="1">1 hour</option>
            <option value="8">8 hours</option>
            <option value="24" selected>24 hours</option>
            <option value="72">3 days</option>
            <option value="168">7 days</option>
            <option value="720">30 days</option>
          </select>
        </label>
        <label>Opens
          <select id="ig-link-reach">
            <option value="internet">Over the internet</option>
            <option value="network">In this network</option>
          </select>
        </label>
        <label class="ig-wide">Passphrase
          <input id="ig-link-passphrase" autocomplete="off" spellcheck="false" maxlength="200"
            placeholder="None">
        </label>
        <div class="ig-wide ig-last">
          <label class="ig-check">
            <input id="ig-link-once" type="checkbox" checked>
            <span>Works only in the first browser that opens it</span>
          </label>
          <button id="ig-link-make" type="submit" class="ig-primary">Make link</button>
        </div>
      </form>
      ${MADE}
      <p id="ig-share-status" role="status"></p>
      ${LINKS}
    </div>
  </dialog>`;

export class Share {
  #gates;
  /** @type {Links | undefined} */
  #links;
  /** @type {Made | undefined} */
  #made;
  /** @type {Known | null} */
  #known = null; // what the server last said: links, door, now
  #clock = 0; // the server's minus this one's, in seconds
  #asked = 0;

  /** @param {OperatorGates} gates tells of changes, and knows the titles there are */
  constructor(gates) {
    this.#gates = gates;
  }

  /** Whether the sheet covers the gates. */
  get open() {
    return $("ig-sheet")?.open ?? false;
  }

  /** @param {HTMLElement} host */
  build(host) {
    host.innerHTML = SHEET;
    this.#made = new Made(
      (path, body) => this.#post(path, body),
      () => this.#render(),
    );
    this.#links = new Links(this.#gates, {
      reissue: (link) => this.#reissue(link),
      revoke: (link) => this.#revoke(link),
    });
    $("ig-share-open").onclick = () => this.#show();
    $("ig-sheet-close").onclick = () => $("ig-sheet").close();
    // Not on click: marking the address with the mouse may end out there.
    $("ig-sheet").onpointerdown = (/** @type {Event} */ event) =>
      event.target === $("ig-sheet") && $("ig-sheet").close();
    $("ig-link").onsubmit = (/** @type {Event} */ event) => {
      event.preventDefault();
      this.#make();
    };
    for (const kind of ["read", "links"]) this.#gates.addEventListener(kind, () => this.#read());
    setInterval(() => this.open && this.#render(), TICK);
  }

  #show() {
    this.#offerScopes();
    this.#say("");
    this.#render();
    this.#read(); // there is no news of an answer that was taken back
    $("ig-sheet").showModal();
    // A phone would answer with its keyboard, over half of the sheet.
    $(matchMedia("(hover: none)").matches ? "ig-sheet-title" : "ig-link-name").focus();
  }

  // -- the server

  async #read() {
    const asked = ++this.#asked;
    const reply = await fetch(this.#gates.url("links"), { cache: "no-store" }).catch(() => null);
    if (asked !== this.#asked || (!reply?.ok && reply?.status !== 404)) return; // news will come again
    this.#known = /** @type {Response} */ (reply).ok ? await /** @type {Response} */ (reply).json() : null;
    if (this.#known) this.#clock = this.#known.now - Date.now() / 1000;
    $("ig-share").hidden = this.#known === null;
    this.#render();
  }

  /** @type {(path: string, body: object) => Promise<[number, any]>} */
  async #post(path, body) {
    try {
      const reply = await this.#gates.fetch(this.#gates.url(path), {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify(body),
      });
      return [reply.status, await reply.json().catch(() => ({ error: reply.statusText }))];
    } catch {
      return [0, { error: "no connection" }];
    }
  }

  async #make() {
    const button = $("ig-link-make");
    button.disabled = true; // a second click would make a second link
    const [status, body] = await this.#post("links", {
      name: $("ig-link-name").value.trim(),
      may: $("ig-link-may").value,
      scope: JSON.parse($("ig-link-scope").value),
      hours: Number($("ig-link-hours").value),
      passphrase: $("ig-link-passphrase").value,
      once: $("ig-link-once").checked,
      reach: $("ig-link-reach").value,
    });
    button.disabled = false;
    if (status !== 201) {
      this.#say(`Not made: ${body.error}`, "bad");
      return;
    }
    $("ig-link").reset(); // the next one is for somebody else
    this.#announce(body);
  }

  /** @param {Link} link */
  async #reissue(link) {
    const [status, body] = await this.#post(`links/${link.id}/reissue`, {});
    if (status === 200) this.#announce(body, true);
    else this.#say(`No new address for ${link.name}: ${body.error}`, "bad");
  }

  /** @param {Link} link */
  async #revoke(link) {
    const [status, body] = await this.#post(`links/${link.id}/revoke`, {});
    if (status !== 200) {
      this.#say(`Not revoked: ${body.error}`, "bad");
      return;
    }
    if (/** @type {Made} */ (this.#made).id === link.id) /** @type {Made} */ (this.#made).clear();
    this.#say(`The link for ${link.name} is revoked.`, "good");
    this.#read();
  }

  /** Show the address of a link; `again`: another one than before.
   *  @type {(made: {link: Link, token: string}, again?: boolean) => void} */
  #announce({ link, token }, again = false) {
    this.#say("");
    /** @type {Made} */ (this.#made).show(link, token, again);
    this.#render();
    $("ig-sheet").firstElementChild.scrollTop = 0;
    $("ig-made-copy").focus();
    this.#read(); // the doors may have changed with it
  }

  // -- the form

  /** What a link can be about, as the page knows it now. */
  #offerScopes() {
    const { current, queue, skipped, history, progress } = this.#gates;
    /** @type {[string, Scope][]} */
    const offers = [["All gates", { kind: "all" }]];
    if (current) offers.push([`Only “${current.title}”, in front now`, { kind: "gate", gate: current.id }]);
    // Each image of a folder has a title of its own.
    const gates = progress ? [] : [...queue, ...skipped, ...history];
    const places = new Map(gates.map((gate) => [JSON.stringify([gate.title, gate.workflow_id]), gate]));
    const titles = [...places.values()].map((gate) => gate.title);
    for (const { title, workflow_id: workflow } of places.values()) {
      const several = titles.filter((one) => one === title).length > 1;
      const which = !several ? "" : workflow ? `, workflow ${workflow.slice(0, 8)}` : ", any workflow";
      offers.push([`Gates titled “${title}”${which}`, { kind: "title", title, workflow }]);
    }
    const select = $("ig-link-scope");
    const before = select.value;
    select.replaceChildren(...offers.map(([text, scope]) => element("option", text, { value: JSON.stringify(scope) })));
    select.value = before;
    if (select.selectedIndex < 0) select.selectedIndex = 0;
  }

  /** @type {(text: string, tone?: string) => void} */
  #say(text, tone = "") {
    $("ig-share-status").textContent = text;
    $("ig-share-status").dataset.tone = tone;
  }

  #render() {
    if (!this.#known) return;
    const shown = this.#known.links.find((link) => link.id === /** @type {Made} */ (this.#made).id);
    if (shown && shown.state !== "live") /** @type {Made} */ (this.#made).clear(); // somebody else revoked it
    const count = /** @type {Links} */ (this.#links).render(this.#known, Date.now() / 1000 + this.#clock);
    $("ig-share-open").textContent = count ? `Share · ${count}` : "Share";
    $("ig-link").hidden = /** @type {Made} */ (this.#made).id !== "";
    /** @type {Made} */ (this.#made).render(this.#known.door);
  }
}
