/**
 * What all parts of the page use: elements, the sentence about what just happened, words.
 *
 * @import { Message } from "./queue/rest.js"
 */

import { isolated } from "./labels.js";
import { StatusLine } from "./status.js";

const SURE = 4000; // ms to confirm
const SETTLE = 200; // ms in which a second click is that of a double click
const AIM = 700; // ms after others have moved rows in which a click may be meant for another row
const MINUTE = 60;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;
/** @type {[number, string][]} */
const PARTS = [
  [DAY, "day"],
  [HOUR, "hour"],
  [MINUTE, "minute"],
  [1, "second"],
];

/**
 * The element with an id. Of one that a page has, whoever asks for it knows what it is.
 *
 * @type {(id: string) => any}
 */
export const $ = (id) => document.getElementById(id);

/**
 * An element with text, never with HTML.
 *
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} tag
 * @param {string | number} text
 * @param {Record<string, string | number>} attributes
 */
export function element(tag, text = "", attributes = {}) {
  const made = document.createElement(tag);
  made.textContent = String(text);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, String(value));
  return made;
}

/** What is on the button of a route: its number, and its label, which cannot turn the number around.
 *  @type {(route: number, label: string, dot?: string) => (string | Node)[]} */
export function routeText(route, label, dot = " · ") {
  const turns = isolated(label) !== label;
  return turns ? [`${route}${dot}`, element("bdi", label)] : [`${route}${dot}${label}`];
}

/** What this browser keeps under a key, where it allows that; `value` changes it first. @type {(key: string, value?: string) => string} */
export function remembered(key, value) {
  try {
    if (value !== undefined) localStorage.setItem(key, value);
    return localStorage.getItem(key) ?? "";
  } catch {
    return value ?? "";
  }
}

/** The rows of a list, with what has not changed left alone: a button keeps the focus. @type {(list: Element, rows: Element[]) => void} */
export function fill(list, rows) {
  for (const row of [...list.children]) if (!rows.includes(row)) row.remove();
  for (const [i, row] of rows.entries()) if (list.children[i] !== row) list.insertBefore(row, list.children[i] ?? null);
}

/** @type {WeakMap<Element, {at: number, under: boolean}>} */
const jolts = new WeakMap(); // list -> when others moved its rows, and whether the pointer was on it

/** Others have moved the rows of a list. @param {Element} list */
export function jolted(list) {
  jolts.set(list, { at: performance.now(), under: list.matches(":hover") });
}

/** Whether a click on a row is meant for it, and not for the one that was there a moment ago.
 *  @type {(event: MouseEvent, list: Element) => boolean} */
export function aimed(event, list) {
  if (event.detail === 0) return true; // a key acts on what has the focus, wherever that moves
  const { at, under } = jolts.get(list) ?? { at: -AIM, under: false };
  const touched = event instanceof PointerEvent && event.pointerType === "touch";
  const late = event.timeStamp - at < AIM && (under || touched);
  if (!late && event.detail === 1) return true; // the second of a double click meets the next row
  const pressed = /** @type {Element} */ (event.target);
  say({ text: `“${pressed.textContent}” was not taken: the list had only just moved.`, tone: "busy" });
  shake(pressed);
  return false;
}

/** Shows that a press was not taken. @param {Element} part */
export function shake(part) {
  for (const one of part.getAnimations()) one.cancel();
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
  part.animate(
    [0, -6, 6, -3, 0].map((x) => ({ translate: `${x}px 0` })),
    250,
  );
}

/** A strip of small pictures keeps one of them, by its index, in its middle. @type {(strip: HTMLElement, index: number) => void} */
export function follow(strip, index) {
  const one = /** @type {HTMLElement | undefined} */ (strip.children[index]);
  if (one) strip.scrollLeft = one.offsetLeft - (strip.clientWidth - one.offsetWidth) / 2;
}

/** @type {WeakMap<HTMLElement, {at: number, says: string, calms: ReturnType<typeof setTimeout>}>} */
const asked = new WeakMap(); // button -> since when it asks, what it says else, and until when

/**
 * The first click asks, the second one, not of the same double click, acts. Returns whether it has
 * asked.
 *
 * @param {HTMLElement} button
 * @param {string} question
 * @param {() => void} act
 */
