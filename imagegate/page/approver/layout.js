/** The page's parts, as its HTML has them in a template. */

/** @type {Record<"look" | "decide" | "mask", string[]>} */
const ALLOWS = { look: [], decide: ["decide"], mask: ["decide", "mask"] };

/**
 * The page of a link, in which nothing is that the link does not allow.
 *
 * @param {DocumentFragment} whole the page for a link that allows everything
 * @param {"look" | "decide" | "mask"} may what the link allows
 */
export function layout(whole, may) {
  const page = /** @type {DocumentFragment} */ (whole.cloneNode(true));
  for (const part of page.querySelectorAll("[data-needs]")) {
    if (!ALLOWS[may].includes(part.getAttribute("data-needs") ?? "")) part.remove();
  }
  if (may !== "look") return page;
  for (const [part, text] of [
    ["#ig-skip span", "Next"],
    ["#ig-next", "next"],
  ]) {
    const named = page.querySelector(part);
    if (named) named.textContent = text;
  }
  return page;
}
