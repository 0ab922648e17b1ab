/* Inspect: pictures dropped, pasted, picked or taken; the newest part of the line; the last verdicts. */
import { change, get, post, takeTurns } from "../core/api.js";
import { find, getModel, h, put } from "../core/dom.js";
import { formatCount, formatDigits, formatMs, formatScore, formatTime } from "../core/format.js";
import { addKeys } from "../core/keys.js";
import { attempt } from "../core/notice.js";
import { follow, loadAndFollow } from "../core/stream.js";
import { t } from "../core/texts.js";
import { markParts } from "../parts/marking.js";
import { Strip } from "../parts/strip.js";
import { describeOdds, markOf } from "../parts/verdict.js";
import { Viewer } from "../parts/viewer.js";
import { startCamera } from "./inspect_camera.js";
import { inspectFiles, watchDrops } from "./inspect_files.js";

const viewer = new Viewer(find("#viewer"));
const strip = new Strip(find("#strip"), find("#rule"), (item) => choose(item));
let shown = null;
const begin = takeTurns();

async function show(inspection, urls) {
  shown = inspection;
  strip.choose(inspection.id);
  const drawn = viewer.show(inspection, urls);
  showOutcome(inspection);
  await drawn;
}

/* A part that someone looks at stays until they follow the line again. */
function choose(item) {
  find("#follow").checked = strip.items[0]?.id === item.id;
  const isLast = begin();
  return attempt(async () => {
    const part = await get(`/v1/inspections/${item.id}`);
    if (isLast()) await show(part);
  });
}

function showOutcome(inspection) {
  find("#outcome").dataset.verdict = inspection.is_anomalous ? "bad" : "good";
  find("#verdict").textContent = t(inspection.is_anomalous ? "anomalous" : "good");
  find("#odds").textContent = describeOdds(inspection);
  const top = 2 * inspection.threshold;
  find("#meter").hidden = !(top > 0);
  find("#meter .fill").style.setProperty("width", `${Math.min(100, (100 * inspection.score) / top)}%`);
  const latency = inspection.latency_ms;
  const facts = [
    ["score", `${formatScore(inspection.score)} (${t("threshold_is", { value: formatScore(inspection.threshold) })})`],
    ["latency", t("latency.of", { total: formatMs(latency.total ?? latency.queue + latency.score), score: formatMs(latency.score), queue: formatMs(latency.queue) })],
    ["time", formatTime(inspection.time)],
    ["source", inspection.source],
    ["model_version", `${inspection.model}, ${t("version_n", { n: inspection.version })}`],
  ];
  put(find("#facts"), facts.flatMap(([key, value]) => [h("dt", {}, t(`fact.${key}`)), h("dd", {}, value)]));
  find("#marks").hidden = false;
  put(find("#mark"), inspection.mark ? [markOf(inspection.mark), ` ${inspection.mark.author}`] : []);
  showRegions(inspection.regions ?? []);
}

function showRegions(regions) {
  find("#regions-panel").hidden = regions.length === 0;
  put(find("#regions"), regions.map((region, index) => h("li", {}, h("button", {
    type: "button", "aria-pressed": String(viewer.chosen === index), onclick: (event) => {
      const chosen = viewer.choose(index);
      for (const button of event.currentTarget.closest("ol").querySelectorAll("button")) button.setAttribute("aria-pressed", "false");
      event.currentTarget.setAttribute("aria-pressed", chosen === index);
    },
  }, h("strong", {}, String(index + 1)), " ", t("region", { area: formatCount(region.area), peak: formatDigits(region.peak, 1) })))));
}

async function mark(label) {
  if (!shown) return;
  await markParts([shown.id], label, refresh);
}

async function refresh() {
  if (!shown) return;
  const again = await get(`/v1/inspections/${shown.id}`);
  if (again.id !== shown.id) return;
  shown = again;
  showOutcome(again);
}

/* From this page. */

async function inspect(files) {
  await inspectFiles(files, async (answer, urls) => {
    strip.add(answer);
    await show(answer, urls);
  });
}

