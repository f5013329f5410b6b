/**
 * The list of links: who has one, what for, how long still, and what came of it.
 *
 * @import { Gates } from "../../shared/gates.js"
 * @typedef {"internet" | "network"} Reach
 * @typedef {Record<Reach, {url: string, problem: string}>} Door
 * @typedef {{kind: string, gate?: string, title?: string, workflow?: string}} Scope
 * @typedef {{id: string, name: string, state: string, may: "mask" | "decide" | "look", scope: Scope, reach: Reach,
 *   created_at: number, expires_at: number, revoked_at: number, seen_at: number | null, once: boolean,
 *   passphrase: boolean, moved: boolean, worker?: string, opened: number, decisions: number}} Link
 * @typedef {{links: Link[], door: Door, now: number}} Known what the server says of links
 * @typedef {HTMLLIElement & {link: Link}} Row
 */

import { $, age, element, fill, left, sure, when } from "../../shared/parts.js";

const OVER = 20; // links that are over: at most so many are shown
const MINUTE = 60; // s

const MAY = { mask: "decides and paints masks", decide: "decides", look: "looks only" };
const REACH = { internet: "over the internet", network: "in this network" };
export const OPENING = { internet: "Opening the tunnel …", network: "Opening a port …" };

export const LINKS = `
  <section id="ig-share-live" hidden>
    <h3>Links</h3>
    <ul id="ig-links"></ul>
    <p id="ig-doors"></p>
  </section>
  <details id="ig-share-over" hidden>
    <summary></summary>
    <ul id="ig-links-over"></ul>
  </details>`;

export class Links {
  #gates;
  #acts;
  /** @type {Map<string, Row>} */
  #rows = new Map(); // link id, and " over" when it is -> its row

  /**
   * @param {Gates} gates knows what a gate is called
   * @param {{reissue: (link: Link) => void, revoke: (link: Link) => void}} acts what the buttons of a link do
   */
  constructor(gates, acts) {
    this.#gates = gates;
    this.#acts = acts;
  }

  /** Returns how many links work. `now`: in the server's seconds. @type {(known: Known, now: number) => number} */
  render({ links, door }, now) {
    const lives = (/** @type {Link} */ link) => link.state === "live" && link.expires_at > now;
    const live = links.filter(lives);
    const over = links.filter((link) => !lives(link)).slice(0, OVER);
    const rows = new Map();
    const names = live.map((link) => link.name);
    const several = (/** @type {Link} */ link) => names.filter((name) => name === link.name).length > 1;
    for (const link of live) rows.set(link.id, this.#liveRow(link, now, several(link)));
    for (const link of over) rows.set(`${link.id} over`, this.#overRow(link, now));
    this.#rows = rows;
    fill(
      $("ig-links"),
      live.map((link) => /** @type {Row} */ (rows.get(link.id))),
    );
    fill(
      $("ig-links-over"),
      over.map((link) => rows.get(`${link.id} over`)),
    );
    $("ig-share-live").hidden = live.length === 0;
    $("ig-share-over").hidden = over.length === 0;
    $("ig-share-over").firstElementChild.textContent = `${over.length} expired or revoked`;
    renderDoors(live, door);
    return live.length;
  }

  /** `several`: there is another one of this name. @type {(link: Link, now: number, several: boolean) => Row} */
  #liveRow(link, now, several) {
    const row = this.#rows.get(link.id) ?? this.#newRow();
    row.link = link; // as the server says it is now: the row stays
    const secret = link.passphrase ? "with a passphrase" : "";
    const about = [MAY[link.may], this.#scope(link.scope), REACH[link.reach], secret];
    const which = several ? [`link ${link.id}, made ${when(link.created_at)}`] : [];
    const here = link.worker ? [`opens at ${link.worker}`] : [];
    tell(row, about, [...which, ...here, `expires in ${left(link.expires_at - now)}`, ...used(link, now)]);
    /** @type {HTMLElement} */ (row.querySelector(".ig-moved")).hidden = !link.moved;
    /** @type {HTMLElement} */ (row.querySelector(".ig-reissue")).hidden = Boolean(link.worker); // there only
    row.classList.toggle("ig-opened", link.seen_at !== null);
    return row;
  }

  #newRow() {
    const row = newRow();
    const moved = "The door has another address now. Send them a new one.";
    row.append(element("small", moved, { class: "ig-moved", hidden: "" }));
    const buttons = element("div", "", { class: "ig-link-acts" });
    /** @type {(name: string, text: string, title: string, act: (made: HTMLElement) => void) => void} */
    const button = (name, text, title, act) => {
      const made = element("button", text, { type: "button", class: name, title });
      made.onclick = () => act(made);
      buttons.append(made);
    };
    const { reissue, revoke } = this.#acts;
    const anew = "The address so far opens nothing any more; who is in stays in";
    button("ig-reissue", "New address", anew, () => reissue(row.link));
    const out = "Nobody gets in with it any more; where it is open the page goes dark";
    button("ig-revoke", "Revoke", out, (made) => {
      made.style.minWidth = `${made.offsetWidth}px`; // the others stay where they are
      sure(made, "Really?", () => revoke(row.link));
    });
    row.append(buttons);
    return row;
  }

  /** @type {(link: Link, now: number) => Row} */
  #overRow(link, now) {
    const row = this.#rows.get(`${link.id} over`) ?? newRow();
    row.link = link;
    const revoked = link.state === "revoked";
    const ago = age(now - (revoked ? link.revoked_at : link.expires_at));
    tell(row, [`${revoked ? "revoked" : "expired"} ${ago} ago`, ...used(link, now)], []);
    return row;
  }

