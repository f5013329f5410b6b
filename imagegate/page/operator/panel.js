/**
 * The panel's page: shows the gate in front, takes clicks and keys. What it knows comes from
 * `OperatorGates`; the mask editor is Gradio's, see `Painting`, and what is past is shown by `Records`.
 *
 * All texts that people wrote (titles, labels, notes, names) enter the page as text, never as HTML.
 *
 * @import { Gate } from "../shared/queue/rest.js"
 */

import { Alerts } from "../shared/alerts.js";
import { $, age, calm, say, span, sure } from "../shared/parts.js";
import { Review } from "../shared/review.js";
import { reason as reasonOf } from "../shared/sender.js";
import { DONE } from "../shared/status.js";
import { FolderView } from "./folder_view.js";
import { OperatorGates } from "./operator_gates.js";
import { Painting } from "./painting.js";
import { Records } from "./records.js";
import { Share } from "./share/share.js";
import { Controls, drawn, type } from "./stage/controls.js";
import { Stage } from "./stage/stage.js";

const ACTS = "#ig-stage, #ig-thumbs, #ig-routes, #ig-tools"; // on the gate in front
const BLANK = 1536; // px, the longest side of an empty mask
const ROOMY = 700; // px of width from which on the history begins open

let /** @type {boolean} */ own, /** @type {boolean} */ embedded; // whether all of the page is the panel; whether it is the compact one
let /** @type {OperatorGates} */ gates,
  /** @type {Painting} */ painting,
  /** @type {Records} */ records,
  /** @type {FolderView} */ folder,
  /** @type {Share} */ share,
  /** @type {Stage} */ stage,
  /** @type {Controls} */ controls,
  /** @type {Review} */ review;

// -- building

/**
 * Bring to life what Gradio draws for a `GatePanel`, once on a page.
 *
 * @param {{own: boolean, node: string, workflow: string, embed: boolean}} given `own`: all of the page is the
 *   panel, and its address says the rest
 */
export async function start(given) {
  if (gates) return;
  const query = new URLSearchParams(given.own ? location.search : "");
  own = given.own;
  embedded = given.embed || query.get("embed") === "1";
  const base = new URL("../../", import.meta.url);
  gates = new OperatorGates(
    base,
    given.node || (query.get("node") ?? ""),
    given.workflow || (query.get("workflow") ?? ""),
  );
  await drawn();
  build();
}

function build() {
  document.body.classList.toggle("ig-embed", embedded);
  painting = new Painting({
    looking: () => stage,
    begins: () => stage.unzoom(),
    ends: () => stage.gate && stage.showMask(stage.gate),
    fit: () => stage.fit(),
    blank,
  });
  records = new Records(gates, embedded, (gate) => review.undo(gate));
  folder = new FolderView(gates);
  share = new Share(gates);
  review = new Review(gates, {
    area: ACTS,
    busy: () => share.open, // its own keys, and no gate in sight
    show,
    update: (gate) => painting.now || stage.showMask(gate),
    again: () => stage.retry(),
    words: signed,
    act: key,
    say,
  });
  review.titled = own;
  review.painter = painting;
  controls = new Controls(embedded || innerWidth <= ROOMY, (gate, route, event) => review.decide(gate, route, event));
  stage = new Stage({ gates, folder, hold: review.hold, painting, embedded });

  $("ig-skip").onclick = () => review.skip();
  $("ig-undo").onclick = () => review.undo();
  $("ig-stop").onclick = stop;
  $("ig-mask-edit").onclick = () => painting.open();
  $("ig-mask-save").onclick = () => painting.save();
  $("ig-mask-cancel").onclick = () => painting.cancel();
  $("ig-mask-clear").onclick = clearMask;
  $("ig-zoom").onclick = () => stage.zoom();
  folder.build();
  if (!embedded) {
    review.alerts = new Alerts($("ig-alerts"));
    share.build($("ig-share"));
  }
  $("ig-note").addEventListener("input", () => (review.note = $("ig-note").value));
  gates.me = () => signed().by;
  gates.addEventListener("change", render);
  setInterval(clock, 1000);
  const fit = () => stage.fit();
  const sizes = new ResizeObserver(fit);
  for (const part of [
    $("ig-title").parentNode,
    $("ig-away"),
    $("ig-offline"),
    $("ig-notice"),
    $("ig-thumbs"),
    $("ig-bottom"),
  ])
    sizes.observe(part);
  addEventListener("resize", fit);
  gates.listen();
  render();
}

// -- showing

function render() {
  review.render();
  const { gate } = review;
  stage.gate = gate;
  $("ig-pending").textContent = gates.loaded ? `${gates.waiting} waiting` : "";
  $("ig-offline").hidden = gates.online || !gates.loaded;
  // Gradio, finding its server gone, would reload the page and with it what is painted.
  for (const id of ["ig-mask-edit", "ig-mask-save", "ig-mask-cancel"]) $(id).disabled = !gates.online;
  const { undoable, answered } = gates;
  $("ig-undo").disabled = undoable === null && answered === null;
  // A prompt that waited cannot go back; for one that was parked Undo says who has gone on.
  $("ig-undo").hidden = !gates.progress && undoable === null && answered?.mode !== "park";
  clock();
  renderStanding(gate);
  renderEmpty(gate);
  folder.render();
  if (!embedded) records.render();
  stage.prefetch();
}

