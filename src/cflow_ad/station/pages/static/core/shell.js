/* The frame around each view: link to the station, banner of events, keys, log-out. */
import { get, post, remove } from "./api.js";
import { atMostEvery, find, findAll, getModel, h, put, setCookie } from "./dom.js";
import { formatTime } from "./format.js";
import { addKeys, showHelp } from "./keys.js";
import { attempt } from "./notice.js";
import { say } from "./say.js";
import { follow, followState, loadAndFollow } from "./stream.js";
import { t } from "./texts.js";
import { describeAlarm } from "../parts/alarm.js";

const links = findAll(".bar nav a");
addKeys([
  [links.map((_, index) => String(index + 1)), t("keys.views", { n: links.length }), (key) => links[key - 1].click()],
  [["?"], t("keys"), showHelp],
]);
find("#show-help").addEventListener("click", showHelp);
find("#log-out").addEventListener("click", () => attempt(async () => {
  delete document.body.dataset.user;  // a question on its way, refused by now, does not lead to a log-in of its own
  await remove("/v1/session");
  location.assign("/login");
}));
find("#model")?.addEventListener("change", (event) => {
  setCookie("cflow_model", event.target.value);
  location.reload();
});

followState((state) => {
  const shown = find("#link-state");
  shown.dataset.state = state;
  shown.textContent = t(`link.${state}`);
  showBanners();
});

/* Banners: the link is lost; events that nobody has acknowledged. */
let events = [];

function describeEvent(event) {
  if (event.kind === "drift") return describeAlarm(event.data);
  if (event.kind === "rule") return t("rule.count", { n: event.data.count, of: event.data.of });
  return say(event.data.text, event.data);
}

/* An event that comes again and again stands once, so that it hides no other. */
const areAlike = (a, b) => a.kind === b.kind && describeEvent(a) === describeEvent(b);

function showBanners() {
  const shown = events.filter((event, index) => events.findIndex((each) => areAlike(each, event)) === index);
  const lost = find("#link-state").dataset.state === "lost";
  put(
    find("#banner"),
    lost && h("div", { class: "banner stop" }, h("strong", {}, t("link.lost")), h("span", { class: "grow" }, t("link.lost_more"))),
    shown.slice(0, 2).map((event) => h("div", { class: event.kind === "rule" ? "banner stop" : "banner" },
      h("strong", {}, t(`event.${EVENT_KINDS.includes(event.kind) ? event.kind : "other"}`)),
      h("span", { class: "grow" }, describeEvent(event), " ", h("span", { class: "small" }, formatTime(event.time))),
      event.kind === "drift" && document.body.dataset.view !== "drift" && h("a", { class: "button", href: "/drift" }, t("event.look")),
      h("button", { type: "button", onclick: () => acknowledge(event) }, t("event.acknowledge")))),
    shown.length > 2 && h("div", { class: "banner" }, t("event.more", { n: shown.length - 2 })),
  );
}

const EVENT_KINDS = ["drift", "rule", "camera", "folder", "sink", "model"];

const acknowledge = (event) => attempt(async () => {
  const alike = events.filter((each) => areAlike(each, event));
  await Promise.all(alike.map((each) => post(`/v1/events/${each.id}/acknowledge`)));
  events = events.filter((each) => !alike.includes(each));
  showBanners();
});

const concerns = (event) => !event.acknowledged && (!event.model || event.model === getModel());

async function loadEvents() {
  events = (await get("/v1/events", { limit: 200 })).items.filter(concerns);
  showBanners();
}

follow("event", (event) => {
  events = events.filter((each) => each.id !== event.id);
  if (concerns(event)) events.unshift(event);
  showBanners();
});

async function countReviews() {
  const { counts } = await get("/v1/review", { model: getModel(), limit: 1 });
  const shown = find("#review-count");
  const n = counts.anomalous + counts.near + counts.audit;
  shown.textContent = n > 99 ? "99+" : n;
  shown.hidden = n === 0;
}

if (getModel()) {
  loadAndFollow(() => attempt(loadEvents));
  loadAndFollow(() => attempt(countReviews));
  follow("mark", () => attempt(countReviews));
  follow("inspection", atMostEvery(60000, () => attempt(countReviews)));
}
export { countReviews };
