/**
 * Texts that people wrote, as they are said in sentences: labels that look alike are told apart, and
 * what turns the direction of writing stays inside. No DOM. The rules for labels are those of labels.py.
 */

const NOTHING = /[\p{Cc}\p{Cf}\p{Cs}\u115f\u1160\u2800\u3164\uffa0\u{1d159}]/gu;
const SEPARATORS = /\p{Z}+/gu;
const MARKS = /\p{M}/gu;
/** What sets the direction of the text around it. */
const TURNS = /[\u202a-\u202e\u2066-\u2069]/gu;
/** What is written from right to left, or asks for it. */
const RIGHT_TO_LEFT =
  /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\u{10800}-\u{10fff}\u{1e800}-\u{1efff}\u200f\u202a-\u202e\u2066-\u2069]/u;

/** A text as a person sees it, to compare. @param {string} text */
export function visible(text) {
  return text.normalize("NFC").replace(NOTHING, "").replace(SEPARATORS, " ").trim();
}

/** Whether anything of a text can be seen. @param {string} text */
export function shows(text) {
  return visible(text).replace(MARKS, "") !== "";
}

/** The label of a route (1-based), with its number where the label alone could be another's.
 *  @type {(labels: string[], route: number) => string} */
export function toldApart(labels, route) {
  const label = labels[route - 1] ?? "";
  const seen = labels.map(visible);
  const own = seen[route - 1];
  const alike = seen.filter((other) => other === own).length > 1;
  const number = own !== String(route) && seen.some((_, i) => own === String(i + 1));
  return alike || number ? `${route} · ${label}` : label;
}

/** A text in the middle of a sentence: it cannot turn around what stands beside it. @param {string} text */
export function isolated(text) {
  return RIGHT_TO_LEFT.test(text) ? `\u2068${text.replace(TURNS, "")}\u2069` : text;
}
