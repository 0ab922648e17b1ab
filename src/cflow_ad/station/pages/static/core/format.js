/* Numbers, shares and times in the page's language. */
import { language } from "./texts.js";

const locale = navigator.language.startsWith(language) ? navigator.language : language;
const whole = new Intl.NumberFormat(locale);
const time = new Intl.DateTimeFormat(locale, { timeStyle: "medium" });
const dateTime = new Intl.DateTimeFormat(locale, { dateStyle: "short", timeStyle: "medium" });

export const formatCount = (n) => whole.format(n);

/* Of a score: as many digits as tell scores near the threshold apart. */
export const formatScore = (x) => formatDigits(x, x < 1 ? 3 : x < 100 ? 2 : 0);

export const formatDigits = (x, digits) =>
  new Intl.NumberFormat(locale, { minimumFractionDigits: digits, maximumFractionDigits: digits }).format(x);

/* Two significant digits. */
export const formatShare = (x) =>
  new Intl.NumberFormat(locale, { style: "percent", maximumSignificantDigits: x === 1 ? 3 : 2 }).format(x);

export function formatTime(iso) {
  const at = new Date(iso);
  return at.toDateString() === new Date().toDateString() ? time.format(at) : dateTime.format(at);
}

export const formatMs = (ms) => `${new Intl.NumberFormat(locale, { maximumFractionDigits: 0 }).format(ms)} ms`;
