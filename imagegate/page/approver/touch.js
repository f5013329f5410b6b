/**
 * Fingers, mouse and wheel on the stage: pinch, pan, double tap. A tool, while there is one, gets
 * what a single finger draws; two fingers always move the image.
 *
 * The frame is laid out at the size it is seen, so the browser paints every pixel it has.
 */

const TAP = 250; // ms a finger may rest for a tap
const TWICE = 320; // ms between the taps of a double tap
const STILL = 10; // px a finger may wander and still tap
const NEAR = 40; // px between the taps of a double tap
const SWIPE = 56; // px
const ENLARGED = 4; // times at most a small image is, before anybody zooms
const CLOSEST = 4; // screen pixels an image pixel can have
const LEAST_MOST = 4; // times at least one can zoom
const GLIDE = 0.994; // of the speed is left after 1 ms
const SLOWEST = 0.03; // px/ms

/**
 * @typedef {{clientX: number, clientY: number}} Point of the screen
 * @typedef {{time: number, x: number, y: number}} Moment
 *
 * @typedef {object} Tool what a single finger does instead of panning
 * @property {(at: Point) => void} begin
 * @property {(events: Point[]) => void} move
 * @property {() => void} end
 * @property {(age: number) => void} drop a second finger came after so many ms
 *
 * @typedef {object} Gesture
 * @property {PointerEvent} at where it began
 * @property {number} time
 * @property {boolean} moved
 * @property {number} most fingers at once
 * @property {Moment[]} last
 * @property {boolean} [draws]
 */

export class Touch {
  /** How much larger than fitting the stage it is. */
  scale = 1;
  /** What a single finger does instead of panning. @type {Tool | null} */
  tool = null;

  /** @type {HTMLElement} */
  #stage;
  /** @type {HTMLElement} */
  #frame;
  /** @type {{seen: () => void, swiped: (by: number) => void}} */
  #page;
  #x = 0; // of the frame's corner in the stage
  #y = 0;
  #wide = 1; // the frame at scale 1
  #high = 1;
  /** @type {{width: number, height: number} | null} */
  #image = null;
  /** @type {Map<number, Point>} */
  #fingers = new Map();
  /** @type {Gesture | null} */
  #start = null;
  /** @type {PointerEvent | null} */
  #tapped = null; // the tap before
  #glide = 0;

