/**
 * The panel's page: shows the gate in front, takes clicks and keys. What it knows comes from
 * `OperatorGates`; the mask editor is Gradio's, see `Painting`, and what is past is shown by `Records`.
 *
 * All texts that people wrote (titles, labels, notes, names) enter the page as text, never as HTML.
 */

import { FolderView, PROGRESS } from "./folder_view.js";
import { OperatorGates } from "./operator_gates.js";
import { Painting } from "./painting.js";
import { Alerts } from "../shared/alerts.js";
import { Hold } from "../shared/hold.js";
import { $, age, calm, element, follow, remembered, routeText, say, span, sure } from "../shared/parts.js";
import { DONE } from "../shared/status.js";
import { Retry } from "../shared/retry.js";
import { Records } from "./records.js";
import { Share } from "./share/share.js";
import { reason as reasonOf } from "../shared/sender.js";

const AHEAD = 3; // previews kept ready
const THUMB_AGAIN = 5000; // ms after which a small picture that failed is asked for again
const PAN = 80; // px an arrow key moves a zoomed image
const ACTS = "#ig-stage, #ig-thumbs, #ig-routes, #ig-tools"; // on the gate in front
const RHYTHM = 200; // ms in which a page may be busy with a click
const BLANK = 1536; // px, the longest side of an empty mask
const ENLARGED = 4; // times at most a small image is
const NAME = "imagegate.name";

const query = new URLSearchParams(location.search);
const base = new URL("../../", import.meta.url);
const embedded = query.get("embed") === "1";
const gates = new OperatorGates(base, query.get("node") ?? "", query.get("workflow") ?? "");
const painting = new Painting({ looking: () => view, begins: unzoom, ends: () => view.gate && showMask(view.gate), fit, blank });
const records = new Records(gates, embedded, undo);
const folder = new FolderView(gates);
const share = new Share(gates);
const retry = new Retry(reload);
let alerts = null;
let hold = null;

/** What this page shows beside the gates themselves. */
const view = {
  gate: null,
  index: 0,
  version: -1,
  zoomed: false,
  ahead: [],
  online: false,
  notes: new Map(), // gate id -> what is written but not sent
  noted: "", // the gate that the note on show is about
};

// -- building

const TOP = `
  <header class="ig-head">
    <h1 id="ig-title"></h1>
    <div class="ig-about">
      <span id="ig-parked" hidden>parked</span>
      <span id="ig-worker"></span>
      <span id="ig-facts"></span>
      <span id="ig-remarks" role="note"></span>
      <span id="ig-clock" role="timer"></span>
    </div>
    <div class="ig-corner">
      ${PROGRESS}
      <span id="ig-pending"></span>
      <span id="ig-alerts" role="group" aria-label="Be told"></span>
      <div id="ig-share" hidden></div>
    </div>
  </header>
  <div id="ig-away" role="alert" hidden></div>
  <div id="ig-offline" role="alert" hidden>Connection lost. Trying again; nothing you clicked is lost.</div>
  <div id="ig-notice" role="alert" hidden>
    <p><b>It could not go on.</b> Decide again to try once more.</p>
    <pre tabindex="0" aria-label="Message"></pre>
  </div>
  <div id="ig-stage">
    <div class="ig-frame"><img id="ig-image" alt="" draggable="false"><div id="ig-mask"></div></div>
    <div id="ig-failed" role="alert" hidden><p></p><button id="ig-retry" type="button">Try again</button></div>
    <div id="ig-empty" hidden><h2></h2><p></p></div>
  </div>
  <div class="ig-strip">
    <span id="ig-which"></span>
    <div id="ig-thumbs" role="tablist" aria-label="Images of this batch"></div>
  </div>`;

const BOTTOM = `
  <div id="ig-routes" role="group" aria-label="Routes"></div>
  <div class="ig-row" id="ig-tools">
    <button id="ig-mask-edit" type="button" title="M">Paint mask</button>
    <button id="ig-mask-save" type="button" class="ig-primary" hidden>Save mask</button>
    <button id="ig-mask-cancel" type="button" hidden>Cancel</button>
    <button id="ig-mask-clear" type="button">Clear mask</button>
    <button id="ig-zoom" type="button" title="Space">Zoom</button>
    <a id="ig-full" download>Full size</a>
    <span class="ig-gap"></span>
    <button id="ig-skip" type="button" title="N">Skip</button>
    <button id="ig-undo" type="button" title="U">Undo</button>
    <button id="ig-stop" type="button">Stop</button>
  </div>
  <div class="ig-row ig-words">
    <input id="ig-note" maxlength="2000" placeholder="Note to go with the decision" aria-label="Note" autocomplete="off">
    <input id="ig-name" maxlength="100" placeholder="Your name" aria-label="Your name" autocomplete="nickname">
  </div>
  <div class="ig-said">
    <p id="ig-status" role="status" aria-live="polite"></p>
    <p class="ig-keys"><kbd>1</kbd>–<kbd>9</kbd>, <kbd>0</kbd> routes · <kbd>M</kbd> mask · <kbd>N</kbd> skip ·
      <kbd>U</kbd> undo · <kbd>Space</kbd> zoom</p>
  </div>
  <details id="ig-past"><summary>History</summary><ol id="ig-history"></ol></details>
  <div id="ig-store" hidden><span></span><ul aria-label="Who shares the store"></ul></div>`;

