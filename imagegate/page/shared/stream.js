/**
 * News from the server. A browser opens only six connections to one server, and an event stream
 * keeps one: all panels of this browser, in nodes and in tabs, share a single stream through a
 * shared worker. Where there are no shared workers (phones) a page has its own.
 */

const KINDS = ["reload", "alive", "published", "masked", "decided", "withdrawn", "links"];
const RETRY_FIRST = 400; // ms
const RETRY_MOST = 5000;
const SILENT = 16_000; // ms; the server says something every 5 s, so the line is dead

/** Calls `tell(kind, content)` for all news; kind "lost" says that the connection broke. */
export function subscribe(base, tell) {
  if (!globalThis.SharedWorker) {
    follow(new URL("api/events", base), tell);
    return;
  }
  const script = new URL("stream_worker.js", import.meta.url);
  const worker = new SharedWorker(script, { type: "module", name: "imagegate" });
  worker.port.onmessage = ({ data: [kind, content] }) => tell(kind, content);
  worker.onerror = () => follow(new URL("api/events", base), tell);
  addEventListener("pagehide", () => worker.port.postMessage("bye"));
  // A page that comes back from the browser's memory has missed everything.
  addEventListener("pageshow", (event) => event.persisted && location.reload());
}

/** Follow the stream at `url`, and open it again whenever it breaks or falls silent. */
export function follow(url, tell) {
  let pause = RETRY_FIRST;
  let watchdog = 0;
  const open = () => {
    const source = new EventSource(url);
    const again = () => {
      tell("lost", null);
      clearTimeout(watchdog);
      source.close();
      setTimeout(open, pause);
      pause = Math.min(pause * 2, RETRY_MOST);
    };
    const heard = () => {
      clearTimeout(watchdog);
      watchdog = setTimeout(again, SILENT);
    };
    for (const kind of KINDS) {
      source.addEventListener(kind, (event) => {
        pause = RETRY_FIRST;
        heard();
        tell(kind, JSON.parse(event.data));
      });
    }
    source.onerror = again; // the browser gives up on an error status, and waits long on others
    heard();
  };
  open();
}
