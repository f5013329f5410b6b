import assert from "node:assert/strict";
import { test } from "node:test";
import { decided, gate, json, Stage } from "./fakes.js";

async function stage(waits, more = {}) {
  return Object.assign(new Stage(), { waits, ...more }).open();
}

test("what waits comes oldest first, and what is parked after what holds a prompt up", async () => {
  const gates = await stage([gate("a", { state: "parked" }), gate("b"), gate("c")]);
  assert.deepEqual(gates.ids, ["b", "c", "a"]);
  assert.equal(gates.waiting, 3);
  assert.equal(gates.current.id, "b");
});

test("an answer leaves the queue at once, and is said to be recorded when the server has it", async () => {
  const gates = await stage([gate("a"), gate("b")]);
  let record = () => {};
  gates.replies.decision = () => new Promise((done) => (record = () => done(json({ outcome: "won" }))));
  const answer = gates.decide(gates.current, 1, { by: "Anna", note: "" });
  assert.deepEqual(gates.ids, ["b"]);
  assert.equal(gates.unsent, 1);
  assert.ok(!gates.said.some((said) => said.includes("recorded")));
  record();
  await answer;
  assert.equal(gates.unsent, 0);
  assert.ok(gates.said.includes("“keep” recorded for a."));
});

test("each click has a key of its own, by which the server knows a repetition", async () => {
  const gates = await stage([gate("a"), gate("b")]);
  await gates.decide(gates.current, 1, { by: "", note: "" });
  await gates.decide(gates.current, 1, { by: "", note: "" });
  const keys = gates.posted("decision").map(({ key }) => key);
  assert.equal(new Set(keys).size, 2);
});

test("an answer that comes too late says who was first, and what they chose", async () => {
  const gates = await stage([gate("a")]);
  const decision = { route: 2, by: "Ben", note: "", at: 1 };
  gates.replies.decision = json({ outcome: "lost", decision }, 409);
  await gates.decide(gates.current, 1, { by: "Anna", note: "" });
  assert.ok(gates.said.includes("Too late for a: Ben chose “fix” first."));
});

test("a gate whose answer was refused comes back to the front", async () => {
  const gates = await stage([gate("a"), gate("b")]);
  gates.replies.decision = json({ error: "there is no route 3" }, 422);
  await gates.decide(gates.current, 2, { by: "", note: "" });
  assert.deepEqual(gates.ids, ["a", "b"]);
  assert.ok(gates.said.includes("Not recorded: there is no route 3"));
});

test("what others decided leaves the queue, and is said where it was on show", async () => {
  const gates = await stage([gate("a"), gate("b"), gate("c")]);
  gates.heard("decided", { gate: decided(gate("b"), 1, "Ben"), waiting: 2 });
  gates.heard("decided", { gate: decided(gate("a"), 2, "Ben"), waiting: 1 });
  await gates.until(() => gates.ids.join() === "c");
  assert.deepEqual(gates.said, ["a: Ben chose “fix”."]);
  assert.deepEqual(
    gates.history.map(({ id }) => id),
    ["a", "b"],
  );
});

test("old news of an end does not take away a gate that waits again", async () => {
  const gates = await stage([gate("a", { version: 5 })]);
  gates.heard("decided", { gate: decided(gate("a"), 1, "Ben"), waiting: 1 });
  gates.heard("published", { gate: gate("b"), waiting: 2 });
  await gates.until(() => gates.ids.includes("b"));
  assert.deepEqual(gates.ids, ["a", "b"]);
});

test("a list that was read before an answer does not bring the gate back", async () => {
  const gates = await stage([gate("a"), gate("b")]);
  await gates.decide(gates.current, 1, { by: "", note: "" });
  await gates.open(); // the server still lists it
  assert.deepEqual(gates.ids, ["b"]);
});

test("what is skipped comes again after all others", async () => {
  const gates = await stage([gate("a"), gate("b")]);
  gates.skip();
  assert.deepEqual(gates.ids, ["b"]);
  await gates.decide(gates.current, 1, { by: "", note: "" });
  assert.deepEqual(gates.ids, ["a"]);
  gates.skip();
  assert.deepEqual(gates.ids, ["a"]);
  assert.equal(gates.said.at(-1), "There is no other gate to go to.");
});

