/**
 * Runs before Gradio's scripts, whose server cannot know how the browser sees this page: there may be
 * proxies between them, with another name, scheme or path.
 */
(() => {
  const home = location.origin + location.pathname.replace(/\/$/, "");
  /** @type {any} */ (globalThis).gradio_config.root = home; // where Gradio's page asks for its files, and calls
  const { fetch } = globalThis;
  /** What Gradio calls here says that it comes from a page of ours, and from where. */
  globalThis.fetch = (what, how) => {
    const url = new URL(/** @type {Request} */ (what).url ?? what, document.baseURI).href;
    if (!url.startsWith(`${home}/`)) return fetch(what, how);
    const headers = new Headers(how?.headers ?? /** @type {Request} */ (what).headers);
    headers.set("x-imagegate", home);
    return fetch(what, { ...how, headers });
  };
  // Modules say which page asks for them, as calls that change something do: where the server takes
  // that page for somebody else's, nothing but this script comes.
  const refused = async (/** @type {any} */ { target }) => {
    if (!target.closest?.("script, link")) return;
    const reply = await globalThis.fetch(`${home}/api/gates`, { method: "POST" });
    if (reply.status === 403) document.body.textContent = (await reply.json()).error;
  };
  addEventListener("error", (event) => refused(event).catch(() => {}), true);
})();
