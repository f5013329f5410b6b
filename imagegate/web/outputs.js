/**
 * A gate's outputs: only `mask` and the first `routes` outputs are shown, each under its label.
 *
 * The `routes` and `labels` widgets are the truth; the slots follow.
 */
/** @import { Node, Slot, Widget } from "../../scripts/app.js" */

import { app, chain, isGateNode, OUTPUT } from "./comfy.js";
import { joinLabels, splitLabels } from "./labels.js";

const MAX_ROUTES = 10;

/** @type {(node: Node, name: string) => Widget | undefined} */
const widgetOf = (node, name) => node.widgets?.find((widget) => widget.name === name);

/** How many routes the widget asks for; all, where a link or a subgraph's input will tell it. @param {Node} node */
function routesOf(node) {
  const input = node.inputs?.find((slot) => slot.widget?.name === "routes");
  if (input?.link != null) return MAX_ROUTES;
  const value = Math.trunc(Number(widgetOf(node, "routes")?.value)) || 1;
  return Math.min(Math.max(value, 1), MAX_ROUTES);
}

/** The labels as written, trimmed; the Python side splits them in the same way. @param {Node} node */
const labelsOf = (node) => splitLabels(String(widgetOf(node, "labels")?.value ?? ""));

/** What output `slot` is called: its label, or its number where it has none. @type {(node: Node, slot: number) => string} */
const labelOf = (node, slot) => labelsOf(node)[slot - 1] || String(slot);

/**
 * Names one route, and leaves the labels of all others as they are.
 *
 * @param {Node} node
 * @param {number} slot
 * @param {unknown} text
 */