test("the next page is read before the queue runs dry", async () => {
  const all = Array.from({ length: 52 }, (_, i) => gate(`g${i}`, { created_at: i }));
  const gates = await stage(all);
  assert.equal(gates.queue.length, 50);
  for (let i = 0; i < 46; i++) await gates.decide(gates.current, 1, { by: "", note: "" });
  await gates.until(() => gates.ids.includes("g51"));
  assert.deepEqual(gates.ids, ["g46", "g47", "g48", "g49", "g50", "g51"]);
});

test("Undo takes back the last answer of this page, after those that are on their way", async () => {
  const gates = await stage([gate("a", { undoable: true }), gate("b", { undoable: true })]);
  let record = () => {};
  gates.replies.decision = () => new Promise((done) => (record = () => done(json({ outcome: "won" }))));
  gates.replies.undo = () => json(gate("a", { version: 3, undoable: true }));
  gates.decide(gates.current, 1, { by: "", note: "" });
  const undone = gates.undo();
  record();
  await undone;
  assert.deepEqual(
    gates.calls.filter(([, path]) => path !== "looking").map(([, path]) => path),
    ["gates/a/decision", "gates/a/undo"],
  );
  assert.deepEqual(gates.ids, ["a", "b"]);
  assert.ok(gates.said.includes("Taken back: a waits again."));
});

test("where nothing can be taken back Undo says so", async () => {
  const gates = await stage([gate("a")]);
  await gates.undo();
  assert.deepEqual(gates.said, ["There is nothing to undo."]);
});

test("a page about one node of one workflow hears of no other", async () => {
  const gates = Object.assign(new Stage("1", "w"), { waits: [] });
  await gates.open();
  gates.heard("published", { gate: gate("a", { node_id: "2", workflow_id: "w" }), place_waiting: 9 });
  gates.heard("published", { gate: gate("b", { node_id: "1", workflow_id: "v" }), place_waiting: 9 });
  gates.heard("published", { gate: gate("c", { node_id: "1", workflow_id: "w" }), place_waiting: 1 });
  await gates.until(() => gates.queue.length > 0);
  assert.deepEqual(gates.ids, ["c"]);
  assert.equal(gates.waiting, 1);
});

test("an answer without a connection is kept, and sent when the connection is back", async () => {
  const gates = await stage([gate("a"), gate("b")]);
  gates.cut = true;
  const answer = gates.decide(gates.current, 1, { by: "", note: "" });
  await gates.until(() => !gates.online);
  assert.equal(gates.unsent, 1);
  gates.cut = false;
  gates.heard("alive", {});
  await answer;
  assert.equal(gates.posted("decision").length, 1);
  assert.equal(gates.unsent, 0);
});

test("once it is over nothing is known, and nothing is heard or sent any more", async () => {
  const gates = await stage([gate("a")]);
  gates.heard("over", { reason: "revoked" });
  assert.ok(gates.over);
  assert.deepEqual([gates.queue, gates.history, gates.waiting], [[], [], 0]);
  gates.heard("published", { gate: gate("b"), waiting: 1 });
  await gates.readPast();
  assert.deepEqual(gates.queue, []);
});

test("of two people at one queue each is shown what the other does not look at", async () => {
  const gates = await stage([gate("a"), gate("b"), gate("c")]);
  gates.heard("looking", { looks: [["b", "somebody", 60]] });
  gates.heard("published", { gate: gate("d"), waiting: 4 }); // taken in after it
  await gates.until(() => gates.ids.includes("d"));
  assert.deepEqual(
    gates.next(2).map(({ id }) => id),
    ["c", "d"],
  );
  await gates.decide(gates.current, 1, { by: "", note: "" });
  assert.equal(gates.current.id, "c");
});

test("a signed decision of somebody else is not this person's to take back", async () => {
  const gates = new Stage();
  gates.me = () => "Anna";
  gates.ended = [decided(gate("a"), 1, "Ben", { undoable: true })];
  await gates.open();
  assert.equal(gates.undoable, null);
  gates.me = () => "Ben";
  assert.equal(gates.undoable.id, "a");
});
