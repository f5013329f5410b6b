/**
 * Image Gate in the ComfyUI front end.
 *
 * Three things, each in its own section below:
 *   outputs   only `mask` and the first `routes` outputs are shown, each under its label
 *   gates     a node whose gate waits, or is parked, is marked, said once in a toast, and shows the
 *             panel
 *   extension how ComfyUI calls the two
 *
 * Works on the canvas (front end 1.27 and later) and on Vue nodes ("Nodes 2.0").
 */
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { joinLabels, splitLabels } from "./labels.js";

const NODE_CLASS = "ImageGate";
const MAX_ROUTES = 10;
const OUTPUT = 2; // litegraph's NodeSlotType.OUTPUT
const PANEL_TITLE = "Image Gate";
const PANEL_SIZE = { width: 520, height: 540, minHeight: 420 };
const MARK_COLOR = "#f5a524";
const PARKED_COLOR = "#a99cf5"; // nothing is held up
const TOAST = 6000; // ms
const TROUBLE = 20_000; // ms; a message to be read

// ---------------------------------------------------------------------------------------------
// Outputs: the `routes` and `labels` widgets are the truth, the slots follow
// ---------------------------------------------------------------------------------------------

const widgetOf = (node, name) => node.widgets?.find((widget) => widget.name === name);

/** How many routes the widget asks for; all, where a link or a subgraph's input will tell it. */
function routesOf(node) {
  const input = node.inputs?.find((slot) => slot.widget?.name === "routes");
  if (input?.link != null) return MAX_ROUTES;
  const value = Math.trunc(Number(widgetOf(node, "routes")?.value)) || 1;
  return Math.min(Math.max(value, 1), MAX_ROUTES);
}

/** The labels as written, trimmed; the Python side splits them in the same way. */
const labelsOf = (node) => splitLabels(String(widgetOf(node, "labels")?.value ?? ""));

/** What output `slot` is called: its label, or its number where it has none. */
const labelOf = (node, slot) => labelsOf(node)[slot - 1] || String(slot);

/** Names one route, and leaves the labels of all others as they are. */
function setLabel(node, slot, text) {
  const widget = widgetOf(node, "labels");
  if (!widget) return;
  const labels = labelsOf(node);
  while (labels.length < slot) labels.push("");
  const label = String(text ?? "").replace(/\s+/g, " ").trim();
  labels[slot - 1] = label === String(slot) ? "" : label; // its own number is no name
  while (labels.length && !labels.at(-1)) labels.pop();
  app.canvas?.emitBeforeChange(); // one step of undo, and what makes ComfyUI keep a draft
  widget.value = joinLabels(labels);
  widget.callback?.(widget.value);
  app.canvas?.emitAfterChange();
}

/**
 * Makes `slot.label` a view of the widget. The built-in "Rename Slot" assigns `slot.label` and
 * tells nobody, so the setter is the one place that sees every rename.
 */
function bindLabel(node, slot, index) {
  Object.defineProperty(slot, "label", {
    configurable: true,
    enumerable: true, // it stays part of the saved workflow
    get: () => labelOf(node, index),
    set: (text) => text !== labelOf(node, index) && setLabel(node, index, text),
  });
}

const isConnected = (slot) => slot.links?.length > 0 || slot._floatingLinks?.size > 0;

function growOutputs(node, count) {
  for (let index = node.outputs.length; index < count; index++)
    bindLabel(node, node.addOutput(`route_${index}`, "IMAGE"), index);
}

/** Shows `mask` and the first `routes` outputs. Removing a connected one would drop its link. */
function syncOutputs(node) {
  const tight = node.size[1] <= node.computeSize()[1];
  const count = 1 + routesOf(node);
  while (node.outputs.length > count && !isConnected(node.outputs.at(-1)))
    node.removeOutput(node.outputs.length - 1);
  growOutputs(node, count);
  node.outputs.forEach((slot, index) => index && bindLabel(node, slot, index));
  if (tight) node.setSize([node.size[0], node.computeSize()[1]]);
  redraw(node);
}

function redraw(node) {
  // Vue nodes redraw a slot's label only when told; without Vue nodes nobody listens.
  node.graph?.trigger?.("node:slot-label:changed", { nodeId: node.id, slotType: OUTPUT });
  app.canvas?.setDirty(true, true);
}

async function askLabel(node, slot) {
  const text = await app.extensionManager.dialog.prompt({
    title: `Route ${slot}`,
    message: "Label of this route",
    defaultValue: labelsOf(node)[slot - 1] ?? "",
  });
  if (text !== null) setLabel(node, slot, text);
}

