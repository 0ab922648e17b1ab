/* The last verdicts, newest first, and the rule on how many of them may be anomalous. */
import { h, put } from "../core/dom.js";
import { formatScore, formatTime } from "../core/format.js";
import { t } from "../core/texts.js";
import { thumbnailOf } from "./verdict.js";

const LENGTH = 40;

export class Strip {
  constructor(root, state, onChoose) {
    Object.assign(this, { root, state, onChoose, items: [], rule: null, chosen: null });
  }

  set(items, rule) {
    this.items = items.slice(0, LENGTH);
    this.rule = rule;
    put(this.root, this.items.map((item) => this.tile(item)));
    this.showRule();
  }

  add(item) {
    if (this.items.some((each) => each.id === item.id)) return;
    this.items = [item, ...this.items].sort((a, b) => b.seq - a.seq).slice(0, LENGTH);
    this.root.insertBefore(this.tile(item), this.root.children[this.items.indexOf(item)] ?? null);
    while (this.root.children.length > LENGTH) this.root.lastChild.remove();
    this.showRule();
  }

  choose(id) {
    this.chosen = id;
    for (const tile of this.root.children) tile.firstChild.setAttribute("aria-current", tile.dataset.id === id);
  }

  /* The neighbour of the chosen part: 1 is older, -1 newer. */
  neighbour(step) {
    const at = this.items.findIndex((item) => item.id === this.chosen);
    return this.items[Math.min(this.items.length - 1, Math.max(0, at + step))];
  }

  tile(item) {
    const words = t(item.is_anomalous ? "anomalous" : "good");
    const label = t("strip.part", { verdict: words, score: formatScore(item.score), time: formatTime(item.time) });
    return h("li", { "data-id": item.id }, h("button", {
      type: "button", class: `tile ${item.is_anomalous ? "bad" : "good"}`, "aria-label": label, title: label,
      "aria-current": item.id === this.chosen, onclick: () => this.onChoose(item),
    }, thumbnailOf(item), h("span", { class: `verdict ${item.is_anomalous ? "bad" : "good"}` }, formatScore(item.score))));
  }

  showRule() {
    const of = this.rule?.of ?? 10;
    const last = this.items.slice(0, of);
    const n = last.filter((item) => item.is_anomalous).length;
    const broken = this.rule !== null && n >= this.rule.anomalous;
    this.state.classList.toggle("broken", broken);
    put(this.state, last.length > 0 && [h("strong", {}, t("rule.count", { n, of: last.length })), " ",
      this.rule ? t(broken ? "rule.broken" : "rule.holds", { limit: this.rule.anomalous, of }) : t("rule.off")]);
  }
}