function build() {
  $("ig-top").innerHTML = TOP;
  $("ig-bottom").innerHTML = BOTTOM;
  document.body.classList.toggle("ig-embed", embedded);
  $("ig-name").value = remembered(NAME);
  $("ig-past").open = innerWidth > 700 && !embedded;

  $("ig-skip").onclick = () => painting.leave() && gates.skip();
  $("ig-undo").onclick = () => undo();
  $("ig-stop").onclick = stop;
  $("ig-mask-edit").onclick = () => painting.open();
  $("ig-mask-save").onclick = () => painting.save();
  $("ig-mask-cancel").onclick = () => painting.cancel();
  $("ig-mask-clear").onclick = clearMask;
  $("ig-zoom").onclick = () => zoom();
  $("ig-image").onclick = (event) => !view.dragged && zoom(event);
  $("ig-image").onload = loaded;
  $("ig-image").onerror = () => view.gate && !view.zoomed && failed("");
  $("ig-retry").onclick = () => retry.now();
  hold = new Hold(gates, ACTS, () => share.open);
  $("ig-stage").onpointerdown = drag;
  folder.build();
  $("ig-image").addEventListener("load", remark);
  $("ig-name").onchange = (event) => remembered(NAME, event.target.value.trim());
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
  else if (gate && gate.version !== view.version && !painting.now) showMask(gate);
  view.gate = gate;
  view.version = gate?.version ?? -1;
  document.body.classList.toggle("ig-idle", gate === null);
  const count = gates.waiting;
  $("ig-pending").textContent = gates.loaded ? `${count} waiting` : "";
  alerts?.count(gates.fresh ? count : null, gates.newest?.title);
  document.title = count ? `(${count}) Image Gate` : "Image Gate";
  $("ig-offline").hidden = gates.online || !gates.loaded;
  if (gates.online && !view.online) retry.now();
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
  prefetch();
}

/** Another gate, or none, comes to the front. */
function show(gate) {
  if (painting.now && painting.now.gate.id !== gate?.id) painting.close();
  const focused = document.activeElement.closest("#ig-routes button")?.id;
  Object.assign(view, { gate, index: 0 });
  hold.changed(gate, gates.cause);
  unzoom();
  $("ig-title").textContent = gate?.title ?? "";
  keepNote(gate);
  calm($("ig-stop"));
  $("ig-title").title = gate?.title ?? ""; // a long one is cut off
  $("ig-facts").textContent = gate ? `${gate.width} × ${gate.height}` : "";
  folder.show(gate);
  $("ig-routes").replaceChildren(...(gate?.labels ?? []).map((label, i) => routeButton(gate, label, i + 1)));
  $(focused)?.focus({ preventScroll: true }); // whoever decides by Tab and Enter goes on from here
  const thumbs = gate && gate.batch > 1 ? [...Array(gate.batch).keys()] : [];
  $("ig-thumbs").replaceChildren(...thumbs.map((index) => thumb(gate, index)));
  if (gate) look(painting.unsaved(gate));
  else {
    $("ig-which").textContent = "";
    $("ig-image").removeAttribute("src");
    $("ig-failed").hidden = true;
    retry.end();
  }
}

function routeButton(gate, label, route) {
  const button = element("button", "", { id: `ig-route-${route}`, type: "button", title: label });
  const text = element("span");
  text.append(...routeText(route, label));
  button.append(text);
  button.onclick = (event) => decide(gate, route, event);
  return button;
}

function thumb(gate, index) {
  const button = element("button", "", { type: "button", role: "tab", title: `Image ${index + 1}` });
  const url = gates.image(gate, index, "thumb");
  const image = element("img", "", { src: url, loading: "lazy", alt: `Image ${index + 1}` });
  image.onerror = () => setTimeout(() => image.isConnected && (image.src = url), THUMB_AGAIN);
  button.append(image);
  button.onclick = () => painting.leave() && look(index);
  return button;
}

