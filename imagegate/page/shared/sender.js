/** Sends what somebody clicked until the server has said what became of it. */

const RETRY_FIRST = 400; // ms
const RETRY_MOST = 5000;
const GONE_FOR_NOW = new Set([502, 503, 504]);

export class Sender {
  #call;
  /** @type {Set<() => void>} */
  #asleep = new Set(); // what waits for the connection
  #over = false;

  /** @param {(url: string | URL, options: RequestInit) => Promise<Response>} call what `fetch` is, for the page */
  constructor(call) {
    this.#call = call;
  }

  /**
   * Post until there is an answer: [status, body]. Sending twice is safe: the server knows a
   * repetition.
   *
   * @param {string | URL} url
   * @param {object} body
   * @param {(why: string) => void} waits called when it has to be tried again, with what the server said
   * @returns {Promise<[number, any]>}
   */
  async post(url, body, waits) {
    for (let pause = RETRY_FIRST; !this.#over; pause = Math.min(pause * 2, RETRY_MOST)) {
      let why = "";
      try {
        const reply = await this.#call(url, {
          method: "POST",
          headers: { "content-type": "application/json" },
          body: JSON.stringify(body),
        });
        if (!GONE_FOR_NOW.has(reply.status) && isOurs(reply)) {
          return [reply.status, await reply.json().catch(() => ({ error: reply.statusText }))];
        }
        why = await reason(reply);
      } catch {
        // no connection: tried again
      }
      if (this.#over) break;
      waits(why);
      /** @type {Promise<void>} */
      const slept = new Promise((wake) => {
        this.#asleep.add(wake);
        setTimeout(wake, pause);
      });
      await slept;
    }
    return [0, { error: "this page is over" }];
  }

  /** The connection is back: what could not be sent is sent now. */
  wake() {
    for (const wake of this.#asleep) wake();
    this.#asleep.clear();
  }

  /** Send nothing more. */
  end() {
    this.#over = true;
    this.wake();
  }
}

/** Whether the server itself answered: what a tunnel or a proxy says in its place is a page. @param {Response} reply */
export function isOurs(reply) {
  return (reply.headers.get("content-type") ?? "").includes("json");
}

/** Why the server said no; "no connection" where it said nothing.
 *  @type {(reply?: Response | null) => Promise<string>} */
export async function reason(reply) {
  if (!reply) return "no connection";
  const body = await reply.json().catch(() => ({}));
  return body.error ?? reply.statusText;
}
