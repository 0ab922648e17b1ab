/* Train: start a job, watch it, compare its model with the one in use, promote or roll back. */
import { get, post } from "../core/api.js";
import { find, findAll, getModel, h, put, settle } from "../core/dom.js";
import { formatCount, formatDigits, formatScore, formatTime } from "../core/format.js";
import { attempt, notice } from "../core/notice.js";
import { say } from "../core/say.js";
import { follow, loadAndFollow } from "../core/stream.js";
import { t } from "../core/texts.js";
import { markOf, thumbnailOf } from "../parts/verdict.js";

const base = `/v1/models/${getModel()}`;
const jobs = new Map();
let path = null;
let compared = null;
let promoting = null;

/* Jobs. */

async function loadJobs() {
  const { items } = await get("/v1/jobs");
  jobs.clear();
  for (const job of items.filter((each) => each.model === getModel())) jobs.set(job.id, job);
  showJobs();
}

function showJobs() {
  const sorted = [...jobs.values()].sort((a, b) => (a.created < b.created ? 1 : -1)).slice(0, 12);
  put(find("#jobs"), sorted.map(describeJob));
  find("#no-jobs").hidden = sorted.length > 0;
}

function describeJob(job) {
  const { stage, done, total, loss } = job.progress ?? {};
  const share = total ? done / total : 0;
  const running = job.state === "running";
  return h("li", { class: "job", "data-id": job.id, "data-state": job.state },
    h("div", { class: "row between" },
      h("span", {}, h("strong", {}, t(`job.${job.state}`)), " ", h("span", { class: "soft small" }, `${formatTime(job.created)}, ${job.author}`)),
      h("span", { class: "row" },
        running && h("button", { type: "button", onclick: () => attempt(() => post(`/v1/jobs/${job.id}/cancel`)) }, t("train.cancel")),
        job.state === "done" && h("button", { type: "button", onclick: () => compare(job) }, t("train.compare")),
        job.state === "done" && h("button", { type: "button", class: "primary", onclick: () => askToPromote(job.version) }, t("train.use_n", { n: job.version })))),
    running && h("div", { class: "progress", role: "progressbar", "aria-label": t("train.progress"), "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": Math.round(100 * share) },
      h("span", { style: { width: `${100 * share}%` } })),
    running && stage && h("p", { class: "small soft" }, t("train.stage", { stage: t(`stage.${stage}`), done: formatCount(done ?? 0), total: formatCount(total ?? 0) }),
      loss !== null && loss !== undefined ? ` · ${t("train.loss", { loss: formatDigits(loss, 3) })}` : ""),
    job.error && h("p", { class: "error" }, say(job.error, job)));
}

follow("job", (job) => {
  if (job.model !== getModel()) return;
  const before = jobs.get(job.id);
  jobs.set(job.id, { ...before, ...job });
  showJobs();
  if (job.state === "done" && before?.state !== "done") attempt(loadVersions);
});

/* Where the images come from. */

async function openFolder(wanted) {
  const found = await get("/v1/folders", { path: wanted });
  path = found.path;
  find("#path").textContent = path ?? t("train.choose_folder");
  const parent = path && !found.roots.includes(path) ? path.replace(/[/\\][^/\\]*$/, "") : null;
  const entry = (name, target, images) => h("li", {}, h("button", { type: "button", class: "plain", onclick: () => attempt(() => openFolder(target)) },
    h("span", { "aria-hidden": "true" }, target === parent ? "↑" : "▸"), name, images ? h("span", { class: "count" }, t("train.n_images", { n: formatCount(images) })) : ""));
  put(find("#folders"),
    path && entry(t("train.up"), parent),
    found.folders.map((folder) => entry(folder.name, folder.path, folder.images)),
    found.folders.length === 0 && h("li", { class: "soft small" }, t(path ? "train.no_folders" : "train.no_roots")));
}

for (const radio of findAll("[name=from]")) {
  radio.addEventListener("change", () => {
    find("#from-folder").hidden = radio.value !== "folder";
    find("#from-history").hidden = radio.value !== "history";
  });
}

const toIso = (local) => (local ? new Date(local).toISOString() : null);