  /** @param {Scope} scope */
  #scope(scope) {
    if (scope.kind === "all") return "all gates";
    if (scope.kind === "title") return `gates titled “${scope.title}”`;
    const { queue, skipped, history } = this.#gates;
    const gate = [...queue, ...skipped, ...history].find((one) => one.id === scope.gate);
    return gate ? `only “${gate.title}”` : "one gate";
  }
}

/** What is open to others, as long as a link leads there. @type {(live: Link[], door: Door) => void} */
function renderDoors(live, door) {
  const lines = /** @type {Reach[]} */ (Object.keys(REACH)).flatMap((reach) => {
    const { url, problem } = door[reach];
    if (!live.some((link) => link.reach === reach)) return [];
    if (problem) return [element("span", sentence(problem), { class: "ig-closed" })];
    if (url) return [element("span", `Open ${REACH[reach]} at ${new URL(url).host}`)];
    return [element("span", OPENING[reach])];
  });
  $("ig-doors").replaceChildren(...lines);
}

/** What the server says is wrong, as a sentence. @param {string} problem */
export function sentence(problem) {
  return problem && problem[0].toUpperCase() + problem.slice(1) + (/[.!?]$/.test(problem) ? "" : ".");
}

/** Who came through a link, and what they did. @type {(link: Link, now: number) => string[]} */
function used(link, now) {
  if (!link.seen_at) return ["not opened yet"];
  const ago = now - link.seen_at;
  const browsers = `opened in ${link.opened} browser${link.opened === 1 ? "" : "s"}`;
  return [
    link.opened ? browsers : "new address not opened yet",
    `seen ${ago < MINUTE ? "just now" : `${age(ago)} ago`}`,
    `${link.decisions} decision${link.decisions === 1 ? "" : "s"}`,
  ];
}

function newRow() {
  const row = /** @type {Row} */ (element("li"));
  row.append(element("b"), element("span"), element("small"));
  return row;
}

/** @type {(row: Row, about: string[], more: string[]) => void} */
function tell(row, about, more) {
  const [name, first, second] = /** @type {HTMLElement[]} */ (/** @type {any} */ (row.children));
  row.dataset.link = row.link.id;
  name.textContent = row.link.name;
  name.title = `link ${row.link.id}`; // as the history calls it
  first.textContent = about.filter(Boolean).join(" · ");
  second.textContent = more.map((fact) => fact.replaceAll(" ", "\u00a0")).join(" · "); // breaks there only
}
