/* Review: a queue that is worked off with keys; audit parts come without their verdict. */
import { get, takeTurns } from "../core/api.js";
import { find, findAll, getModel, h, put } from "../core/dom.js";
import { formatScore, formatTime } from "../core/format.js";
import { addKeys } from "../core/keys.js";
import { attempt } from "../core/notice.js";
import { countReviews } from "../core/shell.js";
import { t } from "../core/texts.js";
import { markParts, undo } from "../parts/marking.js";
import { markOf, thumbnailOf, verdictOf } from "../parts/verdict.js";
import { addressesOf, Viewer } from "../parts/viewer.js";

const PAGE = 60;
const viewer = new Viewer(find("#viewer"));
const queue = find("#queue");
let kind = "all";
let items = [];
let next = null;
let at = 0;
const chosen = new Set();
const begin = takeTurns();

const isBlind = (item) => item.score === undefined || item.score === null;

/* While the queue changes nothing is marked: a key would reach another part than the one that comes. */
const isBusy = () => queue.getAttribute("aria-busy") === "true";
const setBusy = (busy) => queue.setAttribute("aria-busy", busy);

async function load() {
  const isLast = begin();
  setBusy(true);
  try {
    const found = await get("/v1/review", { kind, model: getModel(), limit: PAGE });
    if (!isLast()) return;
    items = found.items;
    next = found.next;
    chosen.clear();
    showCounts(found.counts);
    at = Math.min(at, Math.max(0, items.length - 1));
    showQueue();
  } finally {
    if (isLast()) setBusy(false);
  }
}

async function loadMore() {
  const isLast = begin();
  const found = await get("/v1/review", { kind, model: getModel(), limit: PAGE, cursor: next });
  if (!isLast()) return;
  items = [...items, ...found.items];
  next = found.next;
  showQueue();
}

function showCounts(counts) {
  for (const tab of findAll("[role=tab]")) {
    const n = tab.dataset.kind === "all" ? counts.anomalous + counts.near + counts.audit : counts[tab.dataset.kind];
    find(".count", tab).textContent = n;
  }
}

function showQueue() {
  put(queue, items.map((item, index) => h("li", {
    class: "card", "data-id": item.id, "aria-current": index === at,
  },
  h("label", { class: "pick" }, h("input", {
    type: "checkbox", checked: chosen.has(item.id), "aria-label": t("review.choose"), onchange: () => choose(index),
  })),
  h("button", { type: "button", class: "open", "aria-label": describe(item), onclick: () => focus(index) },
    thumbnailOf(item), isBlind(item) ? h("span", { class: "tag" }, t("review.audit_one")) : h("span", {}, verdictOf(item), " ", formatScore(item.score))))));
  find("#empty").hidden = items.length > 0;
  find("#more").hidden = !next;
  showChosen();
  focus(at, false);
}

const describe = (item) => isBlind(item)
  ? t("review.audit_part", { time: formatTime(item.time) })
  : t("strip.part", { verdict: t(item.is_anomalous ? "anomalous" : "good"), score: formatScore(item.score), time: formatTime(item.time) });

function focus(index, scroll = true) {
  at = Math.min(Math.max(0, index), Math.max(0, items.length - 1));
  const item = items[at];
  [...queue.children].forEach((card, place) => card.setAttribute("aria-current", place === at));
  if (scroll) queue.children[at]?.scrollIntoView({ block: "nearest" });
  for (const id of ["#mark-good", "#mark-defect"]) find(id).disabled = !item && chosen.size === 0;
  find("#audit-hint").hidden = !item || !isBlind(item);
  if (!item) {
    find("#about").textContent = "";
    viewer.root.dataset.state = "empty";
    return;
  }
  put(find("#about"), isBlind(item) ? h("span", { class: "tag" }, t("review.audit_one")) : [verdictOf(item), ` ${formatScore(item.score)} `], h("span", { class: "soft small" }, formatTime(item.time)));
  if (viewer.inspection?.id !== item.id) viewer.root.dataset.state = "loading";
  attempt(async () => {
    if (isBlind(item)) {
      const size = await sizeOf(item);
      if (items[at]?.id === item.id) await viewer.show({ ...item, ...size });
    } else {
      const whole = await get(`/v1/inspections/${item.id}`);
      if (items[at]?.id === item.id) await viewer.show(whole);
    }
  });
}

