/** The gates that wait for a person, and the toasts about them. */
import { about, isolated } from "./labels.js";
import { notices } from "./news.js";
import { isParked } from "./places.js";
import { say, sayParked } from "./toasts.js";

/**
 * What the server says of a gate.
 *
 * @typedef {object} Gate
 * @property {string} id
 * @property {string} node_id as `"4:2"`, subgraphs first
 * @property {string} workflow_id
 * @property {string} title
 * @property {string[]} labels
 * @property {string} state
 * @property {number} version grows with each change
 * @property {string} reason why it waits again, if it does
 */

const TROUBLE = 20_000; // ms; a message to be read

/** Gates waiting for a person, by id. @type {Map<string, Gate>} */
export const waiting = new Map();
/** Gates that are over, by the version they ended with: a slow answer of the server does not bring
 *  one back, and one that waits again is not missed. @type {Map<string, number>} */
const over = new Map();
/** Ids of gates not yet said in a toast. @type {Set<string>} */
const unsaid = new Set();
/** Parked gates that were there when the page came: they do not push their panel into a node.
 *  @type {Set<string>} */
const old = new Set();
let changed = () => {};
/** @type {(gate: Gate) => unknown} */
let goTo = () => {};

/**
 * Calls `listener` whenever what waits has changed; `lead` goes to a gate.
 *
 * @param {() => void} listener
 * @param {(gate: Gate) => unknown} lead
 */
export function onChange(listener, lead) {
  changed = listener;
  goTo = lead;
}

/** @type {(gate: Gate) => boolean} */
export const isOld = (gate) => old.has(gate.id);

/** @param {Gate} gate */
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

/** It waits again: its answer was taken back, or it was put back because it could not go on. @param {Gate} gate */
export function again(gate) {
  over.delete(gate.id);
  published(gate);
  if (!isParked(gate)) return;
  unsaid.delete(gate.id);
  if (gate.reason) sayTrouble(gate);
}

/** @param {Gate} gate */
export function ended(gate) {
  over.set(gate.id, gate.version);
  old.delete(gate.id);
  if (waiting.delete(gate.id)) changed();
}

/** One toast for all gates that came together. */
function sayOnce() {
  const gates = [...unsaid].map((id) => waiting.get(id)).filter((gate) => gate !== undefined);
  unsaid.clear();
  const here = gates.filter((gate) => !isParked(gate));
  if (here.length) {
    const many = `${here.length} images wait for you`;
    say(here.length === 1 ? "An image waits for you" : many, about(here[0]), to(here[0]));
  }
  const parked = gates.filter(isParked);
  if (parked.length) sayParked(parked, about(parked[0]), to(parked[0]).lead);
}

/** @type {(gate: Gate) => {lead: () => unknown}} */
const to = (gate) => ({ lead: () => goTo(gate) });

/** @param {Gate} gate */
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
    for (const id of known) if (!still.has(id)) waiting.delete(id);
    const open = gates.filter((gate) => gate.version > (over.get(gate.id) ?? -1));
    for (const gate of open) if (isParked(gate) && !waiting.has(gate.id)) old.add(gate.id);
    open.forEach(published);
    changed();
  } catch (error) {
    console.warn("Image Gate: cannot ask what waits.", error);
  }
}
