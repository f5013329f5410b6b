/** What the other modules share: ComfyUI's own objects, and which nodes are gates. */

export { api } from "../../scripts/api.js";
export { app } from "../../scripts/app.js";

const NODE_CLASSES = ["ImageGate"];
export const OUTPUT = 2; // litegraph's NodeSlotType.OUTPUT

/** @type {(name?: string) => boolean} */
export const isGateClass = (name) => NODE_CLASSES.includes(name ?? "");
/** @type {(node?: {comfyClass?: string} | null) => boolean} */
export const isGateNode = (node) => isGateClass(node?.comfyClass);

/**
 * Runs `after` behind `object[name]`, whoever defined it.
 *
 * @param {Record<string, any>} object
 * @param {string} name
 * @param {(this: any, ...args: any[]) => unknown} after
 */
export function chain(object, name, after) {
  const before = object[name];
  /** @type {(this: unknown, ...args: unknown[]) => unknown} */
  object[name] = function (...args) {
    const result = before?.apply(this, args);
    after.apply(this, args);
    return result;
  };
}
