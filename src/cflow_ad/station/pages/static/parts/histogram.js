/* Two histograms of scores on one axis, and the threshold as a handle that is dragged or stepped. */
import { h, put, s } from "../core/dom.js";
import { formatDigits, formatScore } from "../core/format.js";
import { t } from "../core/texts.js";

const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [1000, 316, 14, 14, 26, 50];
const BINS = 60;
const STEP = 0.005;  // of the axis, for an arrow key

export class Histogram {
  constructor(root, onMove) {
    this.root = root;
    this.onMove = onMove;
    root.addEventListener("keydown", (event) => this.step(event));
    root.addEventListener("pointerdown", (event) => this.drag(event));
  }

  /* scores: {calibration: [score], recent: [{score, mark}], threshold}. */
  show(scores) {
    this.scores = scores;
    this.current = scores.threshold;
    this.value = scores.threshold;
    // What lies near the threshold matters; all that is far above it is in the last bar.
    const most = Math.max(0, ...scores.calibration, ...scores.recent.map((part) => part.score));
    this.low = 0;
    this.high = Math.min(1.05 * most, 2.5 * Math.max(scores.threshold, ...scores.calibration)) || 1;
    this.high = Math.max(this.high, 1.25 * scores.threshold);
    this.isCut = most > this.high;
    this.draw();
  }

  x(score) {
    const share = (Math.min(score, this.high) - this.low) / (this.high - this.low);
    return LEFT + share * (WIDTH - LEFT - RIGHT);
  }

  draw() {
    const { calibration, recent } = this.scores;
    const parts = recent.map((part) => part.score);
    const bars = countBins(parts, this.low, this.high);
    const steps = countBins(calibration, this.low, this.high);
    const ground = HEIGHT - BOTTOM;
    const y = (share) => ground - share * (ground - TOP);
    const wide = (WIDTH - LEFT - RIGHT) / BINS;
    this.bars = bars.map((share, bin) => share > 0 && s("rect", {
      x: LEFT + bin * wide + 1, width: wide - 2, y: y(share), height: ground - y(share), rx: 1.5,
    })).filter(Boolean);
    const outline = steps.map((share, bin) => `${bin ? "L" : "M"}${LEFT + bin * wide} ${y(share)}h${wide}`).join("");
    const { step, at } = niceTicks(this.low, this.high);
    const digits = Math.max(0, -Math.floor(Math.log10(step)));
    const ticks = at.map((tick) => s("g", { class: "tick" },
      s("line", { x1: this.x(tick), x2: this.x(tick), y1: ground, y2: ground + 5 }),
      s("text", { x: this.x(tick), y: HEIGHT - 10, "text-anchor": "middle" }, formatDigits(tick, digits))));
    const beyond = this.isCut && s("text", { x: WIDTH - RIGHT, y: TOP - 8, "text-anchor": "end" }, t("threshold.beyond"));
    const rug = recent.filter((part) => part.mark).map((part) => s("text", {
      class: part.mark === "defect" ? "rug bad" : "rug good", x: this.x(part.score), y: ground + 17, "text-anchor": "middle",
    }, part.mark === "defect" ? "✕" : "✓"));
    this.handle = s("g", { class: "handle", role: "slider", tabindex: 0, "aria-label": t("threshold.handle"), "aria-orientation": "horizontal" },
      s("rect", { class: "grip", x: -14, y: 2, width: 28, height: 20, rx: 6 }),
      s("path", { class: "grip-lines", d: "M-4 8v8M0 8v8M4 8v8" }),
      s("line", { y1: 22, y2: ground }));
    this.mark = s("line", { class: "was", y1: TOP, y2: ground });
    this.svg = s("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "histogram" },
      s("g", { class: "bars" }, this.bars), s("path", { class: "outline", d: outline }),
      s("line", { class: "axis", x1: LEFT, x2: WIDTH - RIGHT, y1: ground, y2: ground }), ticks, rug, beyond || "", this.mark, this.handle);
    put(this.root, this.svg, h("p", { class: "small soft legend" },
      h("span", { class: "key calibration" }, t("threshold.calibration", { n: calibration.length })),
      h("span", { class: "key recent" }, t("threshold.recent", { n: recent.length })),
      h("span", { class: "key bad" }, t("threshold.above")),
      rug.length > 0 && h("span", {}, `✓ ✕ ${t("threshold.marked")}`)));
    this.move(this.value, false);
  }

  move(value, tell = true) {
    this.value = Math.min(this.high, Math.max(this.low, value));
    this.handle.setAttribute("transform", `translate(${this.x(this.value)} 0)`);
    this.handle.setAttribute("aria-valuemin", this.low);
    this.handle.setAttribute("aria-valuemax", this.high);
    this.handle.setAttribute("aria-valuenow", this.value);
    this.handle.setAttribute("aria-valuetext", formatScore(this.value));
    this.mark.setAttribute("transform", `translate(${this.x(this.current)} 0)`);
    for (const bar of this.bars) {
      bar.classList.toggle("bad", Number(bar.getAttribute("x")) + Number(bar.getAttribute("width")) / 2 > this.x(this.value));
    }
    if (tell) this.onMove(this.value);
  }

  step(event) {
    if (!event.target.closest("[role=slider]")) return;
    const span = this.high - this.low;
    const steps = { ArrowLeft: -STEP, ArrowDown: -STEP, ArrowRight: STEP, ArrowUp: STEP, PageDown: -10 * STEP, PageUp: 10 * STEP };
    if (event.key in steps) this.move(this.value + steps[event.key] * span);
    else if (event.key === "Home") this.move(this.current);
    else return;
    event.preventDefault();
  }

  drag(event) {
    if (!event.target.closest("svg")) return;
    event.preventDefault();
    this.handle.focus();
    const at = ({ clientX }) => {
      const box = this.svg.getBoundingClientRect();
      const share = ((clientX - box.left) / box.width * WIDTH - LEFT) / (WIDTH - LEFT - RIGHT);
      this.move(this.low + share * (this.high - this.low));
    };
    at(event);
    this.root.setPointerCapture(event.pointerId);
    const stop = () => this.root.removeEventListener("pointermove", at);
    this.root.addEventListener("pointermove", at);
    this.root.addEventListener("pointerup", stop, { once: true });
    this.root.addEventListener("pointercancel", stop, { once: true });
  }
}

/* The share of values in each bin, over the largest; what lies above is in the last one. */
function countBins(values, low, high) {
  const counts = new Array(BINS).fill(0);
  for (const value of values) {
    const bin = Math.floor(((value - low) / (high - low)) * BINS);
    counts[Math.min(BINS - 1, Math.max(0, bin))] += 1;
  }
  const most = Math.max(1, ...counts);
  return counts.map((count) => count / most);
}

function niceTicks(low, high) {
  const raw = (high - low) / 8;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((each) => each >= raw);
  const first = Math.ceil(low / step);
  const n = Math.floor(high / step) - first + 1;
  return { step, at: Array.from({ length: n }, (_, index) => (first + index) * step) };
}
