/**
 * What is remembered: the history, each gate's own lines, the store and who shares it.
 *
 * @import { Decision, Gate } from "../shared/queue/rest.js"
 * @import { Line, OperatorGates, Status } from "./operator_gates.js"
 * @typedef {{version: number, lines: Line[] | null, error: string}} Opened
 * @typedef {HTMLLIElement & {said?: string, lines?: Line[] | null}} Row
 * @typedef {{file: string, title: string, answer: string, standing: string, about: string, undo: boolean,
 *   again: boolean}} Said
 */

import { told } from "../shared/gates.js";
import { toldApart } from "../shared/labels.js";
import { $, age, aimed, amount, element, fill, jolted, middle, when } from "../shared/parts.js";
import { parts, shown } from "./folder_view.js";

const LOOK = 30_000; // ms between looks at the store, while somebody can see the page

/** What the kinds of lines say. @type {Record<string, (line: any) => string>} */
const SAID = {
  published: (line) => (line.worker ? `asked at ${line.worker}` : "asked"),
  masked: (line) => (line.cleared ? "mask cleared" : "mask painted"),
  decided: told,
  reused: (line) => `“${line.label}” used again`,
  stopped: told,
  expired: (line) => (line.label ? `the time was up: “${line.label}”` : "the time was up"),
  withdrawn: () => "withdrawn",
  undone: () => "taken back: it waits again",
  claimed: (line) => `taken up by ${line.worker}${attempt(line)}`,
  "put back": (line) => `could not go on${attempt(line)}: it waits again`,
  resumed: () => "went on",
  reopened: () => "waits again: its worker is back",
  "ask again": () => "not to be used again",
  notified: () => "a notice was sent",
};

export class Records {
  #gates;
  #undo;
  /** @type {Map<string, Row>} */
  #rows = new Map(); // gate id -> its row
  /** @type {Map<string, Opened>} */
  #opened = new Map(); // gate id -> {version, lines, error} of a row that is open
  /** @type {Status | null} */
  #status = null; // as it was last rendered

  /**
   * @param {OperatorGates} gates
   * @param {boolean} embedded without history and store
   * @param {(gate: Gate) => void} undo takes a gate's answer back
   */
  constructor(gates, embedded, undo) {
    this.#gates = gates;
    this.#undo = undo;
    if (embedded) return;
    const look = () => document.visibilityState === "visible" && gates.status && gates.readStatus();
    setInterval(look, LOOK);
    document.addEventListener("visibilitychange", look);
  }

