/**
 * Strokes that are not saved yet, by gate and image, kept in this browser tab: ComfyUI takes the page away
 * whenever a node is collapsed or another workflow tab is opened. They never become a mask by themselves.
 *
 * @import { Gate } from "../shared/queue/rest.js"
 */

const PREFIX = "imagegate.draft ";
const MOST = 400_000; // letters; the server takes 512 kB in one call
const DRAWN = 5000; // ms that Gradio's editor may take to draw what it was given
const COVERED = 77; // alpha from which on a pixel counts as painted; half of panel.py's PAINT_ALPHA

/** @type {(gate: Gate, index: number) => string} */
const name = (gate, index) => `${PREFIX}${gate.id} ${index}`;

/** What was painted, as the data URL of a PNG; empty where nothing is kept.
 *  @type {(gate: Gate, index: number) => string} */
export function draftOf(gate, index) {
  return sessionStorage.getItem(name(gate, index)) ?? "";
}

/** @type {(gate: Gate, index: number) => void} */
export function dropDraft(gate, index) {
  sessionStorage.removeItem(name(gate, index));
}

/** Keep what stands in Gradio's editor now. Where the editor does not give it, nothing is kept.
 *  @type {(gate: Gate, index: number) => void} */
export function keepDraft(gate, index) {
  try {
    const png = painted();
    if (png.length > MOST) throw new Error("they are too many");
    try {
      sessionStorage.setItem(name(gate, index), png);
    } catch {
      // It is full: those of other images go.
      for (const key of Object.keys(sessionStorage)) if (key.startsWith(PREFIX)) sessionStorage.removeItem(key);
      sessionStorage.setItem(name(gate, index), png);
    }
  } catch (error) {
    console.debug("Image Gate: strokes that are not saved cannot be kept.", error);
  }
}

/** Resolves once the editor has drawn the strokes that it was given. */
export async function drawn() {
  const end = performance.now() + DRAWN;
  while (performance.now() < end) {
    try {
      if (pixels().data.some((value, at) => at % 4 === 3 && value >= COVERED)) return;
    } catch {
      // it is not there yet
    }
    await new Promise((done) => setTimeout(done, 100));
  }
}

/** The editor's layer as the data URL of a PNG in black and white. */
function painted() {
  const image = pixels();
  const { data, width, height } = image;
  for (let at = 0; at < data.length; at += 4) {
    data[at] = data[at + 1] = data[at + 2] = data[at + 3] >= COVERED ? 255 : 0;
    data[at + 3] = 255;
  }
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d")).putImageData(image, 0, 0);
  return canvas.toDataURL("image/png");
}

/** What is in the editor's layer now. `editor` is Gradio's own handle. */
function pixels() {
  const { app, layer_manager } = /** @type {any} */ (globalThis).editor;
  const { draw } = layer_manager.get_layer_textures(layer_manager.layers[0].id);
  const layer = app.renderer.extract.canvas({ target: draw });
  const canvas = Object.assign(document.createElement("canvas"), { width: layer.width, height: layer.height });
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d", { willReadFrequently: true }));
  context.drawImage(layer, 0, 0);
  return context.getImageData(0, 0, canvas.width, canvas.height);
}
