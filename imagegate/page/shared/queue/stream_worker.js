/** One event stream for all panels of this browser; see stream.js. */

import { follow } from "./stream.js";

const ports = new Set();
let online = false;

globalThis.onconnect = ({ ports: [port] }) => {
  ports.add(port);
  port.onmessage = () => ports.delete(port); // "bye"
  // It reads everything anew, as after a connection was lost.
  port.postMessage(online ? ["reload", {}] : ["lost", null]);
};

follow(new URL("../../../api/events", import.meta.url), (kind, content) => {
  online = kind !== "lost";
  for (const port of ports) port.postMessage([kind, content]);
  if (kind === "over") globalThis.close(); // whoever comes later begins with a worker of its own
});
