/* Short notices at the corner; an action such as undo may stand in one. */
import { find, h } from "./dom.js";
import { t } from "./texts.js";

const SECONDS = 6;

export function notice(text, { wrong = false, action } = {}) {
  const shown = h("div", { class: wrong ? "notice wrong" : "notice", role: wrong ? "alert" : null }, h("span", { class: "grow" }, text));
  const close = () => shown.remove();
  if (action) shown.append(h("button", { type: "button", onclick: () => { close(); action.run(); } }, action.label));
  if (wrong) shown.append(h("button", { type: "button", onclick: close }, t("close")));
  find("#notices").append(shown);
  while (find("#notices").children.length > 3) find("#notices").firstChild.remove();
  if (!wrong) setTimeout(close, SECONDS * 1000);
}

/* Run something that calls the station; what goes wrong is shown. */
export async function attempt(action) {
  try {
    return await action();
  } catch (error) {
    notice(error.message, { wrong: true });
    return undefined;
  }
}
