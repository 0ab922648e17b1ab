/* A part: picture, heat map, contours and regions on top of each other, with zoom. */
import { find, findAll, h, put } from "../core/dom.js";
import { formatDigits } from "../core/format.js";
import { t } from "../core/texts.js";

const LARGEST = 1600;  // pixels of the canvas that lines are drawn on
const ZOOMS = [1, 1.5, 2, 3, 4, 6, 8];

export class Viewer {
  constructor(root) {
    this.root = root;
    this.stage = find(".stage", root);
    this.picture = find(".picture", root);
    this.heat = find(".heat", root);
    this.lines = find(".lines", root);
    this.controls = Object.fromEntries(findAll("[data-layer]", root).map((input) => [input.dataset.layer, input]));
    this.opacity = find(".opacity", root);
    this.zoom = 0;
    this.chosen = null;
    for (const input of [...Object.values(this.controls), this.opacity]) {
      input.addEventListener("input", () => this.layout());
    }
    find(".zoom-in", root).addEventListener("click", () => this.zoomBy(1));
    find(".zoom-out", root).addEventListener("click", () => this.zoomBy(-1));
    new ResizeObserver(() => this.layout()).observe(find(".frame", root));
  }

  /* Show an inspection: of the station's record, or with pictures of its own as {picture, heat, mask} URLs. */
  async show(inspection, urls = addressesOf(inspection)) {
    const { id, score } = this.inspection ?? {};
    if (inspection.id === id && inspection.score === score && this.root.dataset.state === "shown") return;
    this.inspection = inspection;
    this.chosen = null;
    this.zoom = 0;
    this.mask = null;
    this.root.dataset.state = urls.picture ? "loading" : "absent";
    const about = inspection.is_anomalous === undefined ? t("viewer.part") : t(inspection.is_anomalous ? "viewer.anomalous" : "viewer.good");
    this.picture.alt = about;
    this.heat.removeAttribute("src");
    if (!urls.picture) {
      this.picture.removeAttribute("src");
      this.layout();
      return;
    }
    const shown = this.inspection;
    this.picture.src = urls.picture;
    if (urls.heat) this.heat.src = urls.heat;
    this.labelColours(inspection.map_threshold);
    const mask = urls.mask && inspection.is_anomalous ? readMask(urls.mask) : null;
    const picture = await settled(this.picture.decode().catch(() => this.decodeInstead(urls.instead)));
    if (this.inspection !== shown) return;  // another part came meanwhile
    this.root.dataset.state = picture.status === "fulfilled" ? "shown" : "absent";
    this.layout();
    const found = await settled(mask);  // the station draws it, which takes a moment
    if (this.inspection !== shown) return;
    this.mask = found.value ?? null;
    this.layout();
  }

  /* For files that a browser cannot show, such as TIFF. */
  async decodeInstead(url) {
    if (!url) throw new Error("no picture");
    this.picture.src = url;
    await this.picture.decode();
  }

  /* Colours have one meaning for all parts of a model: the map's threshold is in the middle. */
  labelColours(threshold) {
    const top = threshold > 0 && Number.isFinite(threshold) ? 2 * threshold : 1;
    const ticks = find(".ticks", this.root);
    put(ticks, [0, top / 2, top].map((value, index) => h("span", {},
      formatDigits(value, 1), index === 1 ? ` ${t("viewer.limit")}` : "")));
  }

  zoomBy(step) {
    const at = this.zoom + step;
    if (at < 0 || at >= ZOOMS.length) return;
    const frame = find(".frame", this.root);
    const [x, y] = [frame.scrollLeft + frame.clientWidth / 2, frame.scrollTop + frame.clientHeight / 2];
    const ratio = ZOOMS[at] / ZOOMS[this.zoom];
    this.zoom = at;
    this.layout();
    frame.scrollTo(x * ratio - frame.clientWidth / 2, y * ratio - frame.clientHeight / 2);
  }

  toggle(layer) {
    this.controls[layer].checked = !this.controls[layer].checked;
    this.layout();
  }

  choose(index) {
    this.chosen = this.chosen === index ? null : index;
    this.layout();
    return this.chosen;
  }

