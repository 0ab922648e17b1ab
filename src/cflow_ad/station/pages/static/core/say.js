/* What the station says, in the page's language: a language that has no text for a code shows the station's own English. */
import { formatCount } from "./format.js";
import { has, t } from "./texts.js";

export function say(text, { code, values = {} }) {
  if (!has(`said.${code}`)) return text;
  const shown = Object.fromEntries(Object.entries(values).map(([name, value]) => [name, typeof value === "number" ? formatCount(value) : value]));
  if (has(`said.field.${values.field}`)) shown.field = t(`said.field.${values.field}`);
  return (values.name ? `${values.name}: ` : "") + t(`said.${code}`, shown);
}