find("#start").addEventListener("submit", (event) => {
  event.preventDefault();
  const fromFolder = find("[name=from]:checked").value === "folder";
  if (fromFolder && !path) {
    notice(t("train.choose_folder"), { wrong: true });
    return;
  }
  attempt(async () => {
    const job = await post("/v1/jobs", {
      model: getModel(),
      ...(fromFolder ? { folder: path } : { history: { since: toIso(find("#since").value), until: toIso(find("#until").value), limit: Number(find("#limit").value) } }),
      preset: find("#preset").value,
      max_seconds: 60 * Number(find("#minutes").value),
    });
    jobs.set(job.id, job);
    showJobs();
    notice(t("train.started"));
  });
});

/* The new model beside the old one. */

async function compare(job) {
  find("#comparison-panel").hidden = false;
  put(find("#comparison"), h("tr", {}, h("td", { colspan: 4, class: "soft" }, t("train.comparing"))));
  await attempt(async () => {
    compared = await get(`/v1/jobs/${job.id}/comparison`);
    showComparison();
    find("#comparison-title").scrollIntoView({ block: "nearest" });
  });
}

function showComparison() {
  const { items } = compared;
  const count = (label, key, wanted) => items.filter((item) => item.label === label && item[key] === wanted).length;
  const of = (label) => items.filter((item) => item.label === label).length;
  const row = (name, label, wanted) => h("tr", {}, h("th", { scope: "row" }, name),
    ["old_anomalous", "new_anomalous"].map((key) => h("td", { class: "number" }, t("share_of", { count: count(label, key, wanted), of: of(label) }))));
  put(find("#totals"), row(t("train.false_alarms"), "good", true), row(t("train.misses"), "defect", false));
  const differ = find("#differ").checked;
  const shown = items.filter((item) => !differ || item.old_anomalous !== item.new_anomalous);
  const cell = (score, bad) => h("td", {}, h("span", { class: `verdict ${bad ? "bad" : "good"}` }, formatScore(score)));
  put(find("#comparison"), shown.length ? shown.map((item) => h("tr", { class: item.old_anomalous === item.new_anomalous ? "" : "moved" },
    h("td", {}, h("a", { href: `/history?id=${item.id}`, "aria-label": t("review.open") }, thumbnailOf({ id: item.id, has_picture: true }))),
    h("td", {}, markOf({ label: item.label })), cell(item.old_score, item.old_anomalous), cell(item.new_score, item.new_anomalous)))
    : h("tr", {}, h("td", { colspan: 4, class: "soft" }, t(items.length ? "train.none_differ" : "train.none_marked"))));
}
find("#differ").addEventListener("change", () => compared && showComparison());

/* Versions. */

async function loadVersions() {
  const [versions, changes] = await Promise.all([get(`${base}/versions`), get(`${base}/changes`)]);
  put(find("#versions"), versions.items.map((each) => h("li", { class: "row between version" },
    h("span", {}, h("strong", {}, t("version_n", { n: each.version })), " ", h("span", { class: "soft small" }, formatTime(each.created))),
    each.active ? h("span", { class: "verdict good" }, t("train.in_use")) : h("button", { type: "button", onclick: () => askToPromote(each.version) }, t("train.use")))));
  put(find("#changes"), changes.items.map((each) => h("li", {}, `${formatTime(each.time)} · ${t("version_n", { n: each.version })} · ${each.author}: ${say(each.reason, each)}`)));
}

function askToPromote(version) {
  promoting = version;
  find("#promote-title").textContent = t("train.use_n", { n: version });
  find("#reason").value = "";
  find("#promote").returnValue = "";
  find("#promote").showModal();
}

find("#promote").addEventListener("close", (event) => {
  if (event.target.returnValue !== "promote") return;
  attempt(async () => {
    await post(`${base}/promote`, { version: promoting, reason: find("#reason").value });
    notice(t("train.promoted", { n: promoting }));
    await loadVersions();
  });
});

follow("model", settle(() => attempt(loadVersions), 200));
if (getModel()) {
  loadAndFollow(() => attempt(loadJobs));
  loadAndFollow(() => attempt(loadVersions));
  attempt(() => openFolder());
}
