/** The list of links: who has one, what for, how long still, and what came of it. */

import { $, age, element } from "./shared/parts.js";

const SURE = 4000; // ms to confirm
const SETTLE = 200; // ms in which a second click is that of a double click
const OVER = 20; // links that are over: at most so many are shown
const [MINUTE, HOUR, DAY] = [60, 3600, 86_400];

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
  #rows = new Map(); // link id, and " over" when it is -> its row

  /**
   * @param {Gates} gates knows what a gate is called
   * @param {{reissue: function, revoke: function}} acts what the buttons of a link do
   */
  constructor(gates, acts) {
    this.#gates = gates;
    this.#acts = acts;
  }

  /** Returns how many links work. `now`: in the server's seconds. */
  render({ links, door }, now) {
    const lives = (link) => link.state === "live" && link.expires_at > now;
    const live = links.filter(lives);
    const over = links.filter((link) => !lives(link)).slice(0, OVER);
    const rows = new Map();
    for (const link of live) rows.set(link.id, this.#liveRow(link, now));
    for (const link of over) rows.set(`${link.id} over`, this.#overRow(link, now));
    this.#rows = rows;
    fill($("ig-links"), live.map((link) => rows.get(link.id)));
    fill($("ig-links-over"), over.map((link) => rows.get(`${link.id} over`)));
    $("ig-share-live").hidden = live.length === 0;
    $("ig-share-over").hidden = over.length === 0;
    $("ig-share-over").firstElementChild.textContent = `${over.length} expired or revoked`;
    renderDoors(live, door);
    return live.length;
  }

  #liveRow(link, now) {
    const row = this.#rows.get(link.id) ?? this.#newRow();
    row.link = link; // as the server says it is now: the row stays
    const secret = link.passphrase ? "with a passphrase" : "";
    const about = [MAY[link.may], this.#scope(link.scope), REACH[link.reach], secret];
    const here = link.worker ? [`opens at ${link.worker}`] : [];
    tell(row, about, [...here, `expires in ${left(link.expires_at - now)}`, ...used(link, now)]);
    row.querySelector(".ig-moved").hidden = !link.moved;
    row.querySelector(".ig-reissue").hidden = Boolean(link.worker); // there only
    row.classList.toggle("ig-opened", link.seen_at !== null);
    return row;
  }

  #newRow() {
    const row = newRow();
    const moved = "The door has another address now. Send them a new one.";
    row.append(element("small", moved, { class: "ig-moved", hidden: "" }));
    const buttons = element("div", "", { class: "ig-link-acts" });
    const button = (name, text, title, act) => {
      const made = element("button", text, { type: "button", class: name, title });
      made.onclick = () => act(made);
      buttons.append(made);
    };
    const { reissue, revoke } = this.#acts;
    const anew = "The address so far opens nothing any more; who is in stays in";
    button("ig-reissue", "New address", anew, () => reissue(row.link));
    const out = "Nobody gets in with it any more; where it is open the page goes dark";
    button("ig-revoke", "Revoke", out, (made) => sure(made, () => revoke(row.link)));
    row.append(buttons);
    return row;
  }

  #overRow(link, now) {
    const row = this.#rows.get(`${link.id} over`) ?? newRow();
    row.link = link;
    const revoked = link.state === "revoked";
    const ago = age(now - (revoked ? link.revoked_at : link.expires_at));
    tell(row, [`${revoked ? "revoked" : "expired"} ${ago} ago`, ...used(link, now)], []);
    return row;
  }

  #scope(scope) {
    if (scope.kind === "all") return "all gates";
    if (scope.kind === "title") return `gates titled “${scope.title}”`;
    const { queue, skipped, history } = this.#gates;
    const gate = [...queue, ...skipped, ...history].find((one) => one.id === scope.gate);
    return gate ? `only “${gate.title}”` : "one gate";
  }
}

/** What is open to others, as long as a link leads there. */
function renderDoors(live, door) {
  const lines = Object.keys(REACH).flatMap((reach) => {
    const { url, problem } = door[reach];
    if (!live.some((link) => link.reach === reach)) return [];
    if (problem) return [element("span", sentence(problem), { class: "ig-closed" })];
    if (url) return [element("span", `Open ${REACH[reach]} at ${new URL(url).host}`)];
    return [element("span", OPENING[reach])];
  });
  $("ig-doors").replaceChildren(...lines);
}

/** What the server says is wrong, as a sentence. */
export function sentence(problem) {
  return problem && problem[0].toUpperCase() + problem.slice(1) + (/[.!?]$/.test(problem) ? "" : ".");
}

/** Who came through a link, and what they did. */
function used(link, now) {
  if (!link.seen_at) return ["not opened yet"];
  const ago = now - link.seen_at;
  const browsers = `in ${link.opened} browser${link.opened === 1 ? "" : "s"}`;
  return [
    link.opened ? browsers : "new address not opened yet",
    `seen ${ago < MINUTE ? "just now" : `${age(ago)} ago`}`,
    `${link.decisions} decision${link.decisions === 1 ? "" : "s"}`,
  ];
}

/** How long still, to the nearest: a link of 24 hours is not one of 23. */
function left(seconds) {
  const size = seconds >= 2 * DAY ? DAY : seconds >= 1.5 * HOUR ? HOUR : MINUTE;
  const name = { [DAY]: "day", [HOUR]: "hour", [MINUTE]: "minute" }[size];
  const count = Math.max(1, Math.round(seconds / size));
  return `${count} ${name}${count === 1 ? "" : "s"}`;
}

function newRow() {
  const row = element("li");
  row.append(element("b"), element("span"), element("small"));
  return row;
}

function tell(row, about, more) {
  const [name, first, second] = row.children;
  row.dataset.link = row.link.id;
  name.textContent = row.link.name;
  name.title = `link ${row.link.id}`; // as the history calls it
  first.textContent = about.filter(Boolean).join(" · ");
  second.textContent = more.join(" · ");
}

/** The rows of a list, with what has not changed left alone: a button keeps the focus. */
function fill(list, rows) {
  for (const row of [...list.children]) if (!rows.includes(row)) row.remove();
  rows.forEach((row, i) => list.children[i] !== row && list.insertBefore(row, list.children[i] ?? null));
}

/** The first click asks, the second one, not of the same double click, acts. */
function sure(button, act) {
  const waited = performance.now() - (button.asked ?? -SURE);
  if (waited < SETTLE) return;
  const calm = () => {
    button.textContent = button.said;
    button.asked = -SURE;
  };
  if (waited < SURE) {
    calm();
    act();
    return;
  }
  button.said = button.textContent;
  button.style.minWidth = `${button.offsetWidth}px`; // the others stay where they are
  button.textContent = "Really?";
  const asked = (button.asked = performance.now());
  setTimeout(() => button.asked === asked && calm(), SURE);
}
