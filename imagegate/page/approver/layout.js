/** The page's parts. What the link does not allow is not among them. */

const SIGNS = {
  list: '<path d="M4 6.5l1.5 1.5L8.5 5M4 12.5L5.5 14 8.5 11M4 18.5L5.5 20 8.5 17M12 6.5h8M12 12.5h8M12 18.5h8"/>',
  mask: '<path d="M4 20c3 0 5-1 5-3.5a2.5 2.5 0 0 0-5 0C4 18 3.5 19 3 19.5M9 14.5L18.5 4a1.7 1.7 0 0 1 2.5 2.5L11 16"/>',
  note: '<path d="M4 5h16v11H10l-4 4v-4H4z"/>',
  skip: '<path d="M5 5l8 7-8 7zM18 5v14"/>',
  undo: '<path d="M8 5L4 9l4 4M4 9h10a5 5 0 0 1 0 10H9"/>',
  brush: '<circle cx="12" cy="12" r="6" fill="currentColor"/>',
  eraser: '<path d="M9 19l-5-5L14 4l6 6-9 9zM8.5 9.5l6 6M9 19h11"/>',
  clear: '<path d="M4 7h16M9 7V4h6v3M6 7l1 13h10l1-13"/>',
  close: '<path d="M6 6l12 12M18 6L6 18"/>',
};

function sign(name) {
  return `<svg viewBox="0 0 24 24" aria-hidden="true">${SIGNS[name]}</svg>`;
}

function tool(id, name, text, more = "") {
  return `<button id="${id}" type="button" ${more}>${sign(name)}<span>${text}</span></button>`;
}

const NOTE = `
  <div id="ig-words" hidden>
    <input id="ig-note" maxlength="2000" placeholder="Note to go with the decision" aria-label="Note"
      autocomplete="off" enterkeyhint="done">
  </div>`;

/** In place of the routes while somebody paints. */
const PAINTING = `
  <div id="ig-paint" role="group" aria-label="Mask" hidden>
    <div class="ig-brush">
      <div class="ig-either" role="group" aria-label="Tool">
        ${tool("ig-paint-brush", "brush", "Brush", 'aria-pressed="true"')}
        ${tool("ig-paint-eraser", "eraser", "Eraser", 'aria-pressed="false" title="E"')}
      </div>
      <input id="ig-paint-size" type="range" min="6" max="120" step="1" aria-label="Brush size">
    </div>
    <div class="ig-tools">
      ${tool("ig-paint-undo", "undo", "Undo", 'title="Ctrl+Z" aria-label="Undo stroke" disabled')}
      ${tool("ig-mask-clear", "clear", "Clear")}
      <button id="ig-mask-cancel" type="button">Cancel</button>
      <button id="ig-mask-save" type="button" class="ig-primary" title="M" aria-label="Save mask">Save</button>
    </div>
  </div>`;

/** @param {"look" | "decide" | "mask"} may what the link allows */
export function layout(may) {
  const [decides, paints] = [may !== "look", may === "mask"];
  const keys = [
    decides ? "<kbd>1</kbd>–<kbd>9</kbd>, <kbd>0</kbd> routes" : "",
    paints ? "<kbd>M</kbd> mask" : "",
    `<kbd>N</kbd> ${decides ? "skip" : "next"}`,
    decides ? "<kbd>U</kbd> undo" : "",
    "<kbd>Space</kbd> zoom",
  ];
  return `
  <header id="ig-head">
    <div class="ig-named">
      <h1 id="ig-title"></h1>
      <p><span id="ig-facts"></span><span id="ig-clock" role="timer"></span></p>
    </div>
    <span id="ig-pending"></span>
    <button id="ig-past-open" type="button" aria-haspopup="dialog">${sign("list")}<span></span></button>
    <progress id="ig-progress" aria-label="Decided" hidden></progress>
  </header>
  <main id="ig-view">
    <div id="ig-stage">
      <div id="ig-frame"><img id="ig-image" alt="" draggable="false"><canvas id="ig-mask" hidden></canvas></div>
      <div id="ig-ring" hidden></div>
      <div id="ig-loading" role="progressbar" aria-label="Loading the image" hidden><i></i></div>
      <div id="ig-failed" role="alert" hidden><p></p><button id="ig-retry" type="button">Try again</button></div>
      <div id="ig-empty" hidden><h2></h2><p></p><div id="ig-empty-alerts"><small>Be told when something new waits:</small></div></div>
      <p id="ig-offline" role="alert" hidden></p>
      <p id="ig-status" role="status" aria-live="polite"></p>
    </div>
    <div class="ig-strip">
      <span id="ig-which"></span>
      <div id="ig-thumbs" role="tablist" aria-label="Images of this batch"></div>
    </div>
  </main>
  <footer id="ig-dock">
    ${decides ? NOTE : ""}
    <div class="ig-tools" id="ig-tools">
      ${paints ? tool("ig-mask-edit", "mask", "Mask", 'title="M" aria-label="Paint a mask"') : ""}
      ${decides ? tool("ig-note-open", "note", "Note", 'aria-expanded="false" aria-controls="ig-words"') : ""}
      ${tool("ig-skip", "skip", decides ? "Skip" : "Next", 'title="N"')}
      ${decides ? tool("ig-undo", "undo", "Undo", 'title="U"') : ""}
    </div>
    ${decides ? '<div id="ig-routes" role="group" aria-label="Routes"></div>' : ""}
    ${paints ? PAINTING : ""}
    <p class="ig-keys">${keys.filter(Boolean).join(" · ")}</p>
  </footer>
  <dialog id="ig-past" aria-labelledby="ig-past-title">
    <header>
      <h2 id="ig-past-title"></h2>
      <button id="ig-past-close" type="button" aria-label="Close">${sign("close")}</button>
    </header>
    ${
      decides
        ? `<div class="ig-either" role="group" aria-label="Whose decisions">
      <button id="ig-past-mine" type="button" aria-pressed="true">Mine</button>
      <button id="ig-past-all" type="button" aria-pressed="false">Everybody’s</button>
    </div>`
        : ""
    }
    <div class="ig-scroll">
      <ol id="ig-history"></ol>
      <p id="ig-past-none" hidden></p>
      <button id="ig-past-more" type="button" hidden>Show more</button>
    </div>
    <footer>
      <p id="ig-person"></p>
      <div id="ig-alerts"></div>
      <button id="ig-leave" type="button">Leave</button>
    </footer>
  </dialog>`;
}
