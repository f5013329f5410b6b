/**
 * Told without looking: a sound, and a notification of the browser, when more waits than before.
 * Each is off until somebody turns it on, and remembered. The page styles the two buttons: a sign and
 * a word each.
 */

import { isolated } from "./labels.js";
import { element, remembered } from "./parts.js";

const QUIET = 4000; // ms after an alert in which there is no other
const LATE = 1000; // ms after which a sound that was held up is not made any more
const TONES = [
  [659.26, 0],
  [880, 0.14],
]; // Hz, and s from the beginning
const RINGS = 0.45; // s a tone takes to fade
const LOUD = 0.12;

const ICONS = {
  sound: '<path d="M4 9.5v5h3.5L12 19V5L7.5 9.5z"/><path d="M15.5 9a4.5 4.5 0 0 1 0 6M18 6.5a8 8 0 0 1 0 11"/>',
  notice: '<path d="M6 16.5V11a6 6 0 0 1 12 0v5.5l1.5 1.5h-15z"/><path d="M10 20.5h4"/>',
};

export class Alerts {
  /** @type {number | null} */
  #count = null;
  #at = -QUIET;
  #sound;
  #notice;
  /** @type {AudioContext | null} */
  #context = null;

  /** @param {HTMLElement} host its two toggles are put into it */
  constructor(host) {
    this.#sound = new Toggle(host, "sound", "Sound", "Sound when something new waits", () => this.#turnOnSound());
    const when = "Notification when something new waits and this page is out of sight";
    this.#notice = new Toggle(host, "notice", "Notification", when, askForNotices);
    const able = isSecureContext && "Notification" in globalThis;
    this.#notice.button.hidden = !able;
    if (!able || Notification.permission !== "granted") this.#notice.set(false);
    // After a reload a browser makes no sound until somebody touches the page.
    const wake = () => this.#sound.on && this.#awake();
    for (const kind of ["pointerdown", "keydown"]) addEventListener(kind, wake, { capture: true });
  }

  /**
   * @param {number | null} n how many wait now; null while that is not known: what the next count
   *   says is then no news
   * @param {string} text what came last
   */
  count(n, text = "") {
    const more = n !== null && this.#count !== null && n > this.#count;
    this.#count = n;
    const unseen = this.#notice.on && document.visibilityState === "hidden";
    if (!more || !(this.#sound.on || unseen) || performance.now() - this.#at < QUIET) return;
    this.#at = performance.now();
    if (this.#sound.on) this.#ring();
    if (unseen && !notify(newsText(n, text))) this.#notice.set(false);
  }

  #turnOnSound() {
    this.#ring(); // so that one knows it
    return "";
  }

  /** The context, running as soon as the browser allows it. */
  async #awake() {
    this.#context ??= new AudioContext();
    if (this.#context.state !== "running") await this.#context.resume();
    return this.#context;
  }

  async #ring() {
    const asked = performance.now();
    const context = await this.#awake();
    if (performance.now() - asked > LATE) return; // a sound for what came long ago says nothing
    for (const [pitch, after] of TONES) {
      const [tone, loudness] = [context.createOscillator(), context.createGain()];
      const start = context.currentTime + after;
      tone.frequency.value = pitch;
      loudness.gain.setValueAtTime(0, start);
      loudness.gain.linearRampToValueAtTime(LOUD, start + 0.015);
      loudness.gain.exponentialRampToValueAtTime(0.0001, start + RINGS);
      tone.connect(loudness).connect(context.destination);
      tone.start(start);
      tone.stop(start + RINGS);
    }
  }
}

/** What a notification says: "Portrait · 3 waiting". @type {(count: number, title: string) => string} */
export function newsText(count, title) {
  return [isolated(title), `${count} waiting`].filter(Boolean).join(" · ");
}

/** A button that is pressed or not, and remembers which. */
class Toggle {
  on = false;
  #key;
  #label;
  #strike;

  /**
   * @param {HTMLElement} host
   * @param {keyof typeof ICONS} name
   * @param {string} word
   * @param {string} label
   * @param {() => string | Promise<string>} turnOn on its click; returns why it stays off, or ""
   */
  constructor(host, name, word, label, turnOn) {
    this.#key = `imagegate.${name}`;
    this.#label = label;
    this.button = element("button", "", { type: "button", class: `ig-alert ig-alert-${name}`, "aria-label": label });
    this.button.innerHTML =
      '<svg width="20" height="20" viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="1.8"' +
      ` stroke-linecap="round" stroke-linejoin="round" aria-hidden="true">${ICONS[name]}<path d="M4 4l16 16"/></svg>`;
    this.button.append(element("span", word));
    this.#strike = /** @type {SVGElement} */ (this.button.querySelector("path:last-child"));
    this.button.onclick = async () => {
      const why = this.on ? "" : await turnOn();
      this.set(!this.on && !why, why);
      remembered(this.#key, this.on ? "on" : "");
    };
    this.set(remembered(this.#key) === "on");
    host.append(this.button);
  }

  /** @type {(on: boolean, why?: string) => void} */
  set(on, why = "") {
    this.on = on;
    this.button.setAttribute("aria-pressed", String(on));
    this.button.title = why || `${this.#label}: ${on ? "on" : "off"}`;
    this.#strike.setAttribute("visibility", on ? "hidden" : "visible");
  }
}

async function askForNotices() {
  if ((await Notification.requestPermission()) !== "granted") {
    return "This browser blocks notifications of this page; its settings for the page can allow them.";
  }
  return notify("You will be told here when something new waits.") ? "" : "This browser shows a page no notifications.";
}

/** Whether the browser took it: some know notifications, but only of installed apps. @param {string} body */
function notify(body) {
  try {
    const more = { body, tag: "imagegate", renotify: true };
    const notice = new Notification("Image Gate", more);
    notice.onclick = () => {
      focus();
      notice.close();
    };
    return true;
  } catch {
    return false;
  }
}
