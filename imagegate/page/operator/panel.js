/**
 * The panel's page: shows the gate in front, takes clicks and keys. What it knows comes from
 * `OperatorGates`; the mask editor is Gradio's, see `Painting`, and what is past is shown by `Records`.
 *
 * All texts that people wrote (titles, labels, notes, names) enter the page as text, never as HTML.
 */

import { Controls, drawn, type } from "./controls.js";
import { FolderView } from "./folder_view.js";
import { OperatorGates } from "./operator_gates.js";
import { Painting } from "./painting.js";
import { Records } from "./records.js";
import { Share } from "./share/share.js";
import { Stage } from "./stage.js";
import { Alerts } from "../shared/alerts.js";
import { Hold } from "../shared/hold.js";
import { $, age, calm, say, span, sure } from "../shared/parts.js";
import { reason as reasonOf } from "../shared/sender.js";
import { DONE } from "../shared/status.js";

const ACTS = "#ig-stage, #ig-thumbs, #ig-routes, #ig-tools"; // on the gate in front
const RHYTHM = 200; // ms in which a page may be busy with a click
const BLANK = 1536; // px, the longest side of an empty mask
const ROOMY = 700; // px of width from which on the history begins open

let own, embedded; // whether all of the page is the panel; whether it is the compact one
let gates, painting, records, folder, share, stage, controls, alerts, hold;

/** What this page shows beside the gates themselves. */
const view = {
  gate: null,
  version: -1,
  online: false,
  notes: new Map(), // gate id -> what is written but not sent
  noted: "", // the gate that the note on show is about
};

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
  gates = new OperatorGates(base, given.node || (query.get("node") ?? ""), given.workflow || (query.get("workflow") ?? ""));
  await drawn();
  build();
}

function build() {
  document.body.classList.toggle("ig-embed", embedded);
  painting = new Painting({
    looking: () => stage,
    begins: () => stage.unzoom(),
    ends: () => view.gate && stage.showMask(view.gate),
    fit: () => stage.fit(),
    blank,
  });
  records = new Records(gates, embedded, undo);
  folder = new FolderView(gates);
  share = new Share(gates);
  controls = new Controls(embedded || innerWidth <= ROOMY, decide);
  hold = new Hold(gates, ACTS, () => share.open);
  stage = new Stage({ gates, folder, hold, painting, embedded });

  $("ig-skip").onclick = () => painting.leave() && gates.skip();
  $("ig-undo").onclick = () => undo();
  $("ig-stop").onclick = stop;
  $("ig-mask-edit").onclick = () => painting.open();
  $("ig-mask-save").onclick = () => painting.save();
  $("ig-mask-cancel").onclick = () => painting.cancel();
  $("ig-mask-clear").onclick = clearMask;
  $("ig-zoom").onclick = () => stage.zoom();
  folder.build();
  document.addEventListener("keydown", key);
  addEventListener("beforeunload", (event) => {
    if (gates.unsent) event.preventDefault(); // an answer is still on its way
  });

  if (!embedded) {
    alerts = new Alerts($("ig-alerts"));
    share.build($("ig-share"));
  }
  gates.me = () => signed().by;
  gates.addEventListener("change", render);
  gates.addEventListener("said", (event) => say(event.detail));
  gates.addEventListener("answered", (event) => view.notes.delete(event.detail.id)); // it went along
  setInterval(clock, 1000);
  const fit = () => stage.fit();
  const sizes = new ResizeObserver(fit);
  for (const part of [$("ig-title").parentNode, $("ig-away"), $("ig-offline"), $("ig-notice"), $("ig-thumbs"), $("ig-bottom")]) sizes.observe(part);
  addEventListener("resize", fit);
  gates.listen();
  render();
}

// -- showing

function render() {
  const gate = gates.current;
  if (gate?.id !== view.gate?.id) show(gate);
  else if (gate && gate.version !== view.version && !painting.now) stage.showMask(gate);
  view.gate = stage.gate = gate;
  view.version = gate?.version ?? -1;
  document.body.classList.toggle("ig-idle", gate === null);
  const count = gates.waiting;
  $("ig-pending").textContent = gates.loaded ? `${count} waiting` : "";
  alerts?.count(gates.fresh ? count : null, gates.newest?.title);
  if (own) document.title = count ? `(${count}) Image Gate` : "Image Gate";
  $("ig-offline").hidden = gates.online || !gates.loaded;
  if (gates.online && !view.online) stage.retry();
  view.online = gates.online;
  // Gradio, finding its server gone, would reload the page and with it what is painted.
  for (const id of ["ig-mask-edit", "ig-mask-save", "ig-mask-cancel"]) $(id).disabled = !gates.online;
  const { undoable, answered } = gates;
  $("ig-undo").disabled = undoable === null && answered === null;
  // A prompt that waited cannot go back; for one that was parked Undo says who has gone on.
  $("ig-undo").hidden = !gates.progress && undoable === null && answered?.mode !== "park";
  $("ig-skip").disabled = gates.queue.length + gates.skipped.length < 2;
  clock();
  renderStanding(gate);
  renderEmpty(gate);
  folder.render();
  if (!embedded) records.render();
  stage.prefetch();
}

