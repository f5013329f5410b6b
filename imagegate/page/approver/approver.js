/**
 * The approver's page: shows the gate in front, takes taps and keys. What it knows comes from
 * `ApproverGates`, the images from `Pictures`, and `Look` shows them; a mask is painted in `Mask`.
 *
 * All texts that people wrote (titles, labels, notes, names) enter the page as text, never as HTML.
 *
 * @import { Gate, Message } from "../shared/queue/rest.js"
 */

import { Alerts } from "../shared/alerts.js";
import { $, element, routeText, say, span } from "../shared/parts.js";
import { Review } from "../shared/review.js";
import { ApproverGates } from "./approver_gates.js";
import { Look } from "./look.js";
import { Mask } from "./mask.js";
import { Past } from "./past.js";

const ACTS = "#ig-stage, #ig-thumbs, #ig-routes, #ig-tools, #ig-paint"; // on the gate in front
const PAN = 80; // px an arrow key moves a zoomed image
const FADES = 5000; // ms after which a sentence makes room for the image
const URGENT = 30; // s
const SHORT = 8; // characters of a label that has room in a third of a phone
const AGAIN = 2000; // ms between attempts to begin
/** @type {Record<"look" | "decide" | "mask", string[]>} */
const ALLOWS = { look: [], decide: ["decide"], mask: ["decide", "mask"] };
const AFRESH = "To come back, open your link again or ask for a new one.";
const OVER = "This page was left, or the link is no longer valid.";
const UNSENT = "The answer that was on its way may not have been recorded.";

const gates = new ApproverGates(new URL("../../", import.meta.url), "", "");

/** What this page shows beside the gates themselves. */
const view = { saidAt: 0, wide: innerWidth };
/** @type {Look} */
let look;
/** @type {Mask | null} */
let mask = null;
/** @type {Past} */
let past;
/** @type {Review} */
let review;

// -- building

async function begin() {
  gates.addEventListener("over", goDark);
  while (!gates.over) {
    try {
      await gates.open();
      break;
    } catch {
      if (gates.over) return;
      $("ig-wait").textContent = "No connection. Trying again …";
      await new Promise((wake) => setTimeout(wake, AGAIN));
    }
  }
  build();
}

/**
 * The page of a link, in which nothing is that the link does not allow.
 *
 * @param {DocumentFragment} whole the page for a link that allows everything
 * @param {"look" | "decide" | "mask"} may what the link allows
 */
function layout(whole, may) {
  const page = /** @type {DocumentFragment} */ (whole.cloneNode(true));
  for (const part of page.querySelectorAll("[data-needs]")) {
    if (!ALLOWS[may].includes(part.getAttribute("data-needs") ?? "")) part.remove();
  }
  if (may !== "look") return page;
  for (const [part, text] of [
    ["#ig-skip span", "Next"],
    ["#ig-next", "next"],
  ]) {
    const named = page.querySelector(part);
    if (named) named.textContent = text;
  }
  return page;
}

function build() {
  const { may } = gates.person;
  document.body.replaceChildren(layout($("ig-page").content, may));
  document.body.dataset.may = may;
  review = new Review(gates, {
    area: ACTS,
    busy: () => gates.over || $("ig-past").open,
    show,
    update: (gate) => look.update(gate),
    again: () => look.again(), // what failed without a connection
    words: () => ({ note: $("ig-note").value.trim() }),
    decides: (gate) => past.picture(gate, $("ig-image")),
    act: key,
    say: tell,
  });
  const { hold } = review;
  look = new Look(gates, () => review.leaves());
  for (const kind of /** @type {const} */ (["loading", "drawn", "failed"])) {
    look.addEventListener(kind, () => hold[kind]());
  }
  mask = may === "mask" ? new Mask(gates, look) : null;
  review.painter = mask;
  review.alerts = new Alerts($("ig-alerts"));
  past = new Past(gates, (gate) => review.undo(gate));

  $("ig-skip").onclick = () => review.skip();
  if (may !== "look") {
    $("ig-undo").onclick = () => review.undo();
    $("ig-note-open").onclick = () => showWords($("ig-words").hidden, true);
    $("ig-note").oninput = keepNote;
    $("ig-note").onkeydown = (/** @type {any} */ event) => void (event.key === "Enter" && event.target.blur());
  }
  document.addEventListener("keydown", undoStroke);
  gates.addEventListener("change", render);
  look.addEventListener("said", (event) => tell(/** @type {CustomEvent} */ (event).detail));
  $("ig-status").addEventListener("said", told);
  mask?.addEventListener("said", (event) => tell(/** @type {CustomEvent} */ (event).detail));
  mask?.addEventListener("change", render);
  setInterval(clock, 1000);
  visualViewport?.addEventListener("resize", fit);
  fit();
  render();
}

