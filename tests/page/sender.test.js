import assert from "node:assert/strict";
import { test } from "node:test";
import { reason, Sender } from "../../imagegate/page/shared/sender.js";
import { json } from "./fakes.js";

/** What `fetch` gives, one after the other; the last one for ever. */
function server(...replies) {
  const calls = [];
  const call = async (...args) => {
    calls.push(args);
    const reply = replies.length > 1 ? replies.shift() : replies[0];
    if (!reply) throw new TypeError("fetch failed");
    return reply.clone();
  };
  return { call, calls };
}

const tunnel = new Response("<h1>no tunnel here</h1>", { status: 404, headers: { "content-type": "text/html" } });

test("what the server says is the answer, also a refusal", async () => {
  const { call, calls } = server(json({ error: "too late" }, 409));
  assert.deepEqual(await new Sender(call).post("there", { route: 1 }, assert.fail), [409, { error: "too late" }]);
  const [url, { method, body }] = calls[0];
  assert.deepEqual([url, method, body], ["there", "POST", '{"route":1}']);
});

test("what could not be sent is sent again with the same body, until the server itself answers", async () => {
  const { call, calls } = server(null, tunnel, json({ error: "starting" }, 503), json({ outcome: "replay" }));
  const sender = new Sender(call);
  const whys = [];
  const waits = (why) => {
    whys.push(why);
    setImmediate(() => sender.wake());
  };
  const [status] = await sender.post("there", { key: "k" }, waits);
  assert.equal(status, 200);
  assert.equal(calls.length, 4);
  assert.equal(new Set(calls.map(([, { body }]) => body)).size, 1);
  assert.deepEqual(whys, ["", "", "starting"]);
});

test("without a connection the attempts come after ever longer pauses, five seconds at most", async (context) => {
  context.mock.timers.enable({ apis: ["setTimeout"] });
  const { call, calls } = server(null);
  const sender = new Sender(call);
  let tried = () => {};
  const sent = sender.post("there", {}, () => tried());
  const again = () => new Promise((done) => (tried = done));
  await again();
  for (const pause of [400, 800, 1600, 3200, 5000, 5000]) {
    await null; // it lies down to sleep
    const before = calls.length;
    context.mock.timers.tick(pause - 1);
    assert.equal(calls.length, before);
    context.mock.timers.tick(1);
    await again();
    assert.equal(calls.length, before + 1);
  }
  await null;
  sender.end();
  assert.deepEqual(await sent, [0, { error: "this page is over" }]);
});

test("why the server said no is its own sentence, or what its status means", async () => {
  assert.equal(await reason(json({ error: "no such route" }, 422)), "no such route");
  assert.equal(await reason(new Response("<p>", { status: 500, statusText: "Internal Error" })), "Internal Error");
  assert.equal(await reason(null), "no connection");
});