/** Runs `after` behind `object[name]`, whoever defined it. */
function chain(object, name, after) {
  const before = object[name];
  object[name] = function (...args) {
    const result = before?.apply(this, args);
    after.apply(this, args);
    return result;
  };
}

/** Sets one Image Gate node up. Everything hangs on the node, nothing on the shared classes. */
function setUpNode(node) {
  for (const name of ["routes", "labels"]) {
    const widget = widgetOf(node, name);
    if (widget) chain(widget, "callback", () => syncOutputs(node));
  }
  // ComfyUI brings all eleven outputs back whenever it creates a node or loads one.
  chain(node, "onConfigure", () => syncOutputs(node));
  chain(node, "onOutputDblClick", (slot) => slot > 0 && askLabel(node, slot));
  chain(node, "onConnectionsChange", (type, _slot, connected) => {
    // Later, because moving a link first takes it off: its output must still be there.
    if (type !== OUTPUT || !connected) queueMicrotask(() => node.graph && syncOutputs(node));
  });
  const { connect } = node;
  node.connect = function (slot, ...rest) {
    // Pasted and API workflows may wire a route beyond `routes`; its link must not be lost.
    if (Number.isInteger(slot) && slot <= MAX_ROUTES) growOutputs(node, slot + 1);
    return connect.call(this, slot, ...rest);
  };
  chain(node, "onSerialize", (data) => {
    // The panel is not part of the workflow: what is saved is the node as it was without it.
    const panel = panels.get(node);
    if (panel) data.size = [...panel.sizeBefore];
  });
  syncOutputs(node);
  node.setSize([node.size[0], node.computeSize()[1]]);
}

/** Vue nodes know no double click on an output; their slots are plain elements. */
function onDoubleClick(event) {
  const element = event.target.closest?.(".lg-slot--output");
  const id = element?.closest("[data-node-id]")?.dataset.nodeId;
  const node = id && app.canvas.graph?.getNodeById(id);
  if (node?.comfyClass !== NODE_CLASS) return;
  const slots = [...element.closest("[data-node-id]").querySelectorAll(".lg-slot--output")];
  const slot = slots.indexOf(element);
  if (slot > 0) askLabel(node, slot);
}

// ---------------------------------------------------------------------------------------------
// Gates: what waits, where it is shown
// ---------------------------------------------------------------------------------------------

/** Gates waiting for a person, by id. */
const waiting = new Map();
/** Gates that are over, by the version they ended with: a slow answer of the server does not bring
 *  one back, and one that waits again is not missed. */
const over = new Map();
/** Gates not yet said in a toast. */
const unsaid = new Set();
/** Parked gates that were there when the page came: they do not push their panel into a node. */
const old = new Set();
/** The toast about parked gates while it is shown: {message, ids, until}. */
let parkedToast = null;
/** The panels shown so far: node -> {iframe, gate, sizeBefore}. */
const panels = new WeakMap();
/** Numbers of gates behind a node, the subgraph nodes around it included: {waiting, parked}. */
let marks = new Map();
/** Nodes that can draw their mark. */
const decorated = new WeakSet();

const isParked = (gate) => gate.state === "parked";

/** The nodes from the root graph down to `"4:2"`; empty where this workflow has no such node. */
function nodesOf(gate) {
  const path = [];
  let graph = app.rootGraph ?? app.graph;
  // What waits without naming a workflow was just queued; what is parked may be days old.
  const known = gate.workflow_id && graph?.id;
  if (known ? gate.workflow_id !== graph.id : isParked(gate)) return [];
  for (const id of String(gate.node_id).split(":")) {
    const node = graph?.getNodeById(id);
    if (!node) return [];
    path.push(node);
    graph = node.subgraph;
  }
  const other = isParked(gate) && path.at(-1).comfyClass !== NODE_CLASS; // changed since then
  return other ? [] : path;
}

function published(gate) {
  const known = waiting.get(gate.id);
  if (known && known.version >= gate.version) return;
  waiting.set(gate.id, gate);
  if (!known) {
    if (!unsaid.size) setTimeout(sayOnce, 250); // the items of a list arrive together
    unsaid.add(gate.id);
  }
  showGates();
}

/** It waits again: its answer was taken back, or it was put back because it could not go on. */
function again(gate) {
  over.delete(gate.id);
  published(gate);
  if (!isParked(gate)) return;
  unsaid.delete(gate.id);
  if (gate.reason) sayTrouble(gate);
}

function ended(gate) {
  over.set(gate.id, gate.version);
  old.delete(gate.id);
  if (!waiting.delete(gate.id)) return;
  showGates();
  // The answer is given: ComfyUI's own keys shall work again without a click beside the panel.
  const focused = document.activeElement;
  if (!waiting.size && focused?.title === PANEL_TITLE) focused.blur();
}

