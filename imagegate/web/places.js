/** Where gates are: which nodes of this page they belong to, and the way there. */
import { api, app, isGateNode } from "./comfy.js";

const root = () => app.rootGraph ?? app.graph;

export const isParked = (gate) => gate.state === "parked";

/** The workflow's own id: with ComfyUI's --multi-user a gate's has its user behind it. */
function workflowOf({ workflow_id: id }) {
  const user = `@${api.user}`;
  return id?.endsWith(user) ? id.slice(0, -user.length) : id;
}

/** The nodes from the root graph down to `"4:2"`; empty where this workflow has no such node. */
export function nodesOf(gate) {
  const path = [];
  let graph = root();
  // What waits without naming a workflow was just queued; what is parked may be days old.
  const workflow = workflowOf(gate);
  const known = workflow && graph?.id;
  if (known ? workflow !== graph.id : isParked(gate)) return [];
  for (const id of String(gate.node_id).split(":")) {
    const node = graph?.getNodeById(id);
    if (!node) return [];
    path.push(node);
    graph = node.subgraph;
  }
  const other = isParked(gate) && !isGateNode(path.at(-1)); // changed since then
  return other ? [] : path;
}

export const samePlace = (one, other) =>
  String(one.node_id) === String(other.node_id) && one.workflow_id === other.workflow_id;

/** The place of a node, as its gates will name it; in a subgraph used twice, the first. */
export function placeOf(node) {
  const path = (graph) => {
    for (const one of graph?.nodes ?? []) {
      const inside = one === node ? [] : one.subgraph && path(one.subgraph);
      if (inside) return [one.id, ...inside];
    }
    return null;
  };
  const id = root()?.id ?? "";
  const workflow = id && api.user ? `${id}@${api.user}` : id;
  return { node_id: (path(root()) ?? [node.id]).join(":"), workflow_id: workflow };
}

/** Brings the node of a gate on the screen; false where no open workflow has it. */
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
    if (canvas.graph !== root()) canvas.setGraph(root());
    for (const outer of path.slice(0, -1)) canvas.openSubgraph(outer.subgraph, outer);
  }
  canvas.selectNode(node);
  canvas.centerOnNode(node);
  canvas.setDirty(true, true);
  return true;
}

/** The workflow tab that a gate comes from, as far as ComfyUI has it loaded. */
function tabOf(gate) {
  const id = workflowOf(gate);
  const open = app.extensionManager.workflow?.openWorkflows ?? [];
  return id ? open.find(({ activeState }) => activeState?.id === id) : undefined;
}
