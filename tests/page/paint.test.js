import assert from "node:assert/strict";
import { test } from "node:test";
import { canvasSize } from "../../imagegate/page/approver/paint.js";

test("a mask is painted at the image's own size, up to that of a preview", () => {
  assert.deepEqual(canvasSize(640, 480), [640, 480]);
  assert.deepEqual(canvasSize(1536, 1536), [1536, 1536]);
  assert.deepEqual(canvasSize(4096, 2048), [1536, 768]);
  assert.deepEqual(canvasSize(2048, 4096), [768, 1536]);
});

test("no side of a mask vanishes, however thin the image is", () => {
  assert.deepEqual(canvasSize(10_000, 1), [1536, 1]);
  assert.deepEqual(canvasSize(1, 10_000), [1, 1536]);
  assert.deepEqual(canvasSize(1, 1), [1, 1]);
});