  /**
   * @param {HTMLElement} stage
   * @param {HTMLElement} frame
   * @param {{seen: () => void, swiped: (by: number) => void}} page `seen` after each change of what is seen
   */
  constructor(stage, frame, page) {
    [this.#stage, this.#frame, this.#page] = [stage, frame, page];
    stage.addEventListener("pointerdown", (event) => this.#down(event));
    stage.addEventListener("pointermove", (event) => this.#move(event));
    stage.addEventListener("pointerup", (event) => this.#up(event));
    stage.addEventListener("pointercancel", (event) => this.#up(event, true));
    stage.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    stage.addEventListener("contextmenu", (event) => this.tool && event.preventDefault());
    new ResizeObserver(() => this.#fit()).observe(stage);
  }

  /** Another image: it fits the stage. @type {(width: number, height: number) => void} */
  show(width, height) {
    this.#image = { width, height };
    this.scale = 1;
    this.#fit();
  }

  /** How many image pixels a screen pixel stands for, at the size it is seen. */
  get density() {
    return (this.#image?.width ?? 1) / (this.#wide * this.scale * devicePixelRatio);
  }

  /** CSS pixels that the image is wide. */
  get seen() {
    return this.#wide * this.scale;
  }

  get zoomed() {
    return this.scale > 1.01;
  }

  /** Fit, or a closer look around a point of the screen. @param {Point} at */
  toggle(at = this.#middle()) {
    const close = Math.max(2.5, Math.min(this.#most, this.scale * this.density));
    this.#smoothly(() => this.#zoom(this.zoomed ? 1 : close, at));
  }

  /** Move what is zoomed. @type {(dx: number, dy: number) => void} */
  pan(dx, dy) {
    this.#smoothly(() => this.#place(this.#x + dx, this.#y + dy));
  }

  /** @param {number} factor */
  zoomBy(factor) {
    this.#smoothly(() => this.#zoom(this.scale * factor, this.#middle()));
  }

  /** Where on the image a point of the screen is, 0 to 1 from left and top. @param {Point} at */
  onImage(at) {
    const box = this.#stage.getBoundingClientRect();
    return {
      x: (at.clientX - box.x - this.#x) / this.seen,
      y: (at.clientY - box.y - this.#y) / (this.#high * this.scale),
    };
  }

  // -- fingers

  /** @param {PointerEvent} event */
  #down(event) {
    const target = /** @type {Element} */ (event.target);
    if (target.closest("button") || !this.#image) return;
    if (event.pointerType === "mouse" && event.button === 2) return;
    this.#halt();
    this.#stage.setPointerCapture(event.pointerId);
    this.#fingers.set(event.pointerId, { clientX: event.clientX, clientY: event.clientY });
    const first = this.#fingers.size === 1;
    /** @type {Gesture} */
    const fresh = { at: event, time: event.timeStamp, moved: false, most: 1, last: [] };
    const start = (first ? null : this.#start) ?? fresh;
    this.#start = start;
    start.most = Math.max(start.most, this.#fingers.size);
    const draws = event.pointerType !== "mouse" || event.button === 0;
    if (first && this.tool && draws) {
      start.draws = true;
      this.tool.begin(event);
    } else if (start.draws) {
      start.draws = false; // a second finger: it was the beginning of a pinch
      this.tool?.drop(event.timeStamp - start.time);
    }
  }

  /** @param {PointerEvent} event */
  #move(event) {
    const start = this.#start;
    if (!start || !this.#fingers.has(event.pointerId)) return;
    if (start.draws) {
      this.tool?.move(event.getCoalescedEvents?.().length ? event.getCoalescedEvents() : [event]);
      return;
    }
    const [was, reach] = [this.#centre(), this.#reach()];
    this.#fingers.set(event.pointerId, { clientX: event.clientX, clientY: event.clientY });
    const [is, now] = [this.#centre(), this.#reach()];
    const { at, last } = start;
    if (Math.hypot(event.clientX - at.clientX, event.clientY - at.clientY) > STILL) start.moved = true;
    if (this.#fingers.size > 1) {
      start.moved = true;
      this.#zoom(this.scale * (reach ? now / reach : 1), was);
    }
    if (this.zoomed) this.#place(this.#x + is.clientX - was.clientX, this.#y + is.clientY - was.clientY);
    last.push({ time: event.timeStamp, x: is.clientX, y: is.clientY });
    if (last.length > 5) last.shift();
  }

  /** @type {(event: PointerEvent, cancelled?: boolean) => void} */
  #up(event, cancelled = false) {
    const start = this.#start;
    if (!this.#fingers.delete(event.pointerId) || !start) return;
    start.last = this.#fingers.size ? [] : start.last;
    if (this.#fingers.size) return;
    if (start.draws) {
      if (cancelled) this.tool?.drop(0);
      else this.tool?.end();
    } else if (!cancelled && start.most === 1) {
      const quick = event.timeStamp - start.time < TAP;
      const across = event.clientX - start.at.clientX;
      const down = event.clientY - start.at.clientY;
      if (!start.moved && quick && !this.tool) this.#tap(event);
      else if (this.zoomed) this.#glideOn(start.last, event.timeStamp);
      else if (Math.abs(across) > SWIPE && Math.abs(down) < Math.abs(across) / 2 && !this.tool) {
        this.#page.swiped(across < 0 ? 1 : -1);
      }
    }
  }

  /** @param {PointerEvent} event */
  #tap(event) {
    const before = this.#tapped;
    const twice =
      before &&
      event.timeStamp - before.timeStamp < TWICE &&
      Math.hypot(event.clientX - before.clientX, event.clientY - before.clientY) < NEAR;
    this.#tapped = twice ? null : event;
    if (twice) this.toggle(event);
  }

  /** @param {WheelEvent} event */
  #wheel(event) {
    if (!this.#image) return;
    event.preventDefault();
    this.#halt();
    const lines = event.deltaMode ? 16 : 1;
    const fine = event.ctrlKey ? 0.01 : 0.002; // a pinch on a touchpad comes as a wheel with ctrl
    this.#zoom(this.scale * Math.exp(-event.deltaY * lines * fine), event);
  }

  /** A flick goes on for a moment. @type {(last: Moment[], now: number) => void} */
  #glideOn(last, now) {
    const [first, newest] = [last[0], last.at(-1)];
    if (!first || !newest || now - newest.time > 60 || newest.time === first.time || calm()) return;
    let vx = (newest.x - first.x) / (newest.time - first.time);
    let vy = (newest.y - first.y) / (newest.time - first.time);
    let before = performance.now();
    /** @param {number} time */
    const step = (time) => {
      const ms = Math.max(0, time - before);
      before = time;
      this.#place(this.#x + vx * ms, this.#y + vy * ms);
      [vx, vy] = [vx * GLIDE ** ms, vy * GLIDE ** ms];
      if (Math.hypot(vx, vy) > SLOWEST) this.#glide = requestAnimationFrame(step);
    };
    this.#glide = requestAnimationFrame(step);
  }

  #halt() {
    cancelAnimationFrame(this.#glide);
    this.#frame.classList.remove("ig-smooth");
  }

  #centre() {
    const all = [...this.#fingers.values()];
    /** @param {keyof Point} name */
    const mean = (name) => all.reduce((sum, finger) => sum + finger[name], 0) / all.length;
    return { clientX: mean("clientX"), clientY: mean("clientY") };
  }

  /** How far apart two fingers are. */
  #reach() {
    const [one, two] = this.#fingers.values();
    return two ? Math.hypot(one.clientX - two.clientX, one.clientY - two.clientY) : 0;
  }

  // -- what is seen

  get #most() {
    return Math.max(LEAST_MOST, ((this.#image?.width ?? 1) / devicePixelRatio / this.#wide) * CLOSEST);
  }

  #middle() {
    const box = this.#stage.getBoundingClientRect();
    return { clientX: box.x + box.width / 2, clientY: box.y + box.height / 2 };
  }

  /** Another image, or another stage: what was in its middle stays there. */
  #fit() {
    if (!this.#image || !this.#stage.clientWidth) return;
    this.#halt();
    const { width, height } = this.#image;
    const [room, rise] = [this.#stage.clientWidth, this.#stage.clientHeight];
    const middle = this.onImage(this.#middle());
    const fits = Math.min(room / width, rise / height, ENLARGED);
    [this.#wide, this.#high] = [width * fits, height * fits];
    this.scale = Math.min(this.scale, this.#most);
    this.#place(room / 2 - middle.x * this.seen, rise / 2 - middle.y * this.#high * this.scale);
  }

  /** @type {(scale: number, at: Point) => void} */
  #zoom(scale, at) {
    const box = this.#stage.getBoundingClientRect();
    const [across, down] = [at.clientX - box.x, at.clientY - box.y];
    const wanted = Math.min(this.#most, Math.max(1, scale));
    const by = wanted / this.scale;
    this.scale = wanted;
    this.#place(across - (across - this.#x) * by, down - (down - this.#y) * by);
  }

  /** The frame's corner there; no edge of a large image leaves the edge of the stage.
   *  @type {(x: number, y: number) => void} */
  #place(x, y) {
    /** @type {(at: number, room: number, size: number) => number} */
    const within = (at, room, size) => (size <= room ? (room - size) / 2 : Math.min(0, Math.max(room - size, at)));
    this.#x = within(x, this.#stage.clientWidth, this.seen);
    this.#y = within(y, this.#stage.clientHeight, this.#high * this.scale);
    const { style } = this.#frame;
    style.width = `${this.seen}px`;
    style.height = `${this.#high * this.scale}px`;
    style.transform = `translate(${this.#x}px, ${this.#y}px)`;
    this.#page.seen();
  }

  /** @param {() => void} change */
  #smoothly(change) {
    if (!this.#image) return;
    this.#halt();
    if (!calm()) this.#frame.classList.add("ig-smooth");
    change();
  }
}

function calm() {
  return matchMedia("(prefers-reduced-motion: reduce)").matches;
}