/** Another gate, or none, comes to the front. */
function show(gate) {
  if (painting.now && painting.now.gate.id !== gate?.id) painting.close();
  view.gate = gate;
  hold.changed(gate, gates.cause);
  stage.unzoom();
  $("ig-title").textContent = gate?.title ?? "";
  keepNote(gate);
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
  $("ig-clock").classList.toggle("ig-urgent", Boolean(gate?.deadline) && gate.deadline - now < 30);
}

/** Whether the gate is parked, why it is back, and where it came from if that could be several. */
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

function renderEmpty(gate) {
  $("ig-empty").hidden = gate !== null;
  if (gate) return;
  const [head, text] = $("ig-empty").children;
  const session = gates.progress;
  if (!gates.loaded) [head.textContent, text.textContent] = ["Connecting …", ""];
  else if (gates.reading) [head.textContent, text.textContent] = ["Reading more …", ""];
  else if (session?.ended) [head.textContent, text.textContent] = ["The session has ended.", `Everything decided so far is in ${session.out}.`];
  else if (session?.away) [head.textContent, text.textContent] = ["Waiting for the folder.", session.away];
  else if (session?.scanning) [head.textContent, text.textContent] = ["Reading the folder …", session.folder];
  else if (session && session.total === session.unreadable_count) [head.textContent, text.textContent] = ["Nothing here can be shown.", `“${session.unreadable_count} not shown: why?” at the top says what is missing.`];
  else if (session) [head.textContent, text.textContent] = ["All done.", `Everything is sorted into ${session.out}. Undo still works; Ctrl+C in the terminal ends the session.`];
  else [head.textContent, text.textContent] = ["Nothing waits for you.", "Queue a prompt with an Image Gate in ComfyUI; its image will appear here by itself."];
}

// -- deciding

/** A note waits with its gate while another one is on show. */
function keepNote(gate) {
  const note = $("ig-note").value;
  if (note) view.notes.set(view.noted, note);
  else view.notes.delete(view.noted);
  view.noted = gate?.id ?? "";
  type($("ig-note"), view.notes.get(view.noted) ?? "");
}

function signed() {
  return { by: $("ig-name").value.trim(), note: $("ig-note").value.trim() };
}

/** Decide the gate that the press was meant for, with the mask that is being painted. */
async function decide(gate, route, event) {
  if (gate.id !== view.gate?.id || !hold.takes(event, route, gates.label(gate, route))) return;
  const words = signed();
  if (painting.now && !(await painting.save())) return;
  if (gate.id !== view.gate?.id) return;
  const busy = performance.now() - event.timeStamp;
  gates.decide(gate, route, words);
  // Counted from the click itself: a page that was busy does not lose the next one of a rhythm.
  if (busy < RHYTHM) hold.began(event.timeStamp);
}

/** Undo brings another gate to the front, which would throw away what is being painted. */
function undo(gate) {
  if (painting.leave()) gates.undo(gate);
}

function stop() {
  const { gate } = view;
  if (!gate || !sure($("ig-stop"), "Really stop?", () => gates.stop(gate, signed()))) return;
  const parked = gate.state === "parked";
  const what = gates.progress ? "the session" : parked ? "this gate only" : "the whole prompt";
  say({ text: `Stop ends ${what}. Click again to stop.`, tone: "busy", rank: DONE });
}

// -- zoom

/** Save an empty mask. Resolves to why it could not be saved, or "". */
async function blank(gate, index) {
  const side = Math.max(1, Math.max(gate.width, gate.height) / BLANK);
  const [width, height] = [gate.width, gate.height].map((length) => Math.max(1, Math.round(length / side)));
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d");
  context.fillRect(0, 0, width, height); // black
  const body = await new Promise((done) => canvas.toBlob(done, "image/png"));
  const headers = { "content-type": "image/png" };
  const reply = await gates.fetch(gates.mask(gate, index), { method: "PUT", headers, body }).catch(() => null);
  return reply?.ok ? "" : reasonOf(reply);
}

/** While painting: start again from nothing. Else: clear what is saved. */
function clearMask() {
  if (painting.now) painting.clear();
  else if (view.gate) gates.clearMask(view.gate, stage.index);
}

// -- keys

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

function key(event) {
  if (!event.key) return; // a browser that fills in a field
  if (share.open) return; // its own keys, and no gate in sight
  const typing = event.target.closest?.("input:not([type=range]), textarea, select, [contenteditable]");
  if (typing && event.key === "Escape") event.target.blur(); // back to the keys
  const arrows = event.key.startsWith("Arrow");
  if (typing || event.ctrlKey || event.metaKey || event.altKey || (event.repeat && !arrows)) return;
  if (painting.now && (arrows || event.key === " ")) return; // the editor's own controls
  if (arrows && !stage.zoomed && (view.gate?.batch ?? 1) === 1) return; // scrolls the page
  const route = /^[0-9]$/.test(event.key) ? Number(event.key) || 10 : 0;
  const act = route ? () => decide(view.gate, route, event) : KEYS[event.key.toLowerCase()];
  if (!act || route > (view.gate?.labels.length ?? 0)) return;
  event.preventDefault(); // Space would scroll, or press the button that has the focus
  act();
}
