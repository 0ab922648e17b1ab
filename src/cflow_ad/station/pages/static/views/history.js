/* History: filter, page, open a part, and find parts that look like it. */
import { get, takeTurns } from "../core/api.js";
import { find, getModel, h, put, settle } from "../core/dom.js";
import { formatCount, formatDigits, formatMs, formatScore, formatTime } from "../core/format.js";
import { addKeys } from "../core/keys.js";
import { attempt } from "../core/notice.js";
import { t } from "../core/texts.js";
import { markParts } from "../parts/marking.js";
import { describeOdds, markOf, thumbnailOf, verdictOf } from "../parts/verdict.js";
import { Viewer } from "../parts/viewer.js";

const PAGE = 50;
const viewer = new Viewer(find("#viewer"));
const detail = find("#detail");
let items = [];
let next = null;
let opened = null;
const beginList = takeTurns();
const beginPart = takeTurns();

const toIso = (local) => (local ? new Date(local).toISOString() : "");

function readFilters() {
  const form = new FormData(find("#filters"));
  return {
    model: getModel(), limit: PAGE, verdict: form.get("verdict"), mark: form.get("mark"),
    source: form.get("source"), since: toIso(form.get("since")), until: toIso(form.get("until")),
  };
}

async function load() {
  const isLast = beginList();
  const found = await get("/v1/inspections", readFilters());
  if (!isLast()) return;
  items = found.items;
  next = found.next;
  show();
}

async function loadMore() {
  const isLast = beginList();
  const found = await get("/v1/inspections", { ...readFilters(), cursor: next });
  if (!isLast()) return;
  items = [...items, ...found.items];
  next = found.next;
  show();
}

function show() {
  put(find("#parts"), items.map((item) => h("tr", {},
    h("td", {}, h("button", { type: "button", class: "plain", "aria-label": t("history.open", { time: formatTime(item.time) }), onclick: () => open(item.id) }, thumbnailOf(item))),
    h("td", {}, formatTime(item.time)), h("td", {}, verdictOf(item)),
    h("td", { class: "number" }, formatScore(item.score)), h("td", { class: "number" }, formatScore(item.threshold)),
    h("td", {}, markOf(item.mark)), h("td", {}, item.source), h("td", { class: "number" }, String(item.version)))));
  find("#empty").hidden = items.length > 0;
  find("#more").hidden = !next;
  find("#count").textContent = t(next ? "history.count_more" : "history.count", { n: formatCount(items.length) });
}

async function open(id) {
  const isLast = beginPart();
  const part = await attempt(() => get(`/v1/inspections/${id}`));
  if (!part || !isLast()) return;
  opened = part;
  history.replaceState(null, "", `?id=${id}`);
  put(find("#detail-title"), verdictOf(part), ` ${formatScore(part.score)}`);
  find("#odds").textContent = describeOdds(part);
  const { latency_ms: latency, regions } = part;
  const facts = [
    ["time", formatTime(part.time)], ["threshold", formatScore(part.threshold)], ["source", part.source],
    ["model_version", `${part.model}, ${t("version_n", { n: part.version })}`],
    ["regions", formatCount(regions.length)], ["latency", formatMs(latency.total ?? latency.queue + latency.score)],
    ["size", `${part.width} × ${part.height}`], ["number", part.id], ["hash", part.image_sha256],
  ];
  put(find("#facts"), facts.flatMap(([key, value]) => [h("dt", {}, t(`fact.${key}`)), h("dd", {}, value)]));
  if (!detail.open) detail.showModal();
  viewer.show(part);
  await Promise.all([showMarks(id), showSimilar(id)]);
}

const showMarks = (id) => attempt(async () => {
  const { items: marks } = await get(`/v1/inspections/${id}/marks`);
  if (opened?.id !== id) return;
  put(find("#marks"), marks.length
    ? marks.map((mark) => h("li", {}, mark.label ? markOf(mark) : t("mark.undone"), ` ${mark.author}, ${formatTime(mark.time)}`))
    : h("li", { class: "soft" }, t("mark.none")));
});

const showSimilar = (id) => attempt(async () => {
  put(find("#similar"));
  const { items: similar } = await get(`/v1/inspections/${id}/similar`, { limit: 8 });
  if (opened?.id !== id) return;
  put(find("#similar"), similar.map(({ inspection, distance }) => h("li", {}, h("button", {
    type: "button", class: "flip", title: t("history.distance", { distance: formatDigits(distance, 3) }), onclick: () => open(inspection.id),
  }, thumbnailOf(inspection), h("span", { class: `verdict ${inspection.is_anomalous ? "bad" : "good"}` }, formatScore(inspection.score)),
  inspection.mark && h("span", { class: "small" }, markOf(inspection.mark))))));
});

async function mark(label) {
  if (!detail.open || !opened) return;
  await markParts([opened.id], label, async () => {
    await Promise.all([load(), showMarks(opened.id)]);
  });
}

function step(by) {
  const at = items.findIndex((item) => item.id === opened?.id);
  const item = items[at + by];
  if (item) open(item.id);
}

detail.addEventListener("close", () => {
  opened = null;
  history.replaceState(null, "", location.pathname);
});
find("#close").addEventListener("click", () => detail.close());
find("#filters").addEventListener("input", settle(() => attempt(load), 250));
find("#filters").addEventListener("reset", () => setTimeout(() => attempt(load)));
find("#filters").addEventListener("submit", (event) => event.preventDefault());
find("#more").addEventListener("click", () => attempt(loadMore));
find("#mark-good").addEventListener("click", () => mark("good"));
find("#mark-defect").addEventListener("click", () => mark("defect"));
addKeys([
  [["g"], t("mark.good"), () => mark("good"), true],
  [["d"], t("mark.defect"), () => mark("defect"), true],
  [["ArrowLeft"], t("keys.newer"), () => step(-1), true],
  [["ArrowRight"], t("keys.older"), () => step(1), true],
  [["h"], t("viewer.heat"), () => viewer.toggle("heat"), true],
  [["c"], t("viewer.contours"), () => viewer.toggle("contours"), true],
  [["r"], t("viewer.regions"), () => viewer.toggle("regions"), true],
]);
if (getModel()) {
  attempt(load);
  const asked = new URLSearchParams(location.search).get("id");
  if (asked) open(asked);
}
