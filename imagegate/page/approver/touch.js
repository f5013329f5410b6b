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

export class Touch {
  /** How much larger than fitting the stage it is. */
  scale = 1;
  /** What a single finger does instead of panning: {begin, move, end, drop}, each with points. */
  tool = null;

  #stage;
  #frame;
  #page;
  #x = 0; // of the frame's corner in the stage
  #y = 0;
  #wide = 1; // the frame at scale 1
  #high = 1;
  #image = null; // {width, height}
  #fingers = new Map();
  #start = null; // of the gesture: {at, time, moved, most}
  #tapped = null; // the tap before
  #glide = 0;

  /** @param {{seen: function, swiped: function}} page `seen` after each change of what is seen */
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

  /** Another image: it fits the stage. */
  show(width, height) {
    this.#image = { width, height };
    this.scale = 1;
    this.#fit();
  }

  /** How many image pixels a screen pixel stands for, at the size it is seen. */
  get density() {
    return this.#image.width / (this.#wide * this.scale * devicePixelRatio);
  }

  /** CSS pixels that the image is wide. */
  get seen() {
    return this.#wide * this.scale;
  }

  get zoomed() {
    return this.scale > 1.01;
  }

  /** Fit, or a closer look around a point of the screen. */
  toggle(at = this.#middle()) {
    const close = Math.max(2.5, Math.min(this.#most, this.scale * this.density));
    this.#smoothly(() => this.#zoom(this.zoomed ? 1 : close, at));
  }

  /** Move what is zoomed. */
  pan(dx, dy) {
    this.#smoothly(() => this.#place(this.#x + dx, this.#y + dy));
  }

  zoomBy(factor) {
    this.#smoothly(() => this.#zoom(this.scale * factor, this.#middle()));
  }

  /** Where on the image a point of the screen is, 0 to 1 from left and top. */
  onImage(at) {
    const box = this.#stage.getBoundingClientRect();
    return {
      x: (at.clientX - box.x - this.#x) / this.seen,
      y: (at.clientY - box.y - this.#y) / (this.#high * this.scale),
    };
  }

  // -- fingers

  #down(event) {
    if (event.target.closest("button") || !this.#image) return;
    if (event.pointerType === "mouse" && event.button === 2) return;
    this.#halt();
    this.#stage.setPointerCapture(event.pointerId);
    this.#fingers.set(event.pointerId, { clientX: event.clientX, clientY: event.clientY });
    const first = this.#fingers.size === 1;
    if (first) this.#start = { at: event, time: event.timeStamp, moved: false, most: 1, last: [] };
    this.#start.most = Math.max(this.#start.most, this.#fingers.size);
    const draws = event.pointerType !== "mouse" || event.button === 0;
    if (first && this.tool && draws) {
      this.#start.draws = true;
      this.tool.begin(event);
    } else if (this.#start.draws) {
      this.#start.draws = false; // a second finger: it was the beginning of a pinch
      this.tool?.drop(event.timeStamp - this.#start.time);
    }
  }

  #move(event) {
    const before = this.#fingers.get(event.pointerId);
    if (!before) return;
    if (this.#start.draws) {
      this.tool?.move(event.getCoalescedEvents?.().length ? event.getCoalescedEvents() : [event]);
      return;
    }
    const [was, reach] = [this.#centre(), this.#reach()];
    this.#fingers.set(event.pointerId, { clientX: event.clientX, clientY: event.clientY });
    const [is, now] = [this.#centre(), this.#reach()];
    const { at } = this.#start;
    if (Math.hypot(event.clientX - at.clientX, event.clientY - at.clientY) > STILL) this.#start.moved = true;
    if (this.#fingers.size > 1) {
      this.#start.moved = true;
      this.#zoom(this.scale * (reach ? now / reach : 1), was);
    }
    if (this.zoomed) this.#place(this.#x + is.clientX - was.clientX, this.#y + is.clientY - was.clientY);
    const { last } = this.#start;
    last.push({ time: event.timeStamp, x: is.clientX, y: is.clientY });
    if (last.length > 5) last.shift();
  }

  #up(event, cancelled = false) {
    if (!this.#fingers.delete(event.pointerId)) return;
    const start = this.#start;
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

  #tap(event) {
    const before = this.#tapped;
    const twice =
      before &&
      event.timeStamp - before.timeStamp < TWICE &&
      Math.hypot(event.clientX - before.clientX, event.clientY - before.clientY) < NEAR;
    this.#tapped = twice ? null : event;
    if (twice) this.toggle(event);
  }

  #wheel(event) {
    if (!this.#image) return;
    event.preventDefault();
    this.#halt();
    const lines = event.deltaMode ? 16 : 1;
    const fine = event.ctrlKey ? 0.01 : 0.002; // a pinch on a touchpad comes as a wheel with ctrl
    this.#zoom(this.scale * Math.exp(-event.deltaY * lines * fine), event);
  }

  /** A flick goes on for a moment. */
  #glideOn(last, now) {
    const [first, newest] = [last[0], last.at(-1)];
    if (!first || now - newest.time > 60 || newest.time === first.time || calm()) return;
    let vx = (newest.x - first.x) / (newest.time - first.time);
    let vy = (newest.y - first.y) / (newest.time - first.time);
    let before = performance.now();
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
    return Math.max(LEAST_MOST, (this.#image.width / devicePixelRatio / this.#wide) * CLOSEST);
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

  #zoom(scale, at) {
    const box = this.#stage.getBoundingClientRect();
    const [across, down] = [at.clientX - box.x, at.clientY - box.y];
    const wanted = Math.min(this.#most, Math.max(1, scale));
    const by = wanted / this.scale;
    this.scale = wanted;
    this.#place(across - (across - this.#x) * by, down - (down - this.#y) * by);
  }

  /** The frame's corner there; no edge of a large image leaves the edge of the stage. */
  #place(x, y) {
    const within = (at, room, size) => (size <= room ? (room - size) / 2 : Math.min(0, Math.max(room - size, at)));
    this.#x = within(x, this.#stage.clientWidth, this.seen);
    this.#y = within(y, this.#stage.clientHeight, this.#high * this.scale);
    const { style } = this.#frame;
    style.width = `${this.seen}px`;
    style.height = `${this.#high * this.scale}px`;
    style.transform = `translate(${this.#x}px, ${this.#y}px)`;
    this.#page.seen();
  }

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