/** Another gate, or none, comes to the front. @param {Gate | null} gate */
function show(gate) {
  if (painting.now && painting.now.gate.id !== gate?.id) painting.close();
  stage.unzoom();
  $("ig-title").textContent = gate?.title ?? "";
  type($("ig-note"), review.note);
  calm($("ig-stop"));
  $("ig-title").title = gate?.title ?? ""; // a long one is cut off
  $("ig-facts").textContent = gate ? `${gate.width} × ${gate.height}` : "";
  folder.show(gate);
  controls.show(gate);
  stage.show(gate);
}

function clock() {
  const gate = gates.current;
  const now = Date.now() / 1000 + gates.clock;
  // A folder's images have all waited since it was opened: that says nothing.
  const long = gate?.state === "parked" ? age : span; // nobody counts the seconds of a parked one
  const parts = gate && !gate.file ? [`waiting ${long(now - gate.created_at)}`] : [];
  if (gate?.deadline) parts.push(`${span(gate.deadline - now)} left`);
  $("ig-clock").textContent = parts.join(" · ");
  $("ig-clock").classList.toggle("ig-urgent", Boolean(gate?.deadline) && /** @type {any} */ (gate).deadline - now < 30);
}

/** Whether the gate is parked, why it is back, and where it came from if that could be several.
 *  @param {Gate | null} gate */
function renderStanding(gate) {
  const parked = gate?.state === "parked";
  $("ig-parked").hidden = !parked;
  $("ig-worker").textContent = gate?.worker && gates.workers.length > 1 ? `from ${gate.worker}` : "";
  const failed = parked && gate.reason;
  const why = [failed, gate?.waits_for, gate?.warning].filter(Boolean).join("\n");
  $("ig-notice").querySelector("p").hidden = !failed;
  const message = $("ig-notice").querySelector("pre");
  if (message.textContent !== why) message.textContent = why; // else it would scroll back
  $("ig-notice").hidden = !why;
}

/** @param {Gate | null} gate */
function renderEmpty(gate) {
  $("ig-empty").hidden = gate !== null;
  if (gate) return;
  const [head, text] = $("ig-empty").children;
  const session = gates.progress;
  if (!gates.loaded) [head.textContent, text.textContent] = ["Connecting …", ""];
  else if (gates.reading) [head.textContent, text.textContent] = ["Reading more …", ""];
  else if (session?.ended)
    [head.textContent, text.textContent] = [
      "The session has ended.",
      `Everything decided so far is in ${session.out}.`,
    ];
  else if (session?.away) [head.textContent, text.textContent] = ["Waiting for the folder.", session.away];
  else if (session?.scanning) [head.textContent, text.textContent] = ["Reading the folder …", session.folder];
  else if (session && session.total === session.unreadable_count)
    [head.textContent, text.textContent] = [
      "Nothing here can be shown.",
      `“${session.unreadable_count} not shown: why?” at the top says what is missing.`,
    ];
  else if (session)
    [head.textContent, text.textContent] = [
      "All done.",
      `Everything is sorted into ${session.out}. Undo still works; Ctrl+C in the terminal ends the session.`,
    ];
  else
    [head.textContent, text.textContent] = [
      "Nothing waits for you.",
      "Queue a prompt with an Image Gate in ComfyUI; its image will appear here by itself.",
    ];
}

// -- deciding

function signed() {
  return { by: $("ig-name").value.trim(), note: $("ig-note").value.trim() };
}

function stop() {
  const { gate } = review;
  if (!gate || !sure($("ig-stop"), "Really stop?", () => gates.stop(gate, signed()))) return;
  const parked = gate.state === "parked";
  const what = gates.progress ? "the session" : parked ? "this gate only" : "the whole prompt";
  say({ text: `Stop ends ${what}. Click again to stop.`, tone: "busy", rank: DONE });
}

// -- zoom

/** Save an empty mask. Resolves to why it could not be saved, or "".
 *  @type {(gate: Gate, index: number) => Promise<string>} */
async function blank(gate, index) {
  const side = Math.max(1, Math.max(gate.width, gate.height) / BLANK);
  const [width, height] = [gate.width, gate.height].map((length) => Math.max(1, Math.round(length / side)));
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  context.fillRect(0, 0, width, height); // black
  const body = await /** @type {Promise<Blob | null>} */ (new Promise((done) => canvas.toBlob(done, "image/png")));
  const headers = { "content-type": "image/png" };
  const reply = await gates.fetch(gates.mask(gate, index), { method: "PUT", headers, body }).catch(() => null);
  return reply?.ok ? "" : reasonOf(reply);
}

/** While painting: start again from nothing. Else: clear what is saved. */
function clearMask() {
  if (painting.now) painting.clear();
  else if (review.gate) gates.clearMask(review.gate, stage.index);
}

// -- keys

/** @type {Record<string, () => unknown>} */
const KEYS = {
  m: () => (painting.now ? painting.save() : painting.open()),
  n: () => $("ig-skip").click(),
  u: () => $("ig-undo").click(),
  " ": () => stage.zoom(),
  arrowleft: () => stage.arrow(-1, 0),
  arrowright: () => stage.arrow(1, 0),
  arrowup: () => stage.arrow(0, -1),
  arrowdown: () => stage.arrow(0, 1),
};

/** What a key does; see `Review`. @param {string} name */
function key(name) {
  const arrow = name.startsWith("arrow");
  if (painting.now && (arrow || name === " ")) return null; // the editor's own controls
  if (arrow && !stage.zoomed && (review.gate?.batch ?? 1) === 1) return null; // scrolls the page
  return KEYS[name];
}
