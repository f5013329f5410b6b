import assert from "node:assert/strict";
import { test } from "node:test";
import { Pause } from "../../imagegate/page/shared/pause.js";

/** What became of each press, given as (at, click, answer); `act` does it. */
function verdicts(act) {
  const pause = new Pause();
  const out = [];
  act(pause, (at, click = false, answer = 1) => out.push(pause.press(at, click, answer)));
  return out;
}

for (const gap of [1, 50, 250, 400, 990]) {
  test(`a key meant for the image that went ${gap} ms ago acknowledges, and the next one counts`, () => {
    const seen = verdicts((pause, press) => {
      pause.changed(false, 5000);
      pause.visible(5020);
      press(5000 + gap);
      press(5000 + gap + 30);
      press(5000 + gap + 300);
    });
    assert.deepEqual(seen, ["acknowledges", "early", "counts"]);
  });
}

test("a key that was pressed before the change, and is heard of after it, does nothing", () => {
  const seen = verdicts((pause, press) => {
    pause.changed(false, 5000);
    pause.visible(5020);
    for (const at of [4990, 5300, 5600]) press(at);
  });
  assert.deepEqual(seen, ["early", "acknowledges", "counts"]);
});

test("who looks for a second needs to acknowledge nothing; typing prolongs that second", () => {
  const rested = verdicts((pause, press) => {
    pause.changed(false, 5000);
    pause.visible(5020);
    press(6000);
  });
  assert.deepEqual(rested, ["counts"]);
  const typing = verdicts((pause, press) => {
    pause.changed(false, 5000);
    pause.visible(5020);
    pause.typed(5500);
    pause.typed(6200);
    press(7100);
    press(7500);
  });
  assert.deepEqual(typing, ["acknowledges", "counts"]);
});

test("after a change of one's own a key counts once the image was visible, and not before", () => {
  const seen = verdicts((pause, press) => {
    pause.changed(true, 5000);
    pause.began(4990);
    press(5080);
    pause.visible(5100);
    press(5200);
    pause.changed(true, 5201);
    pause.began(5200);
    pause.visible(5220);
    press(5300);
  });
  assert.deepEqual(seen, ["early", "counts", "counts"]);
});

test("the second click of a double click does not count, however busy the page was meanwhile", () => {
  const seen = verdicts((pause, press) => {
    pause.changed(true, 5100);
    pause.began(5000);
    pause.visible(5110);
    press(5190, true);
    press(5400, true);
  });
  assert.deepEqual(seen, ["early", "counts"]);
});

test("without an image a route asks once more", () => {
  const seen = verdicts((pause, press) => {
    pause.changed(true, 5000);
    pause.failed();
    press(5500);
    press(6200);
  });
  assert.deepEqual(seen, ["unseen", "counts"]);
});

test("who goes on in their rhythm confirms nothing", () => {
  const seen = verdicts((pause, press) => {
    pause.changed(true, 5000);
    for (let i = 1; i < 9; i++) press(5000 + 250 * i);
  });
  assert.deepEqual(seen, [...Array(3).fill("early"), ...Array(5).fill("unseen")]);
});

test("another route than the one that was asked about is asked about anew", () => {
  const seen = verdicts((pause, press) => {
    pause.changed(true, 5000);
    pause.failed();
    press(5500, true, 1);
    press(6200, true, 2);
    pause.visible(6300);
    press(7000, true, 2);
  });
  assert.deepEqual(seen, ["unseen", "unseen", "counts"]);
});
