/* Threshold: recorded scores, what a change would flip, and how well its rates are known. */
import { get, post, takeTurns } from "../core/api.js";
import { find, getModel, h, put, settle } from "../core/dom.js";
import { formatCount, formatScore, formatShare, formatTime } from "../core/format.js";
import { addKeys } from "../core/keys.js";
import { attempt, notice } from "../core/notice.js";
import { say } from "../core/say.js";
import { follow, loadAndFollow } from "../core/stream.js";
import { t } from "../core/texts.js";
import { Histogram } from "../parts/histogram.js";
import { markOf, thumbnailOf } from "../parts/verdict.js";

const base = `/v1/models/${getModel()}`;
const histogram = new Histogram(find("#histogram"), (value) => {
  find("#value").value = Number(value.toFixed(4));
  preview(value);
});
let current = 0;
const begin = takeTurns();

const preview = settle(async (value) => {
  const isLast = begin();
  await attempt(async () => {
    const found = await get(`${base}/thresholds/preview`, { value, parts: 2000, show: 24 });
    if (isLast()) showPreview(found);
  });
}, 120);

function showPreview(found) {
  const moved = Math.abs(found.value - current) > 1e-9;
  find("#was").textContent = moved ? t("threshold.was", { value: formatScore(current) }) : t("threshold.in_use");
  const flips = found.to_anomalous + found.to_good;
  put(find("#flips-count"), flips
    ? [t("threshold.would_flip", { n: flips, of: formatCount(found.n) }), " ",
      h("span", { class: "verdict bad" }, t("threshold.to_anomalous", { n: found.to_anomalous })), " ",
      h("span", { class: "verdict good" }, t("threshold.to_good", { n: found.to_good }))]
    : t(found.n ? "threshold.no_flip" : "inspect.none", { of: formatCount(found.n) }));
  put(find("#flips"), found.items.map((item) => h("li", {}, h("a", { href: `/history?id=${item.id}`, class: "flip" },
    thumbnailOf(item), h("span", { class: `verdict ${item.score > found.value ? "bad" : "good"}` }, formatScore(item.score)),
    item.mark && h("span", { class: "small" }, markOf(item.mark))))));
  const calibration = found.calibration;
  put(find("#effect"),
    calibration && row(t("threshold.calibration_above"), { count: calibration.above, of: calibration.of }),
    row(t("threshold.false_alarms"), found.false_alarms),
    row(t("threshold.misses"), found.misses),
    row(t("threshold.known_misses"), found.known_misses));
  const apply = find("#apply button");
  if (apply) apply.disabled = !moved;
}

export function row(name, rate) {
  const interval = rate.low === undefined ? "" : `${formatShare(rate.low)} – ${formatShare(rate.high)}`;
  return h("tr", {}, h("th", { scope: "row" }, name),
    h("td", { class: "number" }, t("share_of", { count: formatCount(rate.count), of: formatCount(rate.of) })),
    h("td", { class: "number" }, interval));
}

async function load() {
  const [scores, history, audit] = await Promise.all([
    get(`${base}/scores`, { parts: 2000 }), get(`${base}/thresholds`), get(`${base}/audit`),
  ]);
  current = scores.threshold;
  histogram.show(scores);
  find("#value").value = Number(current.toFixed(4));
  preview(current);
  put(find("#changes"), history.items.map((each) => h("tr", {},
    h("td", {}, formatTime(each.time)), h("td", { class: "number" }, formatScore(each.value)), h("td", { class: "number" }, String(each.version)),
    h("td", {}, each.author), h("td", {}, say(each.reason, each)))));
  showAudit(audit);
}

function showAudit(audit) {
  put(find("#audit"), row(t("audit.false_alarms"), audit.false_alarms), row(t("audit.escapes"), audit.escapes));
  find("#audit-note").textContent = t("audit.n", { n: audit.n });
  const suggested = audit.suggested_threshold;
  const take = find("#take-audit");
  take.hidden = suggested === null || suggested === undefined || suggested === current;
  if (take.hidden) return;
  take.textContent = t("audit.take", { value: formatScore(suggested) });
  take.onclick = () => {
    histogram.move(suggested);
    if (find("#reason")) find("#reason").value = t("audit.reason", { n: audit.n });
  };
}

find("#value").addEventListener("change", (event) => {
  const value = Number(event.target.value);
  if (Number.isFinite(value)) histogram.move(value);
});
find("#back").addEventListener("click", () => histogram.move(current));
find("#apply")?.addEventListener("submit", (event) => {
  event.preventDefault();
  attempt(async () => {
    await post(`${base}/thresholds`, { value: histogram.value, reason: find("#reason").value });
    find("#reason").value = "";
    notice(t("threshold.applied", { value: formatScore(histogram.value) }));
    await load();
  });
});
addKeys([[["b"], t("threshold.back"), () => histogram.move(current)]]);
for (const kind of ["threshold", "model"]) {
  follow(kind, (model) => { if (model.name === getModel()) attempt(load); });
}
if (getModel()) loadAndFollow(() => attempt(load));