  layout() {
    const { width, height } = this.inspection ?? {};
    if (!width) return;
    const frame = find(".frame", this.root);
    const fit = Math.min(frame.clientWidth / width, frame.clientHeight / height, 8) * ZOOMS[this.zoom];
    this.stage.style.setProperty("width", `${Math.floor(width * fit)}px`);
    this.stage.style.setProperty("height", `${Math.floor(height * fit)}px`);
    this.heat.style.setProperty("opacity", this.controls.heat.checked ? this.opacity.value / 100 : 0);
    find(".zoom-out", this.root).disabled = this.zoom === 0;
    find(".zoom-in", this.root).disabled = this.zoom === ZOOMS.length - 1;
    this.draw(width, height, fit);
  }

  draw(width, height, fit) {
    const size = Math.min(LARGEST, Math.max(width, height) * fit * devicePixelRatio) / Math.max(width, height);
    this.lines.width = Math.round(width * size);
    this.lines.height = Math.round(height * size);
    const pen = this.lines.getContext("2d");
    const line = 1.6 * size / fit;
    if (this.controls.contours.checked && this.mask) {
      pen.save();
      pen.scale(this.lines.width / this.mask.width, this.lines.height / this.mask.height);
      const scale = this.lines.width / this.mask.width;
      for (const [colour, wide] of [["#000", 2.4], ["#fff", 1]]) {
        pen.strokeStyle = colour;
        pen.lineWidth = (line * wide) / scale;
        pen.stroke(this.mask.path);
      }
      pen.restore();
    }
    if (!this.controls.regions.checked) return;
    (this.inspection.regions ?? []).forEach((region, index) => this.drawRegion(pen, region, index, size, line));
  }

  drawRegion(pen, region, index, size, line) {
    const [left, top, right, bottom] = region.box.map((edge) => edge * size);
    const pad = 3 * line;
    const chosen = this.chosen === index;
    pen.setLineDash(chosen ? [] : [4 * line, 3 * line]);
    for (const [colour, wide] of [["#000", chosen ? 4.5 : 2.6], [chosen ? "#ffe14d" : "#fff", chosen ? 2.5 : 1.2]]) {
      pen.strokeStyle = colour;
      pen.lineWidth = line * wide;
      pen.strokeRect(left - pad, top - pad, right - left + 2 * pad, bottom - top + 2 * pad);
    }
    pen.setLineDash([]);
    const letter = 8.5 * line;
    pen.font = `700 ${letter}px sans-serif`;
    const wide = pen.measureText(index + 1).width + letter * .7;
    const [x, y] = [Math.max(0, left - pad), Math.max(0, top - pad - letter * 1.35)];
    pen.fillStyle = "#000";
    pen.fillRect(x, y, wide, letter * 1.35);
    pen.fillStyle = "#fff";
    pen.fillText(index + 1, x + letter * .35, y + letter * 1.05);
  }
}

const settled = async (promise) => (await Promise.allSettled([promise]))[0];

export function addressesOf(inspection) {
  if (!inspection.has_picture) return {};
  const base = `/v1/inspections/${inspection.id}`;
  if (inspection.score === undefined) return { picture: `${base}/picture`, instead: `${base}/thumbnail` };  // blind
  return { picture: `${base}/picture`, instead: `${base}/overlay`, heat: `${base}/heat`, mask: `${base}/mask` };
}

/* The outline of a mask: along the edges of its pixels. */
async function readMask(url) {
  const image = new Image();
  image.src = url;
  await image.decode();
  const ratio = Math.min(1, 1024 / Math.max(image.naturalWidth, image.naturalHeight));
  const width = Math.max(1, Math.round(image.naturalWidth * ratio));
  const height = Math.max(1, Math.round(image.naturalHeight * ratio));
  const canvas = new OffscreenCanvas(width, height);
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  pen.imageSmoothingEnabled = false;
  pen.drawImage(image, 0, 0, width, height);
  const { data } = pen.getImageData(0, 0, width, height);
  const isSet = (x, y) => x >= 0 && y >= 0 && x < width && y < height && data[4 * (y * width + x)] > 127;
  const path = new Path2D();
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (!isSet(x, y)) continue;
      for (const [dx, dy, x0, y0, x1, y1] of [[-1, 0, 0, 0, 0, 1], [1, 0, 1, 0, 1, 1], [0, -1, 0, 0, 1, 0], [0, 1, 0, 1, 1, 1]]) {
        if (isSet(x + dx, y + dy)) continue;
        path.moveTo(x + x0, y + y0);
        path.lineTo(x + x1, y + y1);
      }
    }
  }
  return { width, height, path };
}