/** The keyboard of a phone takes its room from the image, not from the buttons. */
function fit() {
  if (visualViewport?.scale !== 1) return;
  document.documentElement.style.setProperty("--ig-height", `${visualViewport.height}px`);
  scrollTo(0, 0);
  if (view.wide !== innerWidth) arrange(); // not for a keyboard: whoever has scrolled stays there
  view.wide = innerWidth;
}

// -- showing

function render() {
  if (gates.over) return;
  const another = review.render();
  const { current: gate, waiting, loaded, online, unsent } = gates;
  document.body.classList.toggle("ig-painting", Boolean(mask?.now));
  if (another) arrange(); // now that they are in sight
  $("ig-pending").textContent = !loaded ? "" : waiting ? `${waiting} left` : "none left";
  $("ig-offline").hidden = online || !loaded;
  $("ig-offline").textContent = unsent
    ? `Connection lost. ${unsent === 1 ? "Your answer is" : `${unsent} answers are`} kept here and sent as soon as it is back. Keep this page open.`
    : "Connection lost. Trying again …";
  if ($("ig-undo")) $("ig-undo").disabled = gates.undoable === null;
  clock();
  renderEmpty(gate);
  renderProgress();
  past.render();
  look.ahead();
}

/** Another gate, or none, comes to the front. @param {Gate | null} gate */
function show(gate) {
  if (mask?.now && mask.now.gate.id !== gate?.id) mask.close();
  const focused = document.activeElement?.closest("#ig-routes button")?.id;
  $("ig-title").textContent = gate?.title ?? "";
  if ($("ig-note")) {
    $("ig-note").value = review.note;
    showWords(Boolean($("ig-note").value), false);
  }
  const labels = gate?.labels ?? [];
  const buttons = labels.map((label, i) => routeButton(/** @type {Gate} */ (gate), label, i + 1));
  $("ig-routes")?.replaceChildren(...buttons);
  if (focused) $(focused)?.focus({ preventScroll: true }); // whoever decides by Tab and Enter goes on from here
  look.show(gate);
}

/** Many stand in pairs, unless the end of a label, which may be all that differs, would be cut off. */
function arrange() {
  const routes = $("ig-routes");
  if (!routes) return;
  routes.dataset.many = crowd(review.gate?.labels ?? []);
  if (routes.dataset.many !== "many") return;
  /** @param {Element} text */
  const cut = (text) => text.scrollHeight > text.clientHeight + 1;
  if ([...routes.querySelectorAll("span")].some(cut)) routes.dataset.many = "long";
}

/** How the buttons stand: a few short ones side by side, long ones below each other. @param {string[]} labels */
function crowd(labels) {
  if (labels.length > 4) return "many";
  return labels.length === 3 && labels.every((label) => label.length <= SHORT) ? "row" : labels.length;
}

/** @type {(gate: Gate, label: string, route: number) => HTMLElement} */
function routeButton(gate, label, route) {
  const button = element("button", "", { id: `ig-route-${route}`, type: "button", title: label });
  const text = element("span");
  text.append(...routeText(route, label, "\u00a0·\u00a0")); // the number is never alone
  button.append(text);
  button.onclick = (event) => review.decide(gate, route, event);
  return button;
}

function clock() {
  if (gates.over) return;
  const gate = gates.current;
  const now = Date.now() / 1000 + gates.clock;
  if (gates.loaded && now >= gates.person.expires_at) {
    gates.why = "This link has expired.";
    gates.end(); // also where no server can say so
    return;
  }
  const size = gate ? `${gate.width} × ${gate.height}` : "";
  const which = gate && gate.batch > 1 ? `${look.index + 1} of ${gate.batch}` : "";
  $("ig-facts").textContent = [which, size, ...look.remarks].filter(Boolean).join(" · ");
  const left = gate?.deadline ? gate.deadline - now : null;
  $("ig-clock").textContent = left === null ? "" : `${span(left)} to decide`;
  $("ig-clock").classList.toggle("ig-urgent", left !== null && left < URGENT);
  if (view.saidAt && performance.now() - view.saidAt > FADES) {
    view.saidAt = 0;
    $("ig-status").classList.add("ig-past");
  }
}

/** Say what just happened, over the image. @param {Message} said */
function tell(said) {
  if (gates.over) return;
  say({ ...said, text: said.text.replace("….", "…") });
}

/** Another sentence is on show: it makes room after a while, unless it says what is under way. */
function told() {
  $("ig-status").classList.remove("ig-past");
  view.saidAt = $("ig-status").dataset.tone === "busy" ? 0 : performance.now();
}

