/** Short messages in ComfyUI's corner. */
import { app } from "./comfy.js";

const TOAST = 6000; // ms

/** The toast about parked gates while it is shown: {message, ids, until}. */
let parkedToast = null;

export function say(summary, detail, { severity = "info", life = TOAST } = {}) {
  const message = { severity, summary, detail, life };
  app.extensionManager.toast.add(message);
  return message;
}

/** A hundred prompts that park one after the other have one toast, which counts. */
export function sayParked(gates, detail) {
  const shown = parkedToast && performance.now() < parkedToast.until ? parkedToast : null;
  const ids = new Set([...(shown?.ids ?? []), ...gates.map((gate) => gate.id)]);
  if (shown) app.extensionManager.toast.remove?.(shown.message);
  const many = `${ids.size} images are parked, waiting for you`;
  const message = say(ids.size === 1 ? "An image is parked, waiting for you" : many, detail);
  parkedToast = { message, ids, until: performance.now() + TOAST };
}