/** Look at one image of the gate's batch. */
function look(index) {
  const { gate } = view;
  view.index = index;
  unzoom();
  const image = $("ig-image");
  image.alt = gate.batch > 1 ? `${gate.title}, image ${index + 1} of ${gate.batch}` : gate.title;
  $("ig-stage").style.setProperty("--ig-ratio", gate.width / gate.height);
  $("ig-stage").style.setProperty("--ig-most", `${gate.width * ENLARGED}px`);
  $("ig-failed").hidden = true;
  retry.end();
  hold.loading();
  image.classList.add("ig-old"); // the one before is not to be judged for it
  image.src = gates.image(gate, index);
  if (image.complete && image.naturalWidth) loaded();
  $("ig-mask").hidden = true;
  $("ig-full").href = gates.image(gate, index, "full");
  $("ig-full").download = `${(gate.file || gate.title).replace(/[^\p{L}\p{N}.-]+/gu, "_")}-${index}.png`;
  showMask(gate);
  if (gate.batch > 1) prefetch();
  painting.resume();
}

/** The image in front is here. */
function loaded() {
  if (!view.gate) return;
  $("ig-image").classList.remove("ig-old");
  $("ig-failed").hidden = true;
  retry.end();
  hold.drawn();
}

/** It is not, and is asked for again by itself. */
function failed(why) {
  hold.failed();
  retry.failed();
  $("ig-failed").hidden = false;
  $("ig-failed").querySelector("p").textContent = `The image could not be loaded${why && `: ${why}`}. Trying again …`;
}

/** Ask once more for an image that failed; the server says why, which an <img> hides. */
async function reload() {
  const { gate, index } = view;
  const url = gates.image(gate, index);
  let why = "no connection";
  try {
    const reply = await gates.fetch(url, { cache: "reload" });
    if (reply.ok) await reply.blob();
    why = reply.ok ? "" : await reasonOf(reply);
  } catch {
    // no connection
  }
  if (view.gate?.id !== gate.id || view.index !== index) return; // moved on meanwhile
  if (why) failed(why);
  else $("ig-image").src = url;
}

/** Lay the mask over the image: what was saved, or what painting would start from. */
async function showMask(gate) {
  const { index } = view;
  $("ig-which").textContent = gate.batch > 1 ? `${index + 1} / ${gate.batch}` : "";
  follow($("ig-thumbs"), index);
  [...$("ig-thumbs").children].forEach((button, i) => {
    button.setAttribute("aria-selected", String(i === index));
    button.classList.toggle("ig-masked", gate.masked.includes(i));
  });
  const overlay = $("ig-mask");
  const reply = await fetch(gates.mask(gate, index)).catch(() => null);
  const png = reply?.status === 200 ? await reply.blob() : null;
  if (view.gate?.id !== gate.id || view.index !== index) return; // moved on meanwhile
  URL.revokeObjectURL(overlay.dataset.url ?? "");
  overlay.dataset.url = png ? URL.createObjectURL(png) : "";
  overlay.style.maskImage = png ? `url(${overlay.dataset.url})` : "";
  overlay.hidden = png === null;
  $("ig-mask-clear").disabled = png === null;
}