find("#pick").addEventListener("click", () => find("#files").click());
find("#files").addEventListener("change", async (event) => {
  await inspect([...event.target.files]);
  event.target.value = "";
});
watchDrops(inspect);
startCamera(inspect);

/* From the line. */

const missed = [];
let busy = false;

follow("inspection", (inspection) => {
  if (inspection.model !== getModel()) return;
  strip.add(inspection);
  if (!find("#follow").checked || strip.items[0].id !== inspection.id || inspection.id === shown?.id) return;
  missed[0] = inspection;  // only the newest is worth showing
  if (!busy) showNewest();
});

async function showNewest() {
  busy = true;
  while (missed.length) {
    const { id } = missed.pop();
    if (!find("#follow").checked || id === shown?.id) continue;
    try {
      const part = await get(`/v1/inspections/${id}`);
      if (find("#follow").checked && id !== shown?.id) await show(part);
    } catch { /* the next part comes */ }
  }
  busy = false;
}

find("#follow").addEventListener("change", (event) => {
  if (event.target.checked && strip.items[0]) choose(strip.items[0]);
});

follow("mark", (marked) => {
  if (marked.items.some((item) => item.id === shown?.id)) attempt(refresh);
});

/* The rule. */

follow("rule", (model) => {
  if (model.name === getModel()) strip.set(strip.items, model.rule);
});

find("#set-rule")?.addEventListener("click", () => {
  find("#rule-on").checked = strip.rule !== null;
  find("#rule-anomalous").value = strip.rule?.anomalous ?? 7;
  find("#rule-of").value = strip.rule?.of ?? 10;
  find("#rule-dialog").showModal();
});

find("#rule-dialog").addEventListener("close", (event) => {
  if (event.target.returnValue !== "save") return;
  const rule = find("#rule-on").checked
    ? { anomalous: Number(find("#rule-anomalous").value), of: Number(find("#rule-of").value) }
    : null;
  attempt(() => change(`/v1/models/${getModel()}/rule`, rule));
  event.target.returnValue = "";
});

/* Cameras of the station. */

async function showCameras() {
  const { items } = await get("/v1/cameras");
  put(find("#cameras"), items.filter((camera) => camera.model === getModel()).map((camera) => h("button", {
    type: "button",
    onclick: () => attempt(async () => {
      const answer = await post(`/v1/cameras/${encodeURIComponent(camera.name)}/inspect`);
      strip.add(answer);
      await show(answer);
    }),
  }, t("inspect.camera", { name: camera.name }))));
}

addKeys([
  [["o"], t("inspect.pick"), () => find("#files").click()],
  [["g"], t("mark.good"), () => mark("good")],
  [["d"], t("mark.defect"), () => mark("defect")],
  [["ArrowLeft"], t("keys.newer"), () => strip.items.length && choose(strip.neighbour(-1))],
  [["ArrowRight"], t("keys.older"), () => strip.items.length && choose(strip.neighbour(1))],
  [["f"], t("inspect.follow"), () => find("#follow").click()],
  [["h"], t("viewer.heat"), () => viewer.toggle("heat")],
  [["c"], t("viewer.contours"), () => viewer.toggle("contours")],
  [["r"], t("viewer.regions"), () => viewer.toggle("regions")],
  [["+", "="], t("viewer.zoom_in"), () => viewer.zoomBy(1)],
  [["-"], t("viewer.zoom_out"), () => viewer.zoomBy(-1)],
]);
find("#mark-good").addEventListener("click", () => mark("good"));
find("#mark-defect").addEventListener("click", () => mark("defect"));

async function load() {
  const [{ items }, model] = await Promise.all([
    get("/v1/inspections", { model: getModel(), limit: 40 }),
    get(`/v1/models/${getModel()}`),
  ]);
  const early = strip.items;
  strip.set(items, model.rule);
  for (const item of early) strip.add(item);
  const [newest] = strip.items;
  if (newest && newest.id !== shown?.id && (!shown || find("#follow").checked)) await show(await get(`/v1/inspections/${newest.id}`));
}

if (getModel()) {
  loadAndFollow(() => attempt(load));
  attempt(showCameras);
}
