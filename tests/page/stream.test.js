import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import { follow, subscribe } from "../../imagegate/page/shared/queue/stream.js";

/** The streams that were opened, oldest first. */
let opened;
let heard;
const tell = (kind, content) => heard.push([kind, content]);

class Source extends EventTarget {
  closed = false;
  constructor(url) {
    super();
    this.url = String(url);
    opened.push(this);
  }
  close() {
    this.closed = true;
  }
  send(kind, content) {
    this.dispatchEvent(Object.assign(new Event(kind), { data: JSON.stringify(content) }));
  }
}

beforeEach(({ mock }) => {
  [opened, heard] = [[], []];
  globalThis.EventSource = Source;
  mock.timers.enable({ apis: ["setTimeout"] });
});

test("each kind of news is passed on with its content", () => {
  follow("events", tell);
  opened[0].send("published", { waiting: 1 });
  assert.deepEqual(heard, [["published", { waiting: 1 }]]);
});

test("a stream that breaks is said to be lost, and opened again after ever longer pauses", ({ mock }) => {
  follow("events", tell);
  for (const [i, pause] of [400, 800, 1600, 3200, 5000, 5000].entries()) {
    opened[i].onerror();
    assert.ok(opened[i].closed);
    mock.timers.tick(pause - 1);
    assert.equal(opened.length, i + 1);
    mock.timers.tick(1);
    assert.equal(opened.length, i + 2);
  }
  assert.deepEqual(heard, Array(6).fill(["lost", null]));
  opened[6].send("alive", {});
  opened[6].onerror();
  mock.timers.tick(400); // it had worked
  assert.equal(opened.length, 8);
});

test("a stream that falls silent is taken for broken", ({ mock }) => {
  follow("events", tell);
  mock.timers.tick(15_000);
  opened[0].send("alive", {});
  mock.timers.tick(15_000);
  assert.equal(opened[0].closed, false);
  mock.timers.tick(1000);
  assert.ok(opened[0].closed);
  assert.deepEqual(heard.at(-1), ["lost", null]);
});

test("after its end nothing is opened again", ({ mock }) => {
  follow("events", tell);
  opened[0].send("over", { reason: "revoked" });
  assert.ok(opened[0].closed);
  mock.timers.tick(60_000);
  assert.equal(opened.length, 1);
  const end = follow("events", tell);
  opened[1].onerror();
  end();
  mock.timers.tick(60_000);
  assert.equal(opened.length, 2);
});

test("where there are no shared workers a page has a stream of its own", () => {
  globalThis.addEventListener = () => {};
  const end = subscribe(new URL("http://panel/imagegate/"), tell);
  assert.equal(opened[0].url, "http://panel/imagegate/api/events");
  end();
  assert.ok(opened[0].closed);
});
