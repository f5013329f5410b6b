import assert from "node:assert/strict";
import { test } from "node:test";
import { age, amount, left, remarks, short, span } from "../../imagegate/page/shared/parts.js";

test("a clock counts seconds, minutes and hours, and days in a word", () => {
  const clock = [-1, 0, 65, 7200, 172_799, 172_800].map(span);
  assert.deepEqual(clock, ["0:00", "0:00", "1:05", "2:00:00", "47:59:59", "2 days"]);
});

test("an age is a number of whole units, as one would say it", () => {
  const ages = [0, 1, 59, 60, 3599, 3600, 86_400, 259_200].map(age);
  assert.deepEqual(ages, "0 seconds,1 second,59 seconds,1 minute,59 minutes,1 hour,1 day,3 days".split(","));
});

test("how long still is said to the nearest unit, and never as nothing", () => {
  assert.deepEqual([0, 300, 86_395, 172_795, 604_000].map(left), [
    "1 minute",
    "5 minutes",
    "24 hours",
    "48 hours",
    "7 days",
  ]);
});

test("an amount has two or three digits and its unit", () => {
  const amounts = [0, 999, 1200, 999_600, 12_345_678, 1.5e12].map(amount);
  assert.deepEqual(amounts, ["0 bytes", "999 bytes", "1.2 kB", "1.0 MB", "12 MB", "1.5 TB"]);
});

test("a text is cut between its signs", () => {
  assert.equal(short("🎈".repeat(3), 3), "🎈".repeat(3));
  assert.equal(short("🎈".repeat(4), 3), `${"🎈".repeat(2)}…`);
  assert.equal(short("one two three", 5), "one…");
});

test("what a server says about an image is a list, or nothing", () => {
  const reply = (text) => new Response("", { headers: text ? { "imagegate-remarks": text } : {} });
  assert.deepEqual(remarks(reply('["16 bit"]')), ["16 bit"]);
  assert.deepEqual([remarks(reply("")), remarks(reply("{"))], [[], []]);
});
