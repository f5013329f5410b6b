/** Short messages in ComfyUI's corner; a click on one leads to what it is about. */
import { app } from "./comfy.js";

const TOAST = 6000; // ms
const NAME = "image-gate-toast";

/** What a click on a toast does, by its class name. */
const leads = new Map();
/** The toast about parked gates while it is shown: {remove, ids, until}. */
let parkedToast = null;

/**
 * Shows a message; returns what takes it away again.
 *
 * @param {{severity: string, life: number, lead: function}} more `lead` goes to what it is about
 */
export function say(summary, detail, { severity = "info", life = TOAST, lead } = {}) {
  const { toast } = app.extensionManager;
  if (lead && toast.info && toast.dismiss) {
    // Since front end 1.58 a toast can have a button.
    const more = { description: detail, duration: life, action: { label: "Show", onClick: lead } };
    const id = severity === "warn" ? toast.warning(summary, more) : toast.info(summary, more);
    return () => toast.dismiss(id);
  }
  const message = { severity, summary, detail, life };
  if (lead) {
    const name = `${NAME}-${leads.size}`;
    const done = () => toast.remove?.(message);
    leads.set(name, () => (done(), lead()));
    Object.assign(message, { styleClass: `${NAME} ${name}`, detail: `${detail} · click to show it` });
  }
  toast.add(message);
  return () => toast.remove?.(message);
}

/** A click on a toast; its own buttons close it. */
export function onToastClick({ target }) {
  const toast = target.closest?.(`.${NAME}`);
  if (!toast || target.closest("button")) return;
  leads.get([...toast.classList].find((name) => leads.has(name)))?.();
}

/** A hundred prompts that park one after the other have one toast, which counts. */
export function sayParked(gates, detail, lead) {
  const shown = parkedToast && performance.now() < parkedToast.until ? parkedToast : null;
  const ids = new Set([...(shown?.ids ?? []), ...gates.map((gate) => gate.id)]);
  shown?.remove();
  const many = `${ids.size} images are parked, waiting for you`;
  const one = "An image is parked, waiting for you";
  const remove = say(ids.size === 1 ? one : many, detail, { lead });
  parkedToast = { remove, ids, until: performance.now() + TOAST };
}
