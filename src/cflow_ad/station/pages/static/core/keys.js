/* Keys of the page: addKeys([[["g"], "text", action]]). None works while one types. */
import { find, h, put } from "./dom.js";

const bindings = [];
const SHOWN = { ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓", " ": "␣", Escape: "Esc" };

export function addKeys(added) {
  bindings.push(...added);
}

function isTyping(target) {
  return target.closest("input:not([type=checkbox], [type=radio], [type=range]), textarea, select, [contenteditable]");
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  if (isTyping(event.target)) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const steers = event.target.closest("[role=slider], input[type=range], [role=tablist]");
  if (steers && key.startsWith("Arrow")) return;
  if (key === " " && event.target.closest("button, a, summary, label, input")) return;
  const open = find("dialog[open]");
  const found = bindings.find(([keys, , , inDialog]) => keys.includes(key) && (!open || inDialog));
  if (!found) return;
  event.preventDefault();
  found[2](key);
});

export function showHelp() {
  put(find("#help dl"), bindings.map(([keys, text]) => [
    h("dt", {}, keys.map((key) => h("kbd", {}, SHOWN[key] ?? key.toUpperCase()))),
    h("dd", {}, text),
  ]).flat());
  find("#help").showModal();
}
