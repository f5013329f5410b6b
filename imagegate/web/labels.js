/** The labels of a node as they are written in its `labels` widget; the rules are those of labels.py. No DOM. */

const WRITTEN = /[^\S\n]*"((?:[^"\n]|"")*)"[^\S\n]*(?=[,\n]|$)|([^,\n]*)/y;

/** The labels in a text, trimmed: separated by commas or line breaks, one in double quotes may have commas. @param {string} text */
export function splitLabels(text) {
  /** @type {string[]} */
  const labels = [];
  for (let at = 0; at <= text.length; at = WRITTEN.lastIndex + 1) {
    WRITTEN.lastIndex = at;
    const [, quoted, bare] = WRITTEN.exec(text) ?? [];
    labels.push((quoted?.replaceAll('""', '"') ?? bare).trim());
  }
  return labels;
}

/** The text that `splitLabels` makes these labels of. @param {string[]} labels */
export function joinLabels(labels) {
  /** @param {string} label */
  const quoted = (label) => (/[,"]/.test(label) ? `"${label.replaceAll('"', '""')}"` : label);
  return labels.map(quoted).join(", ");
}

const TURNS = /[\u202a-\u202e\u2066-\u2069]/g;

/** A text that people wrote, in a sentence: it cannot turn around what stands beside it. @param {string} text */
export function isolated(text) {
  return `\u2068${text.replace(TURNS, "")}\u2069`;
}

/** What a gate is about: "Portrait · “keep”, “fix”". @param {{title?: string, labels?: string[]}} gate */
export function about({ title, labels = [] }) {
  const offered = labels.map((label) => `“${isolated(label)}”`).join(", ");
  return [isolated(title || "Image Gate"), offered].filter(Boolean).join(" · ");
}
