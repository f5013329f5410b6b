/**
 * What a folder's session adds to the page: the file's own name and its folder, what is to be said
 * about an image, how far the session is, and which files are not shown.
 *
 * @import { Gate, Progress } from "../shared/queue/rest.js"
 * @import { OperatorGates } from "./operator_gates.js"
 */

import { $, element, middle, remarks } from "../shared/parts.js";

export class FolderView {
  #gates;
  #listed = ""; // the list as it was last rendered

  /** @param {OperatorGates} gates */
  constructor(gates) {
    this.#gates = gates;
  }

  build() {
    const list = $("ig-unreadable");
    const close = (/** @type {Event} */ event) => {
      if (!list.contains(event.target)) list.open = false;
    };
    document.addEventListener("pointerdown", close);
    list.onkeydown = (/** @type {KeyboardEvent} */ event) => {
      if (event.key !== "Escape") return;
      list.open = false;
      list.querySelector("summary").focus();
    };
  }

  /** Another gate comes to the front. @param {Gate | null} gate */
  show(gate) {
    $("ig-remarks").replaceChildren();
    if (!gate?.file) return;
    const [name, folder] = parts(gate.file);
    const title = $("ig-title");
    title.title = gate.file;
    title.replaceChildren(middle(gate.title));
    const facts = [];
    if (gate.title !== shown(name)) facts.push(middle(shown(name)));
    if (folder) facts.push(this.#folder(folder));
    facts.push(element("span", `${gate.width} × ${gate.height}`));
    $("ig-facts").replaceChildren(...facts);
  }

  /** The image in front is here: what the server says about it.
   *  @type {(gate: Gate | null, index: number, current: () => boolean) => Promise<void>} */
  async look(gate, index, current) {
    if (!gate?.file) return;
    const kept = /** @type {RequestInit} */ ({ cache: "force-cache" }); // the browser has just loaded it
    const reply = await this.#gates.fetch(this.#gates.image(gate, index), kept).catch(() => null);
    if (!reply?.ok || !current()) return;
    $("ig-remarks").replaceChildren(...remarks(reply).map(chip));
    reply.body?.cancel();
  }

  /** Whether the image is shown brighter than it is in the file, so that its pixels alone are dark. */
  get brighter() {
    return [...$("ig-remarks").children].some((one) => /** @type {string} */ (one.textContent).startsWith("shown "));
  }

  render() {
    const session = this.#gates.progress;
    document.body.classList.toggle("ig-session", Boolean(session));
    $("ig-progress").hidden = !session;
    $("ig-away").hidden = !session?.away;
    $("ig-unreadable").hidden = !session?.unreadable_count && !session?.missing_count;
    if (!session) return; // in ComfyUI
    $("ig-away").textContent = session.away && `${session.away}; ${session.waiting} images wait for it.`;
    const [bar, text] = $("ig-progress").children;
    const shown = session.total - session.unreadable_count;
    bar.max = shown || 1;
    bar.value = session.done;
    text.replaceChildren(`${session.done} of ${shown}`, element("span", " decided"));
    this.#renderLists(session);
  }

  /** Files that are not shown, by the reason, and sorted ones that have changed since. @param {Progress} session */
  #renderLists({ unreadable, unreadable_count: count, unreadable_reasons: reasons, missing, missing_count: gone }) {
    const said = JSON.stringify([unreadable, reasons, count, missing, gone]);
    if (said === this.#listed) return; // it may be being read
    this.#listed = said;
    const [summary, list] = $("ig-unreadable").children;
    const counts = [count && `${count} not shown`, gone && `${gone} changed or gone`].filter(Boolean);
    summary.replaceChildren(counts.join(", "), element("span", ": why?"));
    const rows = [];
    if (count) rows.push(element("p", "Not shown; they stay where they are:"));
    for (const { reason, count } of reasons) {
      const files = unreadable.filter((one) => one.reason === reason).map(({ file }) => row_of(file));
      rows.push(section(count > 1 ? `${reason} (${count} files)` : reason, files, count));
    }
    if (gone) {
      rows.push(element("p", "Changed or gone from the sorted folder since they were decided:"));
      rows.push(
        section(
          "",
          missing.map(({ file, reason }) => row_of(file, reason)),
          gone,
        ),
      );
    }
    list.replaceChildren(...rows);
  }

  /** Deep folders are shortened; a click shows all. @param {string} folder */
  #folder(folder) {
    const made = element("button", "", { type: "button", class: "ig-in", title: folder, "aria-label": `In ${folder}` });
    made.append(middle(folder, Math.min(24, folder.length - folder.lastIndexOf("/"))));
    made.onclick = () => made.classList.toggle("ig-whole");
    return made;
  }
}

/** @param {string} remark */
function chip(remark) {
  return element("span", remark, { class: remark.startsWith("broken") ? "ig-remark ig-broken" : "ig-remark" });
}

/** @type {(head: string, files: Element[], count: number) => HTMLElement} */
function section(head, files, count) {
  const made = element("section");
  const names = element("ul");
  if (count > files.length) files.push(element("li", `and ${count - files.length} more`));
  names.append(...files);
  if (head) made.append(element("h3", head));
  made.append(names);
  return made;
}

/** @type {(file: string, more?: string) => HTMLElement} */
function row_of(file, more = "") {
  const [name, folder] = parts(file);
  const row = element("li", "", { title: file });
  row.append(middle(shown(name)));
  if (more || folder) row.append(element("small", more || folder));
  return row;
}

/** A file's own name, and the folder that it lies in. @param {string} file */
export function parts(file) {
  const cut = file.lastIndexOf("/");
  return [file.slice(cut + 1), cut < 0 ? "" : file.slice(0, cut)];
}

/** A name on one line, as in the title of its gate. @param {string} name */
export function shown(name) {
  return name.replace(/[\n\r]/g, "↵").replace(/\p{Cc}/gu, "\ufffd");
}