export function sure(button, question, act) {
  const before = asked.get(button);
  if (!before) {
    const calms = setTimeout(() => calm(button), SURE);
    asked.set(button, { at: performance.now(), says: button.textContent ?? "", calms });
    button.textContent = question;
    return true;
  }
  if (performance.now() - before.at < SETTLE) return false;
  calm(button);
  act();
  return false;
}

/** The button asks no more. @param {HTMLElement} button */
export function calm(button) {
  const before = asked.get(button);
  if (!before) return;
  clearTimeout(before.calms);
  asked.delete(button);
  button.textContent = before.says;
}

const status = new StatusLine(({ text, tone }) => {
  const line = $("ig-status");
  if (!line) return; // the page is over
  line.textContent = text;
  line.dataset.tone = tone ?? "";
  line.dispatchEvent(new Event("said"));
});

/** Say what just happened, in one sentence; see `StatusLine.say`. @param {Message} message */
export const say = (message) => status.say(message);

/** A text that people wrote, where there is room for a few words. @type {(text: string, most?: number) => string} */
export function short(text, most = 28) {
  const signs = [...text];
  return signs.length > most
    ? `${signs
        .slice(0, most - 1)
        .join("")
        .trimEnd()}…`
    : text;
}

/** A text that loses its middle, not its end, where there is no room: the end of a name tells it apart.
 *  @type {(text: string, tail?: number) => HTMLElement} */
export function middle(text, tail = 12) {
  const signs = [...text];
  const cut = signs.length > 2 * tail ? signs.length - tail : signs.length;
  const made = element("span", "", { class: "ig-middle", dir: "auto", title: text });
  made.append(element("span", signs.slice(0, cut).join("")), element("span", signs.slice(cut).join("")));
  return made;
}

/** What the answer with an image says about it. @type {(reply: Response) => string[]} */
export function remarks(reply) {
  try {
    return JSON.parse(reply.headers.get("imagegate-remarks") ?? "[]");
  } catch {
    return [];
  }
}

/** A clock that runs: "1:05", "2:00:00", "3 days". @param {number} seconds */
export function span(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  if (whole >= 2 * DAY) return age(whole);
  const [hours, minutes] = [Math.floor(whole / HOUR), Math.floor(whole / MINUTE) % 60];
  /** @param {number} number */
  const two = (number) => String(number).padStart(2, "0");
  return `${hours ? `${hours}:${two(minutes)}` : minutes}:${two(whole % 60)}`;
}

/** How long, as one would say it: "5 minutes", "3 days". @param {number} seconds */
export function age(seconds) {
  const [size, name] = PARTS.find(([size]) => seconds >= size) ?? PARTS[PARTS.length - 1];
  return several(Math.max(0, Math.floor(seconds / size)), name);
}

/** How long still, to the nearest: a link of 24 hours is not one of 23. @param {number} seconds */
export function left(seconds) {
  const [size, name] = PARTS[seconds >= 2 * DAY ? 0 : seconds >= 1.5 * HOUR ? 1 : 2];
  return several(Math.max(1, Math.round(seconds / size)), name);
}

/** @type {(count: number, name: string) => string} */
function several(count, name) {
  return `${count} ${name}${count === 1 ? "" : "s"}`;
}

/** The time of today, the date and the time of any other day. @param {number} seconds */
export function when(seconds) {
  const [then, today] = [new Date(seconds * 1000), new Date()];
  const time = then.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  if (then.toDateString() === today.toDateString()) return time;
  const year = then.getFullYear() === today.getFullYear() ? undefined : "numeric";
  return `${then.toLocaleDateString([], { day: "numeric", month: "short", year })}, ${time}`;
}

/** "1.2 GB" @param {number} bytes */
export function amount(bytes) {
  const units = ["bytes", "kB", "MB", "GB", "TB"];
  let [count, unit] = [bytes, 0];
  while (count >= 999.5 && unit < units.length - 1) [count, unit] = [count / 1000, unit + 1];
  return `${unit && count < 9.95 ? count.toFixed(1) : Math.round(count)} ${units[unit]}`;
}
