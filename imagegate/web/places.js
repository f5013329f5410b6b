/** Which nodes of this page a gate belongs to. */
import { api, app, isGateNode } from "./comfy.js";

export const isParked = (gate) => gate.state === "parked";

/** The workflow's own id: with ComfyUI's --multi-user a gate's has its user behind it. */
function workflowOf({ workflow_id: id }) {
  const user = `@${api.user}`;
  return id?.endsWith(user) ? id.slice(0, -user.length) : id;
}

/** The nodes from the root graph down to `"4:2"`; empty where this workflow has no such node. */
export function nodesOf(gate) {
  const path = [];
  let graph = app.rootGraph ?? app.graph;
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
