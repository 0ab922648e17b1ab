/* A drift alarm in words. */
import { formatDigits, formatTime } from "../core/format.js";
import { t } from "../core/texts.js";

const LINEAR = { brightness: 1, warmth: 3, tint: 3, x: 3, y: 3 };

/* A value of a measure; score and sharpness are on a logarithmic scale. */
export const formatMeasure = (measure, value) => formatDigits(value, LINEAR[measure] ?? 2);

export function describeAlarm(alarm) {
  const what = t(`measure.${alarm.measure}`);
  const when = t("drift.since", { time: formatTime(alarm.since_time), n: alarm.n_after });
  return `${t(`drift.${alarm.direction}`, { what })} ${describeShift(alarm)} ${when}`;
}

function describeShift(alarm) {
  if (alarm.before === null || !["up", "down"].includes(alarm.direction)) return "";
  const values = {
    before: formatMeasure(alarm.measure, alarm.before),
    after: formatMeasure(alarm.measure, alarm.after),
  };
  if (alarm.shift === null) return t("drift.from_to", values);
  return t("drift.by", { ...values, spreads: formatDigits(Math.abs(alarm.shift), 1) });
}
