/**
 * Painting a mask: a canvas over the image. Strokes are remembered as they were drawn, so that each
 * can be taken back; what is saved is black and white.
 *
 * @import { Gate } from "../shared/queue/rest.js"
 * @import { Point, Touch } from "./touch.js"
 * @typedef {{erases: boolean, width: number, points: [number, number][]}} Stroke
 */

const LONGEST = 1536; // px of the canvas: as large as a preview
const HALF = 128; // from here on a pixel of the mask it starts from counts as painted
const COLOUR = "#ff2d78";
const BEGUN = 300; // ms; a stroke that is younger when a second finger comes was none

/** The canvas for an image of this size. @type {(width: number, height: number) => [number, number]} */
export function canvasSize(width, height) {
  const scale = Math.min(1, LONGEST / Math.max(width, height));
  return [Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale))];
}

/** Draw a mask in colour: what is white in it covers, what is grey covers as much.
 *  @type {(canvas: HTMLCanvasElement, gate: {width: number, height: number}, png: Blob | null) => Promise<void>} */
export async function drawMask(canvas, gate, png) {
  [canvas.width, canvas.height] = canvasSize(gate.width, gate.height);
  if (!png) return;
  const picture = await createImageBitmap(png);
  const brush = brushOf(canvas);
  brush.imageSmoothingQuality = "high";
  brush.drawImage(picture, 0, 0, canvas.width, canvas.height);
  picture.close();
  const pixels = brush.getImageData(0, 0, canvas.width, canvas.height);
  const { data } = pixels;
  for (let i = 0; i < data.length; i += 4) {
    data[i + 3] = data[i];
    [data[i], data[i + 1], data[i + 2]] = [255, 45, 120];
  }
  brush.putImageData(pixels, 0, 0);
}

/** @param {HTMLCanvasElement} canvas */
function brushOf(canvas) {
  return /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d", { willReadFrequently: true }));
}

export class Paint {
  /** Diameter in CSS pixels: who zooms in paints finer. */
  size = 36;
  erases = false;
  canvas;

  #touch;
  /** @type {CanvasRenderingContext2D} */
  #brush;
  /** @type {ImageData} */
  #start; // the mask that painting starts from, in black and white
  /** @type {(Stroke | "clear" | "none")[]} */
  #done = []; // strokes, and "clear"
  /** @type {Stroke | null} */
  #now = null; // the stroke that is being drawn
  #changed;

  /**
   * @param {Touch} touch
   * @param {Gate} gate
   * @param {() => void} changed called when a stroke was added or taken back
   */
  constructor(touch, gate, changed) {
    this.#touch = touch;
    this.#changed = changed;
    this.canvas = document.createElement("canvas");
    this.canvas.id = "ig-editor";
    this.gate = gate;
    this.#brush = brushOf(this.canvas);
    this.#start = new ImageData(1, 1);
  }

  /** Begin with a mask, or with none. @param {Blob | null} png */
  async open(png) {
    const { canvas } = this;
    await drawMask(canvas, this.gate, png);
    this.#start = this.#brush.getImageData(0, 0, canvas.width, canvas.height);
    const { data } = this.#start;
    for (let i = 3; i < data.length; i += 4) data[i] = data[i] >= HALF ? 255 : 0;
    this.#brush.putImageData(this.#start, 0, 0);
    this.#brush.lineCap = this.#brush.lineJoin = "round";
    this.#touch.tool = this;
  }

  close() {
    this.#touch.tool = null;
    this.canvas.remove();
    this.canvas.width = 0; // lets go of its memory at once
  }

  /** Whether there is something to take back, and so to save. */
  get touched() {
    return this.#done.length > 0;
  }

  undo() {
    if (this.#now) return;
    this.#done.pop();
    this.#brush.putImageData(this.#start, 0, 0);
    for (const stroke of this.#done) this.#draw(stroke, 0);
    this.#changed();
  }

  clear() {
    this.#now = null;
    this.#done.push("clear");
    this.#draw("clear", 0);
    this.#changed();
  }

  /** The mask as a PNG, white painted; null for one in which nothing is. @returns {Promise<Blob | null>} */
  async png() {
    const { width, height } = this.canvas;
    const pixels = this.#brush.getImageData(0, 0, width, height);
    const { data } = pixels;
    let any = false;
    for (let i = 0; i < data.length; i += 4) {
      const painted = data[i + 3] >= HALF;
      any ||= painted;
      data[i] = data[i + 1] = data[i + 2] = painted ? 255 : 0;
      data[i + 3] = 255;
    }
    if (!any) return null;
    const flat = Object.assign(document.createElement("canvas"), { width, height });
    flat.getContext("2d")?.putImageData(pixels, 0, 0);
    return new Promise((resolve) => flat.toBlob(resolve, "image/png"));
  }

  // -- called by Touch

  /** @param {Point} at */
  begin(at) {
    const pixel = this.canvas.width / this.#touch.seen; // of the canvas in a CSS pixel
    this.#now = { erases: this.erases, width: this.size * pixel, points: [this.#point(at)] };
    this.#draw(this.#now, 0);
  }

  /** @param {Point[]} events */
  move(events) {
    if (!this.#now) return;
    const from = this.#now.points.length;
    for (const at of events) this.#now.points.push(this.#point(at));
    this.#draw(this.#now, from);
  }

  end() {
    if (!this.#now) return;
    this.#done.push(this.#now);
    this.#now = null;
    this.#changed();
  }

  /** A second finger came after so many ms. @param {number} age */
  drop(age) {
    if (age > BEGUN) {
      this.end();
    } else if (this.#now) {
      this.#now = null;
      this.#done.push("none");
      this.undo();
    }
  }

  // -- inside

  /** @param {Point} at @returns {[number, number]} */
  #point(at) {
    const { x, y } = this.#touch.onImage(at);
    return [x * this.canvas.width, y * this.canvas.height];
  }

  /** Draw a stroke from its point number `from` on. @type {(stroke: Stroke | "clear" | "none", from: number) => void} */
  #draw(stroke, from) {
    const brush = this.#brush;
    if (stroke === "clear") brush.clearRect(0, 0, this.canvas.width, this.canvas.height);
    if (typeof stroke === "string") return;
    const { points, width } = stroke;
    brush.globalCompositeOperation = stroke.erases ? "destination-out" : "source-over";
    brush.fillStyle = brush.strokeStyle = COLOUR;
    brush.lineWidth = width;
    if (from === 0) {
      brush.beginPath();
      brush.arc(...points[0], width / 2, 0, 2 * Math.PI);
      brush.fill();
    }
    brush.beginPath();
    brush.moveTo(...points[Math.max(0, from - 1)]);
    for (const point of points.slice(from)) brush.lineTo(...point);
    brush.stroke();
  }
}
