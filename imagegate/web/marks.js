/** Marks on the nodes behind which a gate waits: a border and a flag, never part of the workflow. */
/**
 * @import { Node } from "../../scripts/app.js"
 * @import { Gate } from "./gates.js"
 * @typedef {{waiting: number, parked: number}} Mark numbers of gates
 */

import { app, chain } from "./comfy.js";
import { isParked, nodesOf } from "./places.js";

const MARK_COLOR = "#f5a524";
const PARKED_COLOR = "#a99cf5"; // nothing is held up

/** Numbers of gates behind a node, the subgraph nodes around it included. @type {Map<Node, Mark>} */
let marks = new Map();
/** The rules for Vue nodes. @type {HTMLStyleElement | null} */
let sheet = null;
/** Nodes that can draw their mark. */
const decorated = new WeakSet();

/** Marks the nodes of these gates, and no others. @param {Iterable<Gate>} gates */
export function markNodes(gates) {
  marks = new Map();
  for (const gate of gates) {
    for (const node of nodesOf(gate)) {
      const mark = marks.get(node) ?? { waiting: 0, parked: 0 };
      mark[isParked(gate) ? "parked" : "waiting"] += 1;
      marks.set(node, mark);
      decorate(node);
    }
  }
  markVueNodes();
  app.canvas?.setDirty(true, true);
}

/** @param {Mark} mark */
function markText({ waiting, parked }) {
  if (!waiting) return parked > 1 ? `${parked} parked, waiting for you` : "parked, waiting for you";
  const also = parked ? ` · ${parked} parked` : "";
  return (waiting > 1 ? `${waiting} waiting for you` : "waiting for you") + also;
}

/** @param {Mark} mark */
const markColor = ({ waiting }) => (waiting ? MARK_COLOR : PARKED_COLOR);

/** Canvas: a border and a small flag, drawn only, so that nothing of it is saved. @param {Node} node */
function decorate(node) {
  if (decorated.has(node)) return;
  decorated.add(node);
  // In place of the green border of a running node: nothing runs here, a person is waited for.
  const { running } = node.strokeStyles;
  node.strokeStyles.running = function () {
    const mark = marks.get(node);
    // What is parked holds nothing up: the next prompt may be running through this node.
    const runs = mark?.waiting ? undefined : running?.call(this);
    return runs || !mark ? runs : { color: markColor(mark), lineWidth: 3 };
  };
  chain(node, "onDrawForeground", (ctx) => {
    const mark = marks.get(node);
    if (mark) drawFlag(ctx, markText(mark), markColor(mark));
  });
}

/** @type {(ctx: CanvasRenderingContext2D, text: string, color: string) => void} */
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
export function markVueNodes() {
  sheet ??= document.head.appendChild(document.createElement("style"));
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
