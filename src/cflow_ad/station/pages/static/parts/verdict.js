/* A verdict in words, with its sign and colour; and its odds. */
import { h } from "../core/dom.js";
import { formatCount } from "../core/format.js";
import { t } from "../core/texts.js";

export const verdictOf = (inspection) =>
  h("span", { class: `verdict ${inspection.is_anomalous ? "bad" : "good"}` }, t(inspection.is_anomalous ? "anomalous" : "good"));

export function markOf(mark) {
  if (!mark) return h("span", { class: "verdict none" }, t("mark.none"));
  return h("span", { class: `verdict ${mark.label === "defect" ? "bad" : "good"}` }, t(`mark.${mark.label}`));
}

/* "3 of 412 good parts looked this odd: p = 4/413" */
export function describeOdds(inspection) {
  if (!inspection.odds) return t("odds.unknown");
  const { count, of } = inspection.odds;
  const values = { count: formatCount(count), of: formatCount(of), p: `${formatCount(count + 1)}/${formatCount(of + 1)}`, n: count };
  return t(count === 0 ? "odds.none" : "odds.some", values);
}

export const thumbnailOf = (inspection, alt = "") => inspection.has_picture
  ? h("img", { class: "thumb", src: `/v1/inspections/${inspection.id}/thumbnail`, alt, loading: "lazy", width: 96, height: 96 })
  : h("span", { class: "thumb none" }, t("no_picture"));
