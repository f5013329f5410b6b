import assert from "node:assert/strict";
import { test } from "node:test";
import { Viewers } from "../../imagegate/page/shared/queue/viewers.js";

const queue = ["a", "b", "c"].map((id) => ({ id }));

test("what others look at is put off for as long as that is to be believed, and no longer", () => {
  const viewers = new Viewers();
  const ids = (now) => viewers.order(queue, now).map(({ id }) => id);
  viewers.me = "me";
  viewers.take([["a", "me", 9]], 0);
  assert.deepEqual(ids(0), ["a", "b", "c"]);
  assert.ok(viewers.alone(0));
  viewers.take([["a", "ben", 9], ["b", "me", 9]], 0); // biome-ignore format: a table
  assert.deepEqual(ids(0), ["b", "c", "a"]);
  assert.ok(!viewers.alone(0));
  assert.deepEqual(ids(9001), ["a", "b", "c"]);
  assert.ok(viewers.alone(9001));
});

test("a gate comes to the front, and all others keep their order", () => {
  const ids = (id) => Viewers.front(queue, id).map((gate) => gate.id);
  assert.deepEqual(ids("c"), ["c", "a", "b"]);
  assert.deepEqual(ids("none"), ["a", "b", "c"]);
});
