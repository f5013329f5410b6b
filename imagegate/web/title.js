/** The title of ComfyUI's page says how many images wait, as the panel's does. */

let prefix = "";
/** @type {MutationObserver | null} */
let observer = null;

/** @param {number} count */
export function countInTitle(count) {
  const before = prefix;
  prefix = count ? `(${count}) ` : "";
  write(before);
  const title = document.querySelector("title");
  if (observer || !title) return;
  observer = new MutationObserver(() => write(prefix)); // ComfyUI writes it anew again and again
  observer.observe(title, { childList: true });
}

/** @param {string} before */
function write(before) {
  const { title } = document;
  const wanted = prefix + (title.startsWith(before) ? title.slice(before.length) : title);
  if (wanted !== title) document.title = wanted;
}