/* An audit part comes with nothing that could hint at its verdict: its size is read from its picture. */
async function sizeOf(item) {
  if (item.width) return {};
  const { picture } = addressesOf({ ...item, has_picture: true });
  const image = new Image();
  image.src = picture;
  try {
    await image.decode();
  } catch {
    return { has_picture: false };
  }
  return { width: image.naturalWidth, height: image.naturalHeight, has_picture: true };
}

function choose(index = at) {
  const { id } = items[index];
  if (chosen.has(id)) chosen.delete(id);
  else chosen.add(id);
  const box = find("input", queue.children[index]);
  box.checked = chosen.has(id);
  showChosen();
}

function chooseAll(all) {
  chosen.clear();
  if (all) for (const item of items) chosen.add(item.id);
  for (const box of findAll("input", queue)) box.checked = all;
  showChosen();
}

function showChosen() {
  find("#chosen").textContent = chosen.size ? t("review.chosen", { n: chosen.size }) : "";
  find("#choose-all").checked = items.length > 0 && chosen.size === items.length;
}

/* Marks what is chosen, else the part in sight; the next one comes by itself. */
async function mark(label) {
  if (isBusy()) return;
  setBusy(true);
  const parts = chosen.size ? items.filter((item) => chosen.has(item.id)) : items.slice(at, at + 1);
  for (const blind of [true, false]) {
    const ids = parts.filter((item) => isBlind(item) === blind).map((item) => item.id);
    if (ids.length) await markParts(ids, label, refresh, blind);
  }
  setBusy(false);
}

async function refresh() {
  await load();
  await Promise.all([showLog(), countReviews()]);
}

async function showLog() {
  const { items: marks } = await get("/v1/marks", { model: getModel(), limit: 12 });
  put(find("#log"), marks.map((each) => h("tr", {},
    h("td", {}, formatTime(each.time)),
    h("td", {}, h("a", { href: `/history?id=${each.inspection ?? each.id}` }, t("review.open"))),
    h("td", {}, each.label ? markOf(each) : h("span", { class: "soft" }, t("mark.undone")), each.audit ? h("span", { class: "tag" }, t("review.audit_one")) : ""),
    h("td", {}, each.author))));
}

function chooseTab(tab) {
  kind = tab.dataset.kind;
  for (const each of findAll("[role=tab]")) {
    each.setAttribute("aria-selected", each === tab);
    each.tabIndex = each === tab ? 0 : -1;
  }
  at = 0;
  attempt(load);
}

for (const tab of findAll("[role=tab]")) {
  tab.addEventListener("click", (event) => {
    chooseTab(tab);
    if (event.detail > 0) queue.focus({ preventScroll: true });  // a pointer: keys now move through the queue
  });
}
find("[role=tablist]").addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  const tabs = findAll("[role=tab]");
  const tab = tabs[(tabs.indexOf(event.target) + step + tabs.length) % tabs.length];
  tab.focus();
  chooseTab(tab);
});
find("#more").addEventListener("click", () => attempt(loadMore));
find("#choose-all").addEventListener("change", (event) => chooseAll(event.target.checked));
find("#mark-good").addEventListener("click", () => mark("good"));
find("#mark-defect").addEventListener("click", () => mark("defect"));
find("#undo").addEventListener("click", () => undo());
addKeys([
  [["g"], t("mark.good"), () => mark("good")],
  [["d"], t("mark.defect"), () => mark("defect")],
  [["u"], t("undo"), () => undo()],
  [["ArrowRight", "ArrowDown", "j"], t("keys.next"), () => focus(at + 1)],
  [["ArrowLeft", "ArrowUp", "k"], t("keys.previous"), () => focus(at - 1)],
  [["x", " "], t("review.choose"), () => items.length && choose()],
  [["a"], t("review.choose_all"), () => chooseAll(chosen.size < items.length)],
  [["h"], t("viewer.heat"), () => viewer.toggle("heat")],
  [["c"], t("viewer.contours"), () => viewer.toggle("contours")],
  [["r"], t("viewer.regions"), () => viewer.toggle("regions")],
  [["+", "="], t("viewer.zoom_in"), () => viewer.zoomBy(1)],
  [["-"], t("viewer.zoom_out"), () => viewer.zoomBy(-1)],
]);
if (getModel()) attempt(async () => { await load(); await showLog(); });
