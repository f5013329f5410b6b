/**
 * News from the server. A browser opens only six connections to one server, and an event stream
 * keeps one: all panels of this browser, in nodes and in tabs, share a single stream through a
 * shared worker. Where there are no shared workers (phones) a page has its own.
 */

/** @typedef {(kind: string, content?: any) => void} Take */

const KINDS = ["reload", "alive", "published", "masked", "decided", "withdrawn", "links", "looking", "over"];
const RETRY_FIRST = 400; // ms
const RETRY_MOST = 5000;
const SILENT = 16_000; // ms; the server says something every 5 s, so the line is dead

/**
 * Calls `tell(kind, content)` for all news; kind "lost" says that the connection broke, "over" that
 * there will be no more. Returns what ends it.
 *
 * @param {URL} base
 * @param {Take} tell
 * @param {string} whose pages of this name share a stream
 */
export function subscribe(base, tell, whose = "") {
  // A page that comes back from the browser's memory has missed everything.
  addEventListener("pageshow", (event) => event.persisted && location.reload());
  const url = new URL("api/events", base);
  if (!globalThis.SharedWorker) return follow(url, tell);
  const script = new URL("stream_worker.js", import.meta.url);
  const worker = new SharedWorker(script, { type: "module", name: `imagegate ${whose}`.trim() });
  const bye = () => worker.port.postMessage("bye");
  let end = () => {
    bye();
    worker.port.close();
  };
  worker.port.onmessage = ({ data: [kind, content] }) => tell(kind, content);
  worker.onerror = () => (end = follow(url, tell));
  addEventListener("pagehide", bye);
  return () => end();
}

/** Follow the stream at `url`, and open it again whenever it breaks or falls silent. @type {(url: URL, tell: Take) => () => void} */
export function follow(url, tell) {
  let pause = RETRY_FIRST;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let watchdog;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let next;
  /** @type {EventSource} */
  let source;
  const end = () => {
    clearTimeout(watchdog);
    clearTimeout(next);
    source.close();
  };
  const open = () => {
    source = new EventSource(url);
    const again = () => {
      end();
      next = setTimeout(open, pause); // first: whoever is told may end it
      pause = Math.min(pause * 2, RETRY_MOST);
      tell("lost", null);
    };
    const heard = () => {
      clearTimeout(watchdog);
      watchdog = setTimeout(again, SILENT);
    };
    for (const kind of KINDS) {
      source.addEventListener(kind, (event) => {
        pause = RETRY_FIRST;
        if (kind === "over") end();
        else heard();
        tell(kind, JSON.parse(event.data));
      });
    }
    source.onerror = again; // the browser gives up on an error status, and waits long on others
    heard();
  };
  open();
  return end;
}
