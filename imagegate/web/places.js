/** Where gates are: which nodes of this page they belong to, and the way there. */
/**
 * @import { Graph, Node, Workflow } from "../../scripts/app.js"
 * @import { Gate } from "./gates.js"
 * @typedef {{node_id: string, workflow_id?: string}} Place
 */

import { api, app, isGateNode } from "./comfy.js";

/** @type {() => Graph | undefined} */
const root = () => app.rootGraph ?? app.graph;

/** @param {Gate} gate */
export const isParked = (gate) => gate.state === "parked";

/** The workflow's own id: with ComfyUI's --multi-user a gate's has its user behind it. @param {Place} gate */
function workflowOf({ workflow_id: id }) {
  const user = `@${api.user}`;
  return id?.endsWith(user) ? id.slice(0, -user.length) : id;
}

/** The nodes from the root graph down to `"4:2"`; empty where this workflow has no such node. @param {Gate} gate */
export function nodesOf(gate) {
  /** @type {Node[]} */
  const path = [];
  let graph = root();
  // What waits without naming a workflow was just queued; what is parked may be days old.
  const workflow = workflowOf(gate);
  const known = workflow && graph?.id;
  if (known ? workflow !== graph?.id : isParked(gate)) return [];
  for (const id of String(gate.node_id).split(":")) {
    /** @type {Node | null | undefined} */
    const node = graph?.getNodeById(id);
    if (!node) return [];
    path.push(node);
    graph = node.subgraph;
  }
  const other = isParked(gate) && !isGateNode(path.at(-1)); // changed since then
  return other ? [] : path;
}

/** @type {(one: Place, other: Place) => boolean} */
export const samePlace = (one, other) =>
  String(one.node_id) === String(other.node_id) && one.workflow_id === other.workflow_id;

/** The place of a node, as its gates will name it; in a subgraph used twice, the first. @param {Node} node */
export function placeOf(node) {
  /** @type {(graph?: Graph) => (string | number)[] | null} */
  const path = (graph) => {
    for (const one of /** @type {Node[]} */ (graph?.nodes ?? [])) {
      const inside = one === node ? [] : path(one.subgraph);
      if (inside) return [one.id, ...inside];
    }
    return null;
  };
  const id = root()?.id ?? "";
  const workflow = id && api.user ? `${id}@${api.user}` : id;
  return { node_id: (path(root()) ?? [node.id]).join(":"), workflow_id: workflow };
}

/** Brings the node of a gate on the screen; false where no open workflow has it. @param {Gate} gate */
export async function goToNode(gate) {
  let path = nodesOf(gate);
  const workflow = path.length ? null : tabOf(gate);
  if (workflow) {
    await app.loadGraphData(workflow.activeState, true, true, workflow);
    path = nodesOf(gate);
  }
  const node = path.at(-1);
  if (!node) return false;
  const { canvas } = app;
  if (canvas.graph !== node.graph) {
    const outermost = root();
    if (outermost && canvas.graph !== outermost) canvas.setGraph(outermost);
    for (const outer of /** @type {any[]} */ (path.slice(0, -1))) canvas.openSubgraph(outer.subgraph, outer);
  }
  canvas.selectNode(node);
  canvas.centerOnNode(node);
  canvas.setDirty(true, true);
  return true;
}

/** The workflow tab that a gate comes from, as far as ComfyUI has it loaded. @param {Gate} gate */
function tabOf(gate) {
  const id = workflowOf(gate);
  /** @type {{workflow?: {openWorkflows: Workflow[]}}} */
  const { workflow } = app.extensionManager;
  const open = workflow?.openWorkflows ?? [];
  return id ? open.find(({ activeState }) => activeState?.id === id) : undefined;
}
