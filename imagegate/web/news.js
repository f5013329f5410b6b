/**
 * What ComfyUI's websocket says of gates, and what REST says of them.
 *
 * Pages of other origins may listen to that websocket. Its messages have a gate's id, node and state
 * alone; the rest is asked for here, by a call that only pages of ours can make.
 */
/** @import { Gate } from "./gates.js" */

import { api } from "./comfy.js";
import { say } from "./toasts.js";

const TOGETHER = 20; // ms; the items of a list are asked for in one call
const MOST = 50; // in one call
const TROUBLE = 20_000; // ms; a message to be read

/** Ids that are to be asked for. @type {Set<string>} */
const ids = new Set();
/** The calls so far: an answer never overtakes the one before. @type {Promise<unknown>} */
let calls = Promise.resolve();
let refused = "";

/**
 * What the server knows of gates: what waits, or the gates with the ids of the query.
 *
 * @returns {Promise<{waiting: Gate[], gates: Gate[]}>} one of the two
 */
export async function notices(query = "") {
  /** @type {Record<string, string>} */
  const headers = api.user ? { "Comfy-User": api.user } : {}; // with --multi-user, whose are shown
  const url = api.fileURL(`/imagegate/notices${query}`);
  const response = await fetch(url, { cache: "no-store", headers });
  if (response.ok) return response.json();
  const { error = response.statusText } = await response.json().catch(() => ({}));
  if (response.status === 403 && error !== refused) {
    say("Image Gate", error, { severity: "error", life: TROUBLE });
    refused = error;
  }
  throw new Error(`${response.status} ${error}`);
}

/** Calls `act(gate)` with each gate of which there is news, as it is by then. @param {(gate: Gate) => void} act */
export function follow(act) {
  const ask = () => {
    const asked = [...ids].slice(0, MOST);
    for (const id of asked) ids.delete(id);
    if (ids.size) setTimeout(ask, TOGETHER);
    calls = calls
      .then(() => notices(`?ids=${asked.map(encodeURIComponent).join(",")}`))
      .then(({ gates }) => gates.forEach(act))
      .catch((error) => console.warn("Image Gate: cannot ask for news.", error));
  };
  for (const kind of ["published", "decided", "withdrawn"]) {
    /** @type {EventTarget} */ (api).addEventListener(`imagegate.${kind}`, (event) => {
      if (!ids.size) setTimeout(ask, TOGETHER);
      ids.add(/** @type {CustomEvent<{id: string}>} */ (event).detail.id);
    });
  }
}