function prefetch() {
  const { gate: front, index } = view;
  const near = [index + 1, index + 2, index - 1].filter((i) => i >= 0 && i < (front?.batch ?? 0));
  const urls = [
    ...gates.next(AHEAD).map((gate) => gates.image(gate, 0)),
    ...near.map((i) => gates.image(front, i)),
  ];
  if (String(urls) === String(view.ahead.map((image) => image.src))) return;
  view.ahead = urls.map(
    (url) => view.ahead.find((image) => image.src === url) ?? Object.assign(new Image(), { src: url }),
  );
  for (const image of view.ahead) image.decode().catch(() => {});
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

/** The image gets what the screen has left, with all that is needed to decide still in sight. */
function fit() {
  const stage = document.body.classList.contains("ig-painting") ? $("ig-editor") : $("ig-stage");
  if (!stage) return;
  const beside = $("ig-bottom").getBoundingClientRect().left >= stage.getBoundingClientRect().right;
  const last = !beside ? $("ig-status").parentNode : $("ig-thumbs").offsetHeight ? $("ig-thumbs") : stage;
  const others = last.getBoundingClientRect().bottom + scrollY - stage.offsetHeight;
  const least = Math.min(innerHeight * (embedded ? 0.38 : 0.5), 320);
  const height = `${Math.round(Math.max(least, innerHeight - others - 8))}px`;
  document.documentElement.style.setProperty("--ig-stage", height);
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

/** Say what the server has to say about the image that has just come. */
function remark() {
  const { gate, index } = view;
  folder.look(gate, index, () => view.gate?.id === gate.id && view.index === index);
}

// -- deciding

/** A note waits with its gate while another one is on show. */
function keepNote(gate) {
  const note = $("ig-note").value;
  if (note) view.notes.set(view.noted, note);
  else view.notes.delete(view.noted);
  view.noted = gate?.id ?? "";
  $("ig-note").value = view.notes.get(view.noted) ?? "";
}

function signed() {
  return { by: $("ig-name").value.trim(), note: $("ig-note").value.trim() };
}

/** Decide the gate that the button was made for, with the mask that is being painted. */
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

/** Fit, or one image pixel a screen pixel, around the point that was clicked. */
function zoom(event) {
  if (!view.gate || painting.now) return;
  if (view.zoomed) {
    unzoom();
    return;
  }
  const image = $("ig-image");
  const box = image.getBoundingClientRect();
  const at = event?.clientX ? [(event.clientX - box.x) / box.width, (event.clientY - box.y) / box.height] : [0.5, 0.5];
  view.zoomed = true;
  const stage = $("ig-stage");
  stage.classList.add("ig-zoomed");
  image.style.width = `${view.gate.width / devicePixelRatio}px`;
  stage.scrollTo(at[0] * image.offsetWidth - stage.clientWidth / 2, at[1] * image.offsetHeight - stage.clientHeight / 2);
  // The preview stays, enlarged, until every pixel is here.
  const { gate, index } = view;
  const full = Object.assign(new Image(), { src: gates.image(gate, index, folder.brighter ? "zoom" : "full") });
  say({ text: "Loading the full size …", tone: "busy" });
  full.decode().then(
    () => {
      if (!view.zoomed || view.gate?.id !== gate.id || view.index !== index) return;
      image.src = full.src;
      say({ text: `Full size, ${gate.width} × ${gate.height}.` });
    },
    () => say({ text: "The full size could not be loaded.", tone: "bad" }),
  );
}

/** Pan with the mouse; fingers and wheels scroll by themselves. */
function drag(start) {
  view.dragged = false;
  if (!view.zoomed || start.pointerType !== "mouse" || start.button !== 0) return;
  const stage = $("ig-stage");
  let [x, y] = [start.clientX, start.clientY];
  const move = (event) => {
    if (!view.dragged && Math.hypot(event.clientX - x, event.clientY - y) < 4) return;
    view.dragged = true;
    stage.scrollBy({ left: x - event.clientX, top: y - event.clientY, behavior: "instant" });
    [x, y] = [event.clientX, event.clientY];
  };
  addEventListener("pointermove", move);
  addEventListener("pointerup", () => removeEventListener("pointermove", move), { once: true });
}

function unzoom() {
  if (!view.zoomed) return;
  view.zoomed = false;
  $("ig-stage").classList.remove("ig-zoomed");
  $("ig-image").style.width = "";
}

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
  else if (view.gate) gates.clearMask(view.gate, view.index);
}

// -- keys

const KEYS = {
  m: () => (painting.now ? painting.save() : painting.open()),
  n: () => $("ig-skip").click(),
  u: () => $("ig-undo").click(),
  " ": () => zoom(),
  arrowleft: () => arrow(-1, 0),
  arrowright: () => arrow(1, 0),
  arrowup: () => arrow(0, -1),
  arrowdown: () => arrow(0, 1),
};

/** Pan what is zoomed, else go through the images of a batch. */
function arrow(x, y) {
  if (view.zoomed) return $("ig-stage").scrollBy(x * PAN, y * PAN);
  const thumb = $("ig-thumbs").children[view.index + x];
  if (x && document.activeElement.closest("#ig-thumbs")) thumb?.focus();
  if (x) thumb?.click();
}

function key(event) {
  if (!event.key) return; // a browser that fills in a field
  if (share.open) return; // its own keys, and no gate in sight
  const typing = event.target.closest?.("input:not([type=range]), textarea, select, [contenteditable]");
  if (typing && event.key === "Escape") event.target.blur(); // back to the keys
  const arrows = event.key.startsWith("Arrow");
  if (typing || event.ctrlKey || event.metaKey || event.altKey || (event.repeat && !arrows)) return;
  if (painting.now && (arrows || event.key === " ")) return; // the editor's own controls
  if (arrows && !view.zoomed && (view.gate?.batch ?? 1) === 1) return; // scrolls the page
  const route = /^[0-9]$/.test(event.key) ? Number(event.key) || 10 : 0;
  const act = route ? () => decide(view.gate, route, event) : KEYS[event.key.toLowerCase()];
  if (!act || route > (view.gate?.labels.length ?? 0)) return;
  event.preventDefault(); // Space would scroll, or press the button that has the focus
  act();
}

// Gradio draws its part when it is ready.
const ready = () => $("ig-top") && $("ig-bottom");
if (ready()) build();
else {
  const watch = new MutationObserver(() => {
    if (!ready()) return;
    watch.disconnect();
    build();
  });
  watch.observe(document.documentElement, { childList: true, subtree: true });
}
