/** What the other modules share: ComfyUI's own objects, and which nodes are gates. */
export { app } from "../../scripts/app.js";
export { api } from "../../scripts/api.js";

const NODE_CLASSES = ["ImageGate"];
export const OUTPUT = 2; // litegraph's NodeSlotType.OUTPUT

export const isGateClass = (name) => NODE_CLASSES.includes(name);
export const isGateNode = (node) => isGateClass(node?.comfyClass);

/** Runs `after` behind `object[name]`, whoever defined it. */
export function chain(object, name, after) {
  const before = object[name];
  object[name] = function (...args) {
    const result = before?.apply(this, args);
    after.apply(this, args);
    return result;
  };
}
