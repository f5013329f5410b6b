/**
 * The gates as a link shows them, to whom it was given, and for as long as it is valid.
 *
 * @import { Decided } from "../shared/queue/history.js"
 * @import { Gate } from "../shared/queue/rest.js"
 * @typedef {{name: string, may: "look" | "decide" | "mask", scope: string, link: string, expires_at: number}} Person
 */

import { Gates } from "../shared/gates.js";
import { short } from "../shared/parts.js";
import { isAnswered } from "../shared/queue/history.js";
import { isOurs } from "../shared/sender.js";

const GONE = 401;

export class ApproverGates extends Gates {
  /** Whose link it is and what it allows. @type {Person} */
  person = { name: "", may: "look", scope: "", link: "", expires_at: Number.POSITIVE_INFINITY };
  /** Why it is over, if that is known: the server's sentence, or "left". */
  why = "";
  past = "history?mine=1&";

  /** Find out whose link it is, then listen. What a link is refused, ends the page. */
  async open() {
    this.person = await this.#ask();
    this.me = () => this.person.name;
    if (this.person.may === "look") this.past = "history?";
    this.addEventListener("read", () => this.#lookAgain());
    this.listen(this.person.link);
  }

  /** Whether everybody's decisions are listed, or only one's own. */
  get everyones() {
    return this.past === "history?";
  }

  /** @param {boolean} all */
  listEveryones(all) {
    this.past = all ? "history?" : "history?mine=1&";
    return this.readPast();
  }

  /** As large as what is painted on: the server scales it as it will when it compares. @type {(gate: Gate, index: number) => string} */
  mask(gate, index) {
    return `${super.mask(gate, index)}?size=preview`;
  }

  /** @param {Gate} gate */
  isMine(gate) {
    return Boolean(gate.decision?.mine);
  }

  /** @param {Gate} gate */
  others(gate) {
    return `${this.told(gate)} ${gate.decision?.mine ? "in another window" : "first"}`;
  }

  /** What is said lies over the image. @param {string} text */
  brief(text) {
    return super.brief(short(text));
  }

  get answered() {
    return this.history.filter(isAnswered).find((gate) => this.isMine(gate)) ?? null;
  }

  /** @param {Gate} gate */
  remember(gate) {
    if (this.everyones || this.isMine(gate)) super.remember(gate);
  }

  /** The server knows by the session who this is. Whoever can only look is in nobody's way. */
  viewer() {
    return this.person.may === "look" ? null : {};
  }

  /** The stream hides why it broke: a call says whether it was the link. @type {(kind: string, content?: any) => void} */
  heard(kind, content) {
    if (kind === "over") this.why ||= content.reason;
    super.heard(kind, content);
    if (kind === "lost") this.#ask().catch(() => {});
  }

  /** @type {(url: string | URL, options?: RequestInit) => Promise<Response>} */
  async fetch(url, options) {
    const reply = await super.fetch(url, options);
    if (reply.status === GONE && isOurs(reply)) this.end();
    return reply;
  }

  /** Give the link's session back. */
  async leave() {
    this.why = "left";
    const reply = await this.fetch(this.url("session"), { method: "DELETE" }).catch(() => null);
    if (!reply?.ok) {
      this.why = "";
      this.say("Not left: there is no connection.", "bad");
      return;
    }
    this.end();
  }

  /** Another link may have been opened in this browser: then this page is another's. */
  async #lookAgain() {
    const now = await this.#ask().catch(() => null);
    if (now && (now.link !== this.person.link || now.may !== this.person.may)) location.reload();
  }

  /** @returns {Promise<Person>} */
  #ask() {
    return this.get(this.url("me"));
  }
}
