/** Being told of what waits while the page is not looked at. A placeholder: it tells nobody yet. */

export class Alerts {
  /** @param {HTMLElement} host of its toggles */
  constructor(host) {
    this.host = host;
  }

  /** @param {number} n how many wait now */
  count(n) {
    this.n = n;
  }
}