  render() {
    document.body.classList.toggle("ig-store", this.#gates.status !== null);
    this.#renderHistory();
    this.#renderStatus();
  }

  // -- history

  #renderHistory() {
    const { history } = this.#gates;
    if (this.#gates.changedByOthers(this.#rows)) jolted($("ig-history"));
    const kept = new Map();
    for (const gate of history) kept.set(gate.id, this.#row(gate, this.#rows.get(gate.id)));
    this.#rows = kept;
    for (const id of this.#opened.keys()) if (!kept.has(id)) this.#opened.delete(id);
    fill($("ig-history"), [...kept.values()]);
    $("ig-past").hidden = kept.size === 0;
  }

  /** @type {(gate: Gate, before?: Row) => Row} */
  #row(gate, before) {
    const { decision } = gate;
    const said = {
      file: gate.file ?? "",
      title: gate.title,
      answer:
        gate.state === "withdrawn"
          ? "withdrawn"
          : /** @type {Decision} */ (decision).route === null
            ? "Stop"
            : toldApart(gate.labels, /** @type {any} */ (decision).route),
      standing: this.#standing(gate),
      about: [decision && signed(decision), decision && when(decision.at), decision?.note, gate.reason]
        .filter(Boolean)
        .join(" · "),
      undo: gate.state === "decided" && gate.undoable,
      again: Boolean(gate.reusable && gate.reason), // an answer that was used again
      state: gate.state,
    };
    const row = /** @type {Row} */ (before ?? element("li", "", { "data-gate": gate.id }));
    const changed = JSON.stringify(said) !== row.said;
    if (changed) {
      row.said = JSON.stringify(said);
      const focused = row.contains(document.activeElement)
        ? /** @type {Element} */ (document.activeElement).className
        : "";
      const entry = this.#entry(gate, said);
      entry.onclick = (event) => {
        if (
          !(/** @type {Element} */ (event.target).closest("button:not(.ig-more)")) &&
          /** @type {Selection} */ (getSelection()).isCollapsed
        )
          this.#toggle(gate.id);
      };
      row.replaceChildren(entry);
      if (focused) /** @type {HTMLElement | null} */ (row.querySelector(`.${focused}`))?.focus({ preventScroll: true });
    }
    const opened = this.#opened.get(gate.id);
    if (opened && opened.version !== gate.version) this.#read(gate, opened);
    if (changed || row.lines !== opened?.lines) this.#renderLines(row, gate, opened);
    return row;
  }

  /** @type {(gate: Gate, said: Said) => HTMLElement} */
  #entry(gate, said) {
    const entry = element("div", "", { class: "ig-entry" });
    entry.append(
      element("button", "", { type: "button", class: "ig-more", "aria-label": `All that happened to ${gate.title}` }),
      what(said),
      element("b", said.answer, { class: `ig-answer ig-${gate.state}` }),
      element("span", said.standing, { class: "ig-standing" }),
      element("small", said.about),
    );
    /** @type {(name: string, text: string, title: string, act: () => unknown) => void} */
    const button = (name, text, title, act) => {
      const made = element("button", text, {
        type: "button",
        class: name,
        title,
        "aria-label": `${text}: ${gate.title}`,
      });
      made.onclick = (event) => aimed(event, $("ig-history")) && act();
      entry.append(made);
    };
    if (said.again) {
      const title =
        "Where repeat is “reuse decision”, an equal image takes this answer; after this it is asked for again.";
      button("ig-again", "Ask again", title, () => this.#gates.askAgain(gate));
    }
    if (said.undo) button("ig-back", "Undo", "Take this answer back", () => this.#undo(gate));
    return entry;
  }

  /** What became of an answer to a parked gate. @param {Gate} gate */
  #standing(gate) {
    const answered =
      ["decided", "expired"].includes(gate.state) && /** @type {Decision} */ (gate.decision).route !== null;
    if (gate.mode !== "park" || !(answered || gate.state === "resumed")) return "";
    const tries = /** @type {number} */ (gate.attempts) > 1 ? `, attempt ${gate.attempts}` : "";
    if (gate.state === "resumed") return `went on${tries}`;
    const { status, workers } = this.#gates;
    const dead = workers.filter((worker) => !worker.alive);
    // A worker that died in the middle is relieved by another.
    const going = gate.resuming && !dead.some((worker) => worker.name === gate.resuming);
    if (going) return `going on at ${gate.resuming}${tries}`;
    return status && dead.length === workers.length ? "goes on when a ComfyUI runs again" : `goes on soon${tries}`;
  }

  /** @param {string} id */
  #toggle(id) {
    if (this.#gates.progress) return; // a folder's session keeps no lines
    if (!this.#opened.delete(id)) this.#opened.set(id, { version: -1, lines: null, error: "" });
    this.render();
  }

  /** @type {(gate: Gate, opened: Opened) => Promise<void>} */
  async #read(gate, opened) {
    opened.version = gate.version;
    const [lines, error] = await this.#gates.lines(gate);
    if (this.#opened.get(gate.id) !== opened || opened.version !== gate.version) return; // meanwhile
    Object.assign(opened, { lines: lines ?? [], error });
    this.render();
  }

  /** @type {(row: Row, gate: Gate, opened?: Opened) => void} */
  #renderLines(row, gate, opened) {
    row.lines = opened?.lines;
    /** @type {Element} */ (row.querySelector(".ig-more")).setAttribute("aria-expanded", String(Boolean(opened)));
    row.classList.toggle("ig-open", Boolean(opened));
    row.querySelector(".ig-lines")?.remove();
    if (!opened) return;
    const lines = element("div", "", { class: "ig-lines" });
    const list = element("div", "", { role: "list" });
    const seen = element("img", "", { class: "ig-seen", src: this.#gates.image(gate, 0), alt: "", hidden: "" });
    seen.onload = () => (seen.hidden = false); // pictures of old gates are not kept
    if (opened.error) list.append(element("span", `Not read: ${opened.error}`, { class: "ig-withdrawn" }));
    else if (!opened.lines) list.append(element("span", "Reading …"));
    else list.append(...opened.lines.map((said) => line(said, gate)));
    lines.append(seen, list);
    row.append(lines);
  }

  // -- the store

  #renderStatus() {
    const { status, clock } = this.#gates;
    if (status === this.#status) return;
    this.#status = status;
    $("ig-store").hidden = status === null;
    if (!status) return;
    const [room, workers] = $("ig-store").children;
    const days = status.keep_days;
    const kept = days > 0 ? `kept ${age(days * 86400)}` : "not kept";
    room.textContent = `Pictures: ${amount(status.bytes)}; those of finished gates are ${kept}`;
    // A panel that was closed is no news; a ComfyUI that is gone has gates that wait for it.
    const shown = status.workers.filter((worker) => worker.alive || worker.kind === "comfyui");
    const now = Date.now() / 1000 + clock;
    workers.replaceChildren(
      ...shown.map((worker) => {
        const made = element("li", "", { class: worker.alive ? "ig-alive" : "ig-gone" });
        const state = worker.alive ? "alive" : `last seen ${age(now - worker.seen_at)} ago`;
        const kind = worker.kind === "comfyui" ? "" : "panel ";
        made.append(element("b", `${kind}${worker.name}`), element("span", state));
        return made;
      }),
    );
  }
}

/** The title; of a file its own name, and then the folder. @param {Said} said */
function what({ file, title }) {
  if (!file) return element("span", title, { class: "ig-what" });
  const [name, folder] = parts(file);
  const made = element("span", "", { class: "ig-what ig-file", title: file });
  made.append(middle(shown(name)), element("small", folder));
  return made;
}

/** Whose answer it is. @param {Decision} decision */
function signed(decision) {
  return `${decision.by}${through(decision)}`;
}

/** Through which link it came, if it did: " · link 3fK2x9". @param {{link?: string}} said */
function through(said) {
  return said.link ? ` · link ${said.link}` : "";
}

/** @param {any} line */
function attempt(line) {
  return line.attempt > 1 ? `, attempt ${line.attempt}` : "";
}

/** One line of a gate's history. @type {(given: Line, gate: Gate) => HTMLElement} */
function line(given, gate) {
  const said = given.route ? { ...given, label: toldApart(gate.labels, given.route) } : given;
  const made = element("p", "", { role: "listitem" });
  made.append(
    element("time", when(said.at), { title: new Date(said.at * 1000).toLocaleString() }),
    element("span", (SAID[said.kind] ?? (() => said.kind))(said) + through(said)),
  );
  if (said.note) made.append(element("q", said.note));
  if (said.text) made.append(element("small", said.text));
  return made;
}