function setLabel(node, slot, text) {
  const widget = widgetOf(node, "labels");
  if (!widget) return;
  const labels = labelsOf(node);
  while (labels.length < slot) labels.push("");
  const label = String(text ?? "")
    .replace(/\s+/g, " ")
    .trim();
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
 *
 * @param {Node} node
 * @param {Slot} slot
 * @param {number} index
 */
function bindLabel(node, slot, index) {
  Object.defineProperty(slot, "label", {
    configurable: true,
    enumerable: true, // it stays part of the saved workflow
    get: () => labelOf(node, index),
    set: (text) => text !== labelOf(node, index) && setLabel(node, index, text),
  });
}

/** @param {Slot | undefined} slot */
const isConnected = (slot) => Boolean(slot?.links?.length || slot?._floatingLinks?.size);

/** @type {(node: Node, count: number) => void} */
function growOutputs(node, count) {
  for (let index = node.outputs.length; index < count; index++)
    bindLabel(node, node.addOutput(`route_${index}`, "IMAGE"), index);
}

/** Nodes that were only just made: whoever loads an API workflow connects them next. @type {WeakSet<Node>} */
const fresh = new WeakSet();

/** Shows `mask` and the first `routes` outputs. Removing a connected one would drop its link. @param {Node} node */
function syncOutputs(node) {
  const tight = node.size[1] <= node.computeSize()[1];
  const count = 1 + routesOf(node);
  while (!fresh.has(node) && node.outputs.length > count && !isConnected(node.outputs.at(-1)))
    node.removeOutput(node.outputs.length - 1);
  growOutputs(node, count);
  for (const [index, slot] of node.outputs.entries()) if (index) bindLabel(node, slot, index);
  if (tight) node.setSize([node.size[0], node.computeSize()[1]]);
  sayUnused(node);
  redraw(node);
}

/** What this module wrote on the `labels` widget of a node. @type {WeakMap<Widget, {name?: string, written?: string}>} */
const named = new WeakMap();

/** Labels beyond `routes` stay in the widget, which says so, for when `routes` grows. @param {Node} node */
function sayUnused(node) {
  const widget = widgetOf(node, "labels");
  if (!widget) return;
  const count = labelsOf(node).slice(routesOf(node)).filter(Boolean).length;
  const before = named.get(widget);
  const name = before && widget.label === before.written ? before.name : widget.label;
  const written = count ? `${name || widget.name} · ${count} not used` : name;
  named.set(widget, { name, written });
  if (widget.label !== written) widget.label = written;
}

/** @param {Node} node */
function redraw(node) {
  // Vue nodes redraw a slot's label only when told; without Vue nodes nobody listens.
  node.graph?.trigger?.("node:slot-label:changed", { nodeId: node.id, slotType: OUTPUT });
  app.canvas?.setDirty(true, true);
}

/** @type {(node: Node, slot: number) => Promise<void>} */
async function askLabel(node, slot) {
  const text = await app.extensionManager.dialog.prompt({
    title: `Route ${slot}`,
    message: "Label of this route",
    defaultValue: labelsOf(node)[slot - 1] ?? "",
  });
  if (text !== null) setLabel(node, slot, text);
}

/** Sets one Image Gate node up. Everything hangs on the node, nothing on the shared classes. @param {Node} node */
export function setUpNode(node) {
  for (const name of ["routes", "labels"]) {
    const widget = widgetOf(node, name);
    if (widget) chain(widget, "callback", () => syncOutputs(node));
  }
  // ComfyUI brings all eleven outputs back whenever it creates a node or loads one.
  chain(node, "onConfigure", () => {
    fresh.delete(node);
    syncOutputs(node);
  });
  chain(node, "onOutputDblClick", (slot) => slot > 0 && askLabel(node, slot));
  // ComfyUI's own double click knows the dot and a little beside it.
  chain(node, "onDblClick", (_event, at) => {
    const slot = labelAt(node, at);
    if (slot) askLabel(node, slot);
  });
  chain(node, "onConnectionsChange", (type, _slot, connected) => {
    // Later, because moving a link first takes it off: its output must still be there.
    if (type !== OUTPUT || !connected) queueMicrotask(() => node.graph && syncOutputs(node));
  });
  const { connect } = node;
  node.connect = function (slot, ...rest) {
    // Pasted and API workflows may wire a route beyond `routes`; its link must not be lost.
    if (typeof slot === "number" && slot <= MAX_ROUTES) growOutputs(node, slot + 1);
    return connect.call(this, slot, ...rest);
  };
  fresh.add(node);
  syncOutputs(node);
  queueMicrotask(() => {
    if (!fresh.delete(node)) return;
    syncOutputs(node);
    node.setSize([node.size[0], node.computeSize()[1]]);
  });
}

/** The output whose label is drawn at a point of the node on the canvas; 0 where there is none. @type {(node: Node, at: [number, number]) => number} */
function labelAt(node, [x, y]) {
  if (node.flags?.collapsed) return 0;
  const { canvas } = app;
  canvas.ctx.save();
  canvas.ctx.font = canvas.inner_text_font;
  const slot = node.outputs.findIndex((_, index) => {
    const [right, middle] = node.getOutputPos(index).map((value, axis) => value - node.pos[axis]);
    const width = canvas.ctx.measureText(labelOf(node, index)).width + 20; // the dot and some room
    const above = Math.abs(y - middle) <= LiteGraph.NODE_SLOT_HEIGHT / 2;
    return index > 0 && above && x <= right && x >= right - width;
  });
  canvas.ctx.restore();
  return Math.max(slot, 0);
}

/** Vue nodes know no double click on an output; their slots are plain elements. @param {MouseEvent} event */
export function onDoubleClick(event) {
  const target = /** @type {HTMLElement} */ (event.target);
  /** @type {HTMLElement | null | undefined} */
  const element = target.closest?.(".lg-slot--output");
  /** @type {HTMLElement | null | undefined} */
  const box = element?.closest("[data-node-id]");
  const node = box?.dataset.nodeId && app.canvas.graph?.getNodeById(box.dataset.nodeId);
  if (!element || !box || !node || !isGateNode(node)) return;
  const slots = [...box.querySelectorAll(".lg-slot--output")];
  const slot = slots.indexOf(element);
  if (slot > 0) askLabel(node, slot);
}
