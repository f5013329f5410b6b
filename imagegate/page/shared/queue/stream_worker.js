/** One event stream for all panels of this browser; see stream.js. */

import { follow } from "./stream.js";

/** @type {Set<MessagePort>} */
const ports = new Set();
let online = false;

/** @param {MessageEvent} event */
const connected = ({ ports: [port] }) => {
  ports.add(port);
  port.onmessage = () => ports.delete(port); // "bye"
  // It reads everything anew, as after a connection was lost.
  port.postMessage(online ? ["reload", {}] : ["lost", null]);
};
Object.assign(globalThis, { onconnect: connected });

follow(new URL("../../../api/events", import.meta.url), (kind, content) => {
  online = kind !== "lost";
  for (const port of ports) port.postMessage([kind, content]);
  if (kind === "over") globalThis.close(); // whoever comes later begins with a worker of its own
});
