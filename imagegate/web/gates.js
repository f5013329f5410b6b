/** The gates that wait for a person, and the toasts about them. */
import { about, isolated } from "./labels.js";
import { notices } from "./news.js";
import { isParked } from "./places.js";
import { say, sayParked } from "./toasts.js";

const TROUBLE = 20_000; // ms; a message to be read

/** Gates waiting for a person, by id. */
export const waiting = new Map();
/** Gates that are over, by the version they ended with: a slow answer of the server does not bring
 *  one back, and one that waits again is not missed. */
const over = new Map();
/** Gates not yet said in a toast. */
const unsaid = new Set();
/** Parked gates that were there when the page came: they do not push their panel into a node. */
const old = new Set();
let changed = () => {};
let goTo = () => {};

/** Calls `listener` whenever what waits has changed; `lead` goes to a gate. */
export function onChange(listener, lead) {
  changed = listener;
  goTo = lead;
}

export const isOld = (gate) => old.has(gate.id);

export function published(gate) {
  const known = waiting.get(gate.id);
  if (known && known.version >= gate.version) return;
  waiting.set(gate.id, gate);
  if (!known) {
    if (!unsaid.size) setTimeout(sayOnce, 250); // the items of a list arrive together
    unsaid.add(gate.id);
  }
  changed();
}

/** It waits again: its answer was taken back, or it was put back because it could not go on. */
export function again(gate) {
  over.delete(gate.id);
  published(gate);
  if (!isParked(gate)) return;
  unsaid.delete(gate.id);
  if (gate.reason) sayTrouble(gate);
}

export function ended(gate) {
  over.set(gate.id, gate.version);
  old.delete(gate.id);
  if (waiting.delete(gate.id)) changed();
}

/** One toast for all gates that came together. */
function sayOnce() {
  const gates = [...unsaid].map((id) => waiting.get(id)).filter(Boolean);
  unsaid.clear();
  const here = gates.filter((gate) => !isParked(gate));
  if (here.length) {
    const many = `${here.length} images wait for you`;
    say(here.length === 1 ? "An image waits for you" : many, about(here[0]), to(here[0]));
  }
  const parked = gates.filter(isParked);
  if (parked.length) sayParked(parked, about(parked[0]), to(parked[0]).lead);
}

const to = (gate) => ({ lead: () => goTo(gate) });

function sayTrouble(gate) {
  const detail = gate.reason.length > 280 ? `${gate.reason.slice(0, 280)} …` : gate.reason;
  say(`${isolated(gate.title || "Image Gate")} could not go on`, detail, {
    severity: "warn",
    life: TROUBLE,
    ...to(gate),
  });
}

/** Asks the server what waits: after a reload, and when the connection was lost. */
export async function restore() {
  const known = [...waiting.keys()];
  try {
    const gates = (await notices()).waiting;
    const still = new Set(gates.map((gate) => gate.id));
    known.filter((id) => !still.has(id)).forEach((id) => waiting.delete(id));
    const open = gates.filter((gate) => gate.version > (over.get(gate.id) ?? -1));
    open.filter((gate) => isParked(gate) && !waiting.has(gate.id)).forEach(({ id }) => old.add(id));
    open.forEach(published);
    changed();
  } catch (error) {
    console.warn("Image Gate: cannot ask what waits.", error);
  }
}