/** @param {Gate | null} gate */
function renderEmpty(gate) {
  $("ig-empty").hidden = gate !== null;
  // Whoever waits wants to be told; whoever looks at an image has the sheet for it.
  const host =
    gate === null && gates.loaded && !gates.progress?.ended
      ? $("ig-empty-alerts")
      : $("ig-past").querySelector("footer");
  const toggles = $("ig-alerts");
  if (toggles.parentNode !== host) host.insertBefore(toggles, host.querySelector("#ig-leave"));
  if (gate) return;
  const [head, text] = $("ig-empty").children;
  const session = gates.progress;
  /** @type {(title: string, more: string) => void} */
  const words = (title, more) => {
    [head.textContent, text.textContent] = [title, more];
  };
  if (!gates.loaded) words("Connecting …", "");
  else if (gates.reading) words("Reading more …", "");
  else if (session?.ended) words("The session has ended.", "Thank you. There is nothing more to do here.");
  else if (session?.scanning)
    words("Nothing waits for you yet.", "Images are still being read; they appear here by themselves.");
  else if (session?.all_done) words("All done.", "Thank you. Every image is decided.");
  else words("Nothing waits for you.", "The next image appears here by itself. You can leave this page open.");
}

function renderProgress() {
  const session = gates.progress;
  $("ig-progress").hidden = !session?.total;
  if (!session?.total) return;
  $("ig-progress").max = session.total;
  $("ig-progress").value = session.done;
}

// -- deciding

/** A note waits with its gate while another one is on show. */
function keepNote() {
  review.note = $("ig-note").value;
  $("ig-note-open").classList.toggle("ig-written", Boolean(review.note));
}

/** @type {(open: boolean, focus: boolean) => void} */
function showWords(open, focus) {
  $("ig-words").hidden = !open;
  $("ig-note-open").setAttribute("aria-expanded", String(open));
  $("ig-note-open").classList.toggle("ig-written", Boolean($("ig-note").value));
  if (open && focus) $("ig-note").focus();
}

// -- keys

/** @type {Record<string, () => unknown>} */
const KEYS = {
  m: () => mask && (mask.now ? mask.save() : mask.open()),
  n: () => $("ig-skip").click(),
  u: () => $("ig-undo")?.click(),
  e: () => mask?.now && mask.erase(!mask.now.paint?.erases),
  " ": () => look.touch.toggle(),
  "+": () => look.touch.zoomBy(1.4),
  "-": () => look.touch.zoomBy(1 / 1.4),
  arrowleft: () => arrow(-1, 0),
  arrowright: () => arrow(1, 0),
  arrowup: () => arrow(0, -1),
  arrowdown: () => arrow(0, 1),
};

/** Pan what is zoomed, else go through the images of a batch. @type {(x: number, y: number) => void} */
function arrow(x, y) {
  if (look.touch.zoomed) look.touch.pan(-x * PAN, -y * PAN);
  else if (x) look.step(x);
}

/** What a key does; see `Review`. @type {(name: string, event: KeyboardEvent) => (() => unknown) | null} */
function key(name, event) {
  const target = /** @type {HTMLElement} */ (event.target);
  if (name.startsWith("arrow") && target.matches?.("[type=range]")) return null;
  if (name === "escape" && mask?.now && !mask.now.paint?.touched) mask.close();
  return review.gate || name === "u" ? KEYS[name] : null;
}

/** @param {KeyboardEvent} event */
function undoStroke(event) {
  if (!(event.ctrlKey || event.metaKey) || event.key?.toLowerCase() !== "z" || !mask?.now) return;
  if ($("ig-past").open || /** @type {Element} */ (event.target).closest?.("input:not([type=range])")) return;
  event.preventDefault();
  mask.undo();
}

// -- the end

/** What is said in place of the page. @param {string} why */
function farewell(why) {
  if (why === "left") return `You have left. ${AFRESH}`;
  const ended = why.startsWith("This link"); // its address opens nothing either
  return `${why || OVER} ${ended ? "Ask whoever sent it for a new one." : AFRESH}`;
}

/** Nothing of what was seen stays: no image, no text, no note. One sentence does. */
function goDark() {
  const unsent = gates.unsent > 0;
  mask?.close();
  look?.clear();
  review?.end();
  const sentence = element("p", farewell(gates.why), { id: "ig-over", role: "alert" });
  if (unsent) sentence.append(` ${UNSENT}`);
  document.body.removeAttribute("class");
  document.body.replaceChildren(sentence);
  document.title = "Image Gate";
}

begin();
