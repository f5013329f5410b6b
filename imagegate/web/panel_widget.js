/** The panel inside a node: an iframe in a DOM widget, there from the first gate that waits. */
/**
 * @import { Node, WidgetHost } from "../../scripts/app.js"
 * @import { Gate } from "./gates.js"
 * @typedef {{node_id: string, workflow_id?: string}} Place
 */

import { api, app, chain, isGateNode } from "./comfy.js";
import { isOld, waiting } from "./gates.js";
import { isParked, nodesOf, placeOf, samePlace } from "./places.js";

const PANEL_TITLE = "Image Gate";
const PANEL_SIZE = { width: 520, height: 540, minHeight: 420 };

/** The panels shown so far. @type {WeakMap<Node, {iframe: HTMLIFrameElement, gate: Gate}>} */
const panels = new WeakMap();

const STYLE = `
.image-gate-panel { display: grid; min-height: ${PANEL_SIZE.minHeight}px; }
.image-gate-panel > * { grid-area: 1 / 1; }
.image-gate-panel > span { place-self: center; opacity: 0.6; }
.image-gate-panel > iframe { width: 100%; height: 100%; border: 0; border-radius: 8px; }
.lg-node .image-gate-panel { padding-top: 4px; box-sizing: border-box; }
/* ComfyUI's front end before 1.53 can put a widget into its page without placing it (see
   \`keepPlaced\`); it would lie over everything. No size of its own, but one: see \`keepPlaced\`. */
.dom-widget:not([style*="position"]) > .image-gate-panel {
  visibility: hidden; position: absolute; width: 1px !important; height: 1px !important;
  min-height: 0; overflow: hidden;
}
`;

/** Shows the panel in the nodes of these gates. */
export function showPanels() {
  for (const gate of waiting.values()) {
    const node = nodesOf(gate).at(-1);
    // A loop shows its own node in place of the gates that it makes.
    if (node && isGateNode(node)) showPanel(node, gate);
  }
}

/** The last answer is given: ComfyUI's own keys work again without a click beside the panel. */
export function releaseFocus() {
  const focused = document.activeElement;
  if (!waiting.size && focused instanceof HTMLIFrameElement && focused.title === PANEL_TITLE) focused.blur();
}

/** Puts the panel into the node, the first time a gate waits there, and keeps it. @type {(node: Node, gate: Gate) => void} */
function showPanel(node, gate) {
  const panel = panels.get(node);
  if (!panel) {
    if (!isOld(gate)) addPanel(node, gate);
    return;
  }
  // Two instances of one subgraph share this node: show the one that waits.
  const busy = [...waiting.values()].some(
    (other) => samePlace(other, panel.gate) && (isParked(gate) || !isParked(other)),
  );
  if (!busy && !samePlace(gate, panel.gate)) {
    panel.gate = gate;
    panel.iframe.src = panelURL(gate);
  }
}

/** The panel of one node; another workflow may have a node of that number, and gates parked there. @param {Gate} gate */
function panelURL({ node_id: node, workflow_id: workflow }) {
  const query = new URLSearchParams({ node, workflow, embed: "1", __theme: theme() });
  return api.fileURL(`/imagegate/?${query}`);
}

/** Of ComfyUI's palette, its users' own included: all front ends set `color-scheme` on the root. */
function theme() {
  const scheme = getComputedStyle(document.documentElement).colorScheme;
  const [dark, light] = [/\bdark\b/.test(scheme), /\blight\b/.test(scheme)];
  if (dark !== light) return dark ? "dark" : "light";
  return document.querySelector("html.dark-theme, body.dark-theme") ? "dark" : "light";
}

/** Gives a panel that is open the theme of the palette; Gradio reads it from the address, once. @param {HTMLIFrameElement} iframe */
function applyTheme({ contentWindow: page }) {
  if (!page) return;
  const address = new URL(page.location.href);
  if (!address.searchParams.has("__theme")) return; // nothing is loaded yet
  address.searchParams.set("__theme", theme());
  page.history.replaceState(page.history.state, "", address);
  page.document.body.classList.toggle("dark", theme() === "dark");
}

/** Keeps the panels in the theme of the palette, also while they are open. */
export function followTheme() {
  let before = theme();
  const palette = new MutationObserver(() => {
    if (theme() === before) return;
    before = theme();
    /** @type {NodeListOf<HTMLIFrameElement>} */
    const open = document.querySelectorAll(".image-gate-panel > iframe");
    open.forEach(applyTheme);
  });
  const attributes = { attributeFilter: ["class", "style"] };
  palette.observe(document.documentElement, attributes);
  palette.observe(document.body, attributes);
}

/** Whether the page has the rules for panels. */
let styled = false;

/** @type {(node: Node, gate: Gate) => void} */
function addPanel(node, gate) {
  if (!styled) document.head.append(Object.assign(document.createElement("style"), { textContent: STYLE }));
  styled = true;
  const box = document.createElement("div");
  box.className = "image-gate-panel";
  const starting = document.createElement("span"); // the first time takes some seconds
  starting.textContent = "Starting the panel …";
  const iframe = document.createElement("iframe");
  iframe.src = panelURL(gate);
  iframe.title = PANEL_TITLE;
  iframe.allow = "clipboard-write; fullscreen";
  iframe.onload = () => {
    starting.remove();
    applyTheme(iframe); // it loads anew whenever ComfyUI moves it, from the address it began with
  };
  box.append(starting, iframe);
  panels.set(node, { iframe, gate });
  const sizeBefore = [...node.size];
  // The panel is not part of the workflow: what is saved is the node as it was without it.
  chain(node, "onSerialize", (data) => (data.size = [...sizeBefore]));
  const widget = /** @type {WidgetHost} */ (node).addDOMWidget("panel", "iframe", box, {
    serialize: false, // not in the prompt
    hideOnZoom: false,
    getMinHeight: () => PANEL_SIZE.minHeight,
  });
  widget.serialize = false; // nor in the workflow
  const height = node.computeSize()[1] + PANEL_SIZE.height - PANEL_SIZE.minHeight;
  node.setSize([Math.max(node.size[0], PANEL_SIZE.width), height]);
  keepPlaced(box);
}

/**
 * Draws the canvas anew until the box stands where it belongs.
 *
 * On the canvas ComfyUI puts a widget into the page and gives it a place when the canvas is drawn.
 * Before 1.53 the drawing can come first: the widget then has no place until the next one, which may
 * be minutes away. The box has a size as soon as it is in the page, so the observer sees that.
 *
 * @param {HTMLElement} box
 */
function keepPlaced(box) {
  let drawing = false;
  const look = () => {
    drawing = false;
    if (!box.isConnected || getComputedStyle(box).visibility !== "hidden" || !box.offsetWidth) return;
    app.canvas.setDirty(true, true);
    drawing = true;
    requestAnimationFrame(look);
  };
  new ResizeObserver(() => drawing || look()).observe(box);
}

/** The panel in a tab of the browser: with all gates, or those of one place. @param {Place} [place] */
export function openPanel(place) {
  if (!place) return window.open(api.fileURL("/imagegate/"), "imagegate");
  const { node_id: node, workflow_id: workflow = "" } = place;
  const query = new URLSearchParams({ node, workflow });
  return window.open(api.fileURL(`/imagegate/?${query}`), `imagegate ${workflow} ${node}`);
}

/** The panel of a node: of the gate that waits there, or will. @param {Node} node */
export const openPanelOf = (node) =>
  openPanel([...waiting.values()].find((gate) => nodesOf(gate).at(-1) === node) ?? placeOf(node));
