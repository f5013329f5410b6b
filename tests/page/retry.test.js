import assert from "node:assert/strict";
import { test } from "node:test";
import { Retry } from "../../imagegate/page/shared/retry.js";

test("what failed is tried again after ever longer pauses, half a minute at most", ({ mock }) => {
  mock.timers.enable({ apis: ["setTimeout"] });
  let tries = 0;
  const retry = new Retry(() => tries++);
  for (const [i, pause] of [1000, 2000, 4000, 8000, 16_000, 30_000, 30_000].entries()) {
    retry.failed();
    mock.timers.tick(pause - 1);
    assert.equal(tries, i);
    mock.timers.tick(1);
    assert.equal(tries, i + 1);
  }
});

test("it can be tried at once, if it failed, and then not a second time", ({ mock }) => {
  mock.timers.enable({ apis: ["setTimeout"] });
  let tries = 0;
  const retry = new Retry(() => tries++);
  retry.now();
  assert.equal(tries, 0);
  retry.failed();
  retry.now();
  mock.timers.tick(60_000);
  assert.equal(tries, 1);
});

test("what went well is not tried again, and begins with a short pause the next time", ({ mock }) => {
  mock.timers.enable({ apis: ["setTimeout"] });
  let tries = 0;
  const retry = new Retry(() => tries++);
  retry.failed();
  retry.failed();
  retry.end();
  mock.timers.tick(60_000);
  assert.equal(tries, 0);
  retry.failed();
  mock.timers.tick(1000);
  assert.equal(tries, 1);
});
