/* Drift: what moved, since when, by how much, and what to do. */
import { get, post } from "../core/api.js";
import { atMostEvery, find, getModel, h, put, s } from "../core/dom.js";
import { formatCount, formatShare, formatTime } from "../core/format.js";
import { attempt, notice } from "../core/notice.js";
import { follow, loadAndFollow } from "../core/stream.js";
import { t } from "../core/texts.js";
import { describeAlarm, formatMeasure } from "../parts/alarm.js";

const POINTS = 120;
const LOGARITHMIC = ["score", "sharpness"];

async function load() {
  const found = await get("/v1/drift", { model: getModel() });
  find("#parts").textContent = t("drift.parts", { n: formatCount(found.n) });
  put(find("#summary"), found.alarms.length
    ? h("span", { class: "verdict bad" }, t("drift.moved", { n: found.alarms.length }))
    : h("span", { class: found.n ? "verdict good" : "verdict none" }, t(found.n ? "drift.steady" : "drift.no_parts")));
  find("#about").textContent = t("drift.about", { rate: formatShare(found.rate), limit: formatCount(Math.round(found.limit)) });
  put(find("#alarms"), found.alarms.map(describe));
  put(find("#measures"), Object.entries(found.capital).map(([name, capital]) => describeMeasure(name, capital, found)));
  put(find("#restarts"), found.restarts.map((each) => h("li", {}, `${formatTime(each.time)}, ${each.author}: ${each.reason}`)));
}

function describe(alarm) {
  const picture = (side) => {
    // `since` only tells the browser that the picture of a later alarm is another one.
    const query = new URLSearchParams({ model: getModel(), measure: alarm.measure, side, since: alarm.since });
    const image = h("img", { src: `/v1/drift/picture?${query}`, alt: t(`drift.median_${side}`), onerror: (event) => event.target.replaceWith(h("p", { class: "thumb none" }, t("no_picture"))) });
    return h("figure", {}, image, h("figcaption", { class: "small soft" }, t(`drift.median_${side}`)));
  };
  return h("article", { class: "alarm" },
    h("div", { class: "stack tight grow" },
      h("h3", {}, describeAlarm(alarm)),
      h("p", {}, t(`todo.${alarm.measure}`)),
      alarm.since && h("p", {}, h("a", { href: `/history?id=${alarm.since}` }, t("drift.first")))),
    h("div", { class: "row medians" }, picture("before"), picture("after")));
}

function describeMeasure(name, capital, found) {
  const values = found.recent.measures[name];
  const alarm = found.alarms.find((each) => each.measure === name);
  const evidence = Math.max(0, Math.log(Math.max(1, capital)) / Math.log(found.limit));
  return h("tr", { class: alarm ? "moved" : "" },
    h("th", { scope: "row" }, t(`measure.${name}`)),
    h("td", {}, drawLine(name, values)),
    h("td", { class: "number" }, values.length ? formatMeasure(name, values.at(-1)) : "–"),
    h("td", {}, h("div", { class: "evidence" },
      h("div", { class: "meter" }, h("span", { class: "fill", style: { width: `${Math.min(100, 100 * evidence)}%` } })),
      values.length > 0 && h("span", { class: alarm ? "verdict bad" : "verdict good" }, t(alarm ? "drift.has_moved" : "drift.is_steady")))));
}

/* Means of neighbouring parts, oldest on the left; the strip is the middle 80 % of all. */
function drawLine(name, given) {
  if (given.length < 2) return "";
  const values = LOGARITHMIC.includes(name) ? given.map((value) => Math.log(value)) : given;
  const group = Math.ceil(values.length / POINTS);
  const means = [];
  for (let at = 0; at < values.length; at += group) {
    const part = values.slice(at, at + group);
    means.push(part.reduce((sum, value) => sum + value, 0) / part.length);
  }
  const sorted = [...values].sort((a, b) => a - b);
  const [low, high] = [0.1, 0.9].map((share) => sorted[Math.floor(share * (sorted.length - 1))]);
  const [least, most] = [Math.min(low, ...means), Math.max(high, ...means)];
  const y = (value) => 36 - (most > least ? (32 * (value - least)) / (most - least) : 16);
  const x = (index) => (300 * index) / Math.max(1, means.length - 1);
  return s("svg", { class: "line", viewBox: "0 0 300 40", preserveAspectRatio: "none", role: "img", "aria-label": t("drift.line", { low: formatMeasure(name, given[values.indexOf(low)]), high: formatMeasure(name, given[values.indexOf(high)]) }) },
    s("rect", { x: 0, width: 300, y: y(high), height: Math.max(1, y(low) - y(high)) }),
    s("polyline", { points: means.map((value, index) => `${x(index).toFixed(1)},${y(value).toFixed(1)}`).join(" ") }));
}

find("#restart")?.addEventListener("submit", (event) => {
  event.preventDefault();
  attempt(async () => {
    await post("/v1/drift/restart", { model: getModel(), reason: find("#reason").value });
    find("#reason").value = "";
    notice(t("drift.restarted"));
    await load();
  });
});

follow("event", (event) => { if (event.kind === "drift") attempt(load); });
follow("model", () => attempt(load));
follow("inspection", atMostEvery(3000, () => attempt(load)));
if (getModel()) loadAndFollow(() => attempt(load));