/** One toast for all gates that came together. */
function sayOnce() {
  const gates = [...unsaid].map((id) => waiting.get(id)).filter(Boolean);
  unsaid.clear();
  const here = gates.filter((gate) => !isParked(gate));
  if (here.length) {
    const many = `${here.length} images wait for you`;
    say(here.length === 1 ? "An image waits for you" : many, about(here[0]));
  }
  const parked = gates.filter(isParked);
  if (parked.length) sayParked(parked);
}

/** A hundred prompts that park one after the other have one toast, which counts. */
function sayParked(gates) {
  const shown = parkedToast && performance.now() < parkedToast.until ? parkedToast : null;
  const ids = new Set([...(shown?.ids ?? []), ...gates.map((gate) => gate.id)]);
  if (shown) app.extensionManager.toast.remove?.(shown.message);
  const many = `${ids.size} images are parked, waiting for you`;
  const message = say(ids.size === 1 ? "An image is parked, waiting for you" : many, about(gates[0]));
  parkedToast = { message, ids, until: performance.now() + TOAST };
}

function sayTrouble(gate) {
  const detail = gate.reason.length > 300 ? `${gate.reason.slice(0, 300)} …` : gate.reason;
  say(`${gate.title || "Image Gate"} could not go on`, detail, "warn", TROUBLE);
}

const about = ({ title, labels = [] }) => `${title || "Image Gate"} · ${labels.join(" / ")}`;

function say(summary, detail, severity = "info", life = TOAST) {
  const message = { severity, summary, detail, life };
  app.extensionManager.toast.add(message);
  return message;
}

/** Asks the server what waits: after a reload, and when the connection was lost. */
async function restore() {
  const known = [...waiting.keys()];
  try {
    const response = await fetch(api.fileURL("/imagegate/notices"), { cache: "no-store" });
    if (!response.ok) throw new Error(`${response.status} ${response.statusText}`);
    const gates = (await response.json()).waiting;
    const still = new Set(gates.map((gate) => gate.id));
    known.filter((id) => !still.has(id)).forEach((id) => waiting.delete(id));
    const open = gates.filter((gate) => gate.version > (over.get(gate.id) ?? -1));
    open.filter((gate) => isParked(gate) && !waiting.has(gate.id)).forEach(({ id }) => old.add(id));
    open.forEach(published);
    showGates();
  } catch (error) {
    console.warn("Image Gate: cannot ask what waits.", error);
  }
}

function showGates() {
  marks = new Map();
  for (const gate of waiting.values()) {
    const path = nodesOf(gate);
    for (const node of path) {
      const mark = marks.get(node) ?? { waiting: 0, parked: 0 };
      mark[isParked(gate) ? "parked" : "waiting"] += 1;
      marks.set(node, mark);
      decorate(node);
    }
    // A loop shows its own node in place of the gates that it makes.
    if (path.at(-1)?.comfyClass === NODE_CLASS) showPanel(path.at(-1), gate);
  }
  markVueNodes();
  app.canvas?.setDirty(true, true);
}

function markText({ waiting, parked }) {
  if (!waiting) return parked > 1 ? `${parked} parked, waiting for you` : "parked, waiting for you";
  const also = parked ? ` · ${parked} parked` : "";
  return (waiting > 1 ? `${waiting} waiting for you` : "waiting for you") + also;
}

const markColor = ({ waiting }) => (waiting ? MARK_COLOR : PARKED_COLOR);

/** Canvas: a border and a small flag, drawn only, so that nothing of it is saved. */
function decorate(node) {
  if (decorated.has(node)) return;
  decorated.add(node);
  // In place of the green border of a running node: nothing runs here, a person is waited for.
  const { running } = node.strokeStyles;
  node.strokeStyles.running = function () {
    const mark = marks.get(node);
    // What is parked holds nothing up: the next prompt may be running through this node.
    const runs = mark?.waiting ? null : running?.call(this);
    return runs || !mark ? runs : { color: markColor(mark), lineWidth: 3 };
  };
  chain(node, "onDrawForeground", (ctx) => {
    const mark = marks.get(node);
    if (mark) drawFlag(ctx, markText(mark), markColor(mark));
  });
}

function drawFlag(ctx, text, color) {
  ctx.save();
  ctx.font = "bold 12px sans-serif";
  const width = ctx.measureText(text).width + 16;
  const top = -LiteGraph.NODE_TITLE_HEIGHT - 31;
  ctx.fillStyle = color;
  ctx.beginPath();
  ctx.roundRect(0, top, width, 20, 10);
  ctx.fill();
  ctx.fillStyle = "#1a1205";
  ctx.textAlign = "left";
  ctx.textBaseline = "middle";
  ctx.fillText(text, 8, top + 10.5);
  ctx.restore();
}

