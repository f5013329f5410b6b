/**
 * The sheet: what was decided, by me or by everybody, and whose link this is.
 *
 * @import { Gate } from "../shared/queue/rest.js"
 * @import { ApproverGates } from "./approver_gates.js"
 */

import { toldApart } from "../shared/labels.js";
import { $, aimed, calm, element, fill, jolted, left, sure, when } from "../shared/parts.js";

const TILE = 96; // px of a small picture

const REALLY = "Really leave? The link may not open again.";
const MAY = {
  look: "You can look at the images.",
  decide: "You can look at the images and decide.",
  mask: "You can look at the images, paint masks and decide.",
};

export class Past {
  #gates;
  /** @type {Map<string, HTMLElement>} */
  #rows = new Map(); // gate id -> its row
  /** @type {WeakMap<HTMLElement, string>} */
  #said = new WeakMap(); // row -> what it says
  #chosen = Infinity; // when another list was asked for that is still to come, by the server's clock
  /** @type {Map<string, HTMLElement>} */
  #tiles = new Map(); // gate id -> a small picture of what was decided here

  /**
   * @param {ApproverGates} gates
   * @param {(gate: Gate) => void} undo takes a gate's answer back
   */
  constructor(gates, undo) {
    this.#gates = gates;
    this.undo = undo;
    const sheet = $("ig-past");
    $("ig-past-open").onclick = () => this.open();
    $("ig-past-close").onclick = () => sheet.close();
    sheet.onclick = (/** @type {MouseEvent} */ event) => void (event.target === sheet && sheet.close()); // beside it
    sheet.onclose = () => calm($("ig-leave"));
    $("ig-past-more").onclick = () => gates.readOlder();
    $("ig-leave").onclick = () => sure($("ig-leave"), REALLY, () => gates.leave());
    for (const all of [false, true]) {
      const button = $(all ? "ig-past-all" : "ig-past-mine");
      if (button) button.onclick = () => this.#list(all);
    }
    const { person } = gates;
    $("ig-past-title").textContent = person.may === "look" ? "Decided" : "What I have done";
    this.renderPerson();
  }

  open() {
    this.renderPerson();
    $("ig-past").showModal();
    $("ig-past").querySelector(".ig-scroll").scrollTop = 0;
  }

  /** Keep a small picture of what is decided now: it is on the screen. @type {(gate: Gate, image: HTMLImageElement) => void} */
  picture(gate, image) {
    if (!image.naturalWidth) return;
    const tile = element("canvas", "", { class: "ig-tile", width: TILE, height: TILE, "aria-hidden": "true" });
    const side = Math.min(image.naturalWidth, image.naturalHeight);
    const [x, y] = [(image.naturalWidth - side) / 2, (image.naturalHeight - side) / 2];
    tile.getContext("2d")?.drawImage(image, x, y, side, side, 0, 0, TILE, TILE);
    this.#tiles.set(gate.id, tile);
  }

  render() {
    const { history, older, everyones, person } = this.#gates;
    if (this.#moved(history)) jolted($("ig-history"));
    const kept = new Map();
    for (const gate of history) kept.set(gate.id, this.#row(gate, this.#rows.get(gate.id)));
    this.#rows = kept;
    fill($("ig-history"), [...kept.values()]);
    $("ig-past-more").hidden = older === null;
    const none = $("ig-past-none");
    none.hidden = kept.size > 0;
    none.textContent = everyones ? "Nothing is decided yet." : "You have decided nothing yet.";
    const mine = history.filter((gate) => this.#gates.isMine(gate)).length;
    const count = everyones && person.may !== "look" ? mine : history.length;
    const many = `${count}${older === null ? "" : "+"}`;
    $("ig-past-open").querySelector("span").textContent = count ? many : "";
    const name = $("ig-past-title").textContent;
    $("ig-past-open").setAttribute("aria-label", count ? `${name}: ${many}` : name);
  }

  renderPerson() {
    const { person, clock } = this.#gates;
    const still = person.expires_at - Date.now() / 1000 - clock;
    $("ig-person").replaceChildren(
      element("b", person.name),
      element(
        "span",
        `${MAY[person.may]} The link is valid until ${when(person.expires_at)}, for another ${left(still)}.`,
      ),
    );
  }

  // -- inside

  /** Whether others have moved the rows; a list that was asked for moves them by itself. @param {Gate[]} history */
  #moved(history) {
    if (this.#chosen === Infinity) return this.#gates.changedByOthers(this.#rows);
    /** @param {Gate} gate */
    const came = (gate) => !this.#rows.has(gate.id) && !this.#gates.isMine(gate);
    return history.some((gate) => came(gate) && (gate.decision?.at ?? 0) > this.#chosen);
  }

  /** @param {boolean} all */
  #list(all) {
    $("ig-past-mine").setAttribute("aria-pressed", String(!all));
    $("ig-past-all").setAttribute("aria-pressed", String(all));
    this.#chosen = Date.now() / 1000 + this.#gates.clock;
    return this.#gates.listEveryones(all).finally(() => (this.#chosen = Infinity));
  }

  /** @type {(gate: Gate, before?: HTMLElement) => HTMLElement} */
  #row(gate, before) {
    const { decision } = gate;
    const mine = this.#gates.isMine(gate);
    const said = {
      title: gate.title,
      answer: decision ? (decision.route === null ? "Stop" : toldApart(gate.labels, decision.route)) : gate.state,
      route: decision?.route ?? "–",
      state: gate.state,
      about: [decision && (mine ? "You" : decision.by), decision && when(decision.at), became(gate)],
      note: decision?.note ?? "",
      undo: mine && gate.state === "decided" && gate.undoable,
      tile: this.#tiles.has(gate.id),
    };
    const row = before ?? element("li", "", { "data-gate": gate.id });
    const saying = JSON.stringify(said);
    if (saying === this.#said.get(row)) return row;
    const focused = row.contains(document.activeElement);
    this.#said.set(row, saying);
    const words = element("div", "", { class: "ig-entry" });
    words.append(
      element("b", said.answer, { class: `ig-answer ig-${said.state}` }),
      element("span", said.title, { class: "ig-what" }),
      element("small", said.about.filter(Boolean).join(" · ")),
    );
    if (said.note) words.append(element("q", said.note));
    const tile = this.#tiles.get(gate.id) ?? element("span", said.route, { class: "ig-tile", "aria-hidden": "true" });
    row.replaceChildren(tile, words);
    if (said.undo) {
      const button = element("button", "Undo", {
        type: "button",
        class: "ig-back",
        "aria-label": `Undo: ${gate.title}`,
      });
      button.onclick = (event) => aimed(event, $("ig-history")) && this.undo(gate);
      row.append(button);
      if (focused) button.focus({ preventScroll: true });
    }
    return row;
  }
}

/** What became of a gate after its answer. @param {Gate} gate */
function became(gate) {
  if (gate.state === "resumed") return "went on";
  if (gate.state === "expired") return "the time was up";
  if (gate.state === "withdrawn") return gate.reason;
  return "";
}
