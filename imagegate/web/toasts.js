/** Short messages in ComfyUI's corner; a click on one leads to what it is about. */
/**
 * Since front end 1.58 ComfyUI's service has more than its types say.
 *
 * @import { ExtensionManager } from "@comfyorg/comfyui-frontend-types"
 * @typedef {(summary: string, more: object) => string} Show returns what `dismiss` takes
 * @typedef {ExtensionManager["toast"] & {info?: Show, warning?: Show, dismiss?: (id: string) => void}} ToastService
 */

import { app } from "./comfy.js";

const TOAST = 6000; // ms
const NAME = "image-gate-toast";

/** What a click on a toast does, by its class name. @type {Map<string, () => unknown>} */
const leads = new Map();
/** The toast about parked gates while it is shown.
 *  @type {{remove: () => void, ids: Set<string>, until: number} | null} */
let parkedToast = null;

/**
 * Shows a message; returns what takes it away again.
 *
 * @param {string} summary
 * @param {string} detail
 * @param {{severity?: "info" | "warn" | "error", life?: number, lead?: () => unknown}} [more] `lead` goes to
 *   what it is about
 */
export function say(summary, detail, { severity = "info", life = TOAST, lead } = {}) {
  const toast = /** @type {ToastService} */ (app.extensionManager.toast);
  if (lead && toast.info && toast.dismiss) {
    // Since front end 1.58 a toast can have a button.
    const more = { description: detail, duration: life, action: { label: "Show", onClick: lead } };
    const id = severity === "warn" && toast.warning ? toast.warning(summary, more) : toast.info(summary, more);
    return () => toast.dismiss?.(id);
  }
  const message = { severity, summary, detail, life };
  if (lead) {
    const name = `${NAME}-${leads.size}`;
    const done = () => toast.remove?.(message);
    leads.set(name, () => {
      done();
      lead();
    });
    Object.assign(message, { styleClass: `${NAME} ${name}`, detail: `${detail} · click to show it` });
  }
  toast.add(message);
  return () => toast.remove?.(message);
}

/** A click on a toast; its own buttons close it. @param {MouseEvent} event */
export function onToastClick(event) {
  const target = /** @type {HTMLElement} */ (event.target);
  const toast = target.closest?.(`.${NAME}`);
  if (!toast || target.closest("button")) return;
  const name = [...toast.classList].find((one) => leads.has(one));
  if (name) leads.get(name)?.();
}

/** A hundred prompts that park one after the other have one toast, which counts. @type {(gates: {id: string}[], detail: string, lead: () => unknown) => void} */
export function sayParked(gates, detail, lead) {
  const shown = parkedToast && performance.now() < parkedToast.until ? parkedToast : null;
  const ids = new Set([...(shown?.ids ?? []), ...gates.map((gate) => gate.id)]);
  shown?.remove();
  const many = `${ids.size} images are parked, waiting for you`;
  const one = "An image is parked, waiting for you";
  const remove = say(ids.size === 1 ? one : many, detail, { lead });
  parkedToast = { remove, ids, until: performance.now() + TOAST };
}