/** Vue nodes: rules in one style sheet, because the elements come and go as Vue likes. */
function markVueNodes() {
  const sheet = (markVueNodes.sheet ??= document.head.appendChild(document.createElement("style")));
  const shown = [...marks].filter(([node]) => node.graph === app.canvas?.graph);
  const rules = shown.map(([node, mark]) => {
    const color = markColor(mark);
    const element = `.lg-node[data-node-id="${CSS.escape(String(node.id))}"]`;
    return `${element}::after { content: "${markText(mark)}"; }
      ${element}::before { content: ""; }
      ${element}::before { position: absolute; inset: -6px; border: 3px solid ${color};
        border-radius: 20px; pointer-events: none; }
      ${element}::after { position: absolute; left: 0; top: -32px; padding: 2px 9px;
        border-radius: 10px; background: ${color}; color: #1a1205; font-weight: bold; }`;
  });
  sheet.textContent = rules.join("\n");
}

/** Puts the panel into the node, the first time a gate waits there, and keeps it. */
function showPanel(node, gate) {
  const panel = panels.get(node);
  if (!panel) {
    if (!old.has(gate.id)) addPanel(node, gate);
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

const samePlace = (one, other) =>
  String(one.node_id) === String(other.node_id) && one.workflow_id === other.workflow_id;

/** The panel of one node; another workflow may have a node of that number, and gates parked there. */
function panelURL({ node_id: node, workflow_id: workflow }) {
  const dark = document.querySelector("html.dark-theme, body.dark-theme");
  const query = new URLSearchParams({ node, workflow, embed: 1, __theme: dark ? "dark" : "light" });
  return api.fileURL(`/imagegate/?${query}`);
}

function addPanel(node, gate) {
  const box = document.createElement("div");
  Object.assign(box.style, { display: "grid", minHeight: `${PANEL_SIZE.minHeight}px` });
  const starting = document.createElement("span"); // the first time takes some seconds
  starting.textContent = "Starting the panel …";
  Object.assign(starting.style, { gridArea: "1 / 1", placeSelf: "center", opacity: "0.6" });
  const iframe = document.createElement("iframe");
  iframe.src = panelURL(gate);
  iframe.title = PANEL_TITLE;
  iframe.allow = "clipboard-write; fullscreen";
  iframe.onload = () => starting.remove();
  Object.assign(iframe.style, { gridArea: "1 / 1", border: "0", borderRadius: "8px" });
  Object.assign(iframe.style, { width: "100%", height: "100%" });
  box.append(starting, iframe);
  panels.set(node, { iframe, gate, sizeBefore: [...node.size] });
  const widget = node.addDOMWidget("panel", "iframe", box, {
    serialize: false, // not in the prompt
    hideOnZoom: false,
    getMinHeight: () => PANEL_SIZE.minHeight,
  });
  widget.serialize = false; // nor in the workflow
  const height = node.computeSize()[1] + PANEL_SIZE.height - PANEL_SIZE.minHeight;
  node.setSize([Math.max(node.size[0], PANEL_SIZE.width), height]);
}

const openPanel = () => window.open(api.fileURL("/imagegate/"), "imagegate");

// ---------------------------------------------------------------------------------------------
// Extension
// ---------------------------------------------------------------------------------------------

const MENU_ITEM = { content: "Open panel", callback: openPanel };

app.registerExtension({
  name: "ImageGate",

  beforeRegisterNodeDef(nodeType, nodeData) {
    // Front ends without the menu hook below (before 1.29) ask the node itself.
    if (nodeData.name !== NODE_CLASS || app.collectNodeMenuItems) return;
    chain(nodeType.prototype, "getExtraMenuOptions", (_, options) => options.unshift(MENU_ITEM));
  },

  getNodeMenuItems: (node) => (node.comfyClass === NODE_CLASS ? [MENU_ITEM] : []),

  nodeCreated(node) {
    if (node.comfyClass === NODE_CLASS) setUpNode(node);
  },

  // Loading, undo and switching workflows make new node objects.
  afterConfigureGraph: showGates,

  async setup() {
    api.addEventListener("imagegate.published", ({ detail }) => {
      if (detail.version > 1) again(detail);
      else published(detail);
    });
    api.addEventListener("imagegate.decided", ({ detail }) => ended(detail));
    api.addEventListener("imagegate.withdrawn", ({ detail }) => ended(detail));
    api.addEventListener("reconnected", restore);
    app.canvas.canvas.addEventListener("litegraph:set-graph", markVueNodes);
    document.addEventListener("dblclick", onDoubleClick);
    await restore();
  },
});
