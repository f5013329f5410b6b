import assert from "node:assert/strict";
import { test } from "node:test";
import { StatusLine } from "../../imagegate/page/shared/status.js";

/** What was shown, in this order; `time(ms)` lets ticks of the clock pass. */
function shown(context, act) {
  const out = [];
  const ticks = new Set();
  context.mock.method(globalThis, "clearInterval", (tick) => ticks.delete(tick));
  const every = (tick) => ticks.add(tick) && tick;
  const status = new StatusLine(({ text }) => out.push(text), every);
  const say = (tone) => (text, about) => status.say({ text, tone, about });
  const time = (ms) => {
    for (let left = ms; left > 0; left -= 100) for (const tick of [...ticks]) tick();
  };
  act({ bad: say("bad"), good: say("good"), busy: say("busy"), plain: say(undefined), time, out });
  return out;
}

test("a hint that comes after a warning is shown after it, and of several the last", (context) => {
  const said = shown(context, ({ busy, bad, plain, time, out }) => {
    busy("Opening");
    bad("Save first");
    plain("Paint");
    time(3900);
    plain("Paint now");
    out.push("-");
    time(100);
  });
  assert.deepEqual(said, ["Opening", "Save first", "-", "Paint now"]);
});

test("no warning takes the place of another that has not been read; the same one is said once", (context) => {
  const said = shown(context, ({ bad, time, out }) => {
    for (const text of ["one", "two", "two", "one"]) bad(text);
    time(1700);
    out.push("-");
    time(9000);
  });
  assert.deepEqual(said, ["one", "-", "two"]);
});

test("that a mask was not saved is not said any longer once it was", (context) => {
  const said = shown(context, ({ bad, good, time }) => {
    bad("Not saved", "mask");
    good("Recorded");
    good("Saved", "mask");
    time(9000);
  });
  assert.deepEqual(said, ["Not saved", "Saved"]);
});

test("what is under way and what was done is replaced by whatever comes next", (context) => {
  const said = shown(context, ({ busy, good, bad }) => {
    busy("Sending");
    good("Recorded");
    busy("Loading");
    bad("Lost");
  });
  assert.deepEqual(said, ["Sending", "Recorded", "Loading", "Lost"]);
});
