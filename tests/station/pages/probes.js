/* What the tests ask a page about its looks; each gives a list of what is wrong. */
const isVisible = (element) => element.checkVisibility({ visibilityProperty: true });

function parse(text) {
  const [r, g, b, a = 1] = text.match(/[\d.]+/g).map(Number);
  return { r, g, b, a };
}

function over(top, under) {
  const mix = (channel) => top[channel] * top.a + under[channel] * (1 - top.a);
  return { r: mix("r"), g: mix("g"), b: mix("b"), a: 1 };
}

function groundOf(element) {
  let ground = { r: 255, g: 255, b: 255, a: 1 };
  const layers = [];
  for (let at = element; at; at = at.parentElement) {
    layers.unshift(parse(getComputedStyle(at).backgroundColor));
  }
  for (const layer of layers) ground = over(layer, ground);
  return ground;
}

/* Relative luminance, as WCAG defines it. */
function luminance({ r, g, b }) {
  const [x, y, z] = [r, g, b]
    .map((value) => value / 255)
    .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
  return 0.2126 * x + 0.7152 * y + 0.0722 * z;
}

/* Texts with less contrast than WCAG AA asks for. */
function lowContrast() {
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.data.trim();
    const element = walker.currentNode.parentElement;
    if (!text || !isVisible(element)) continue;
    if (element.closest("svg, .unseen, .skip, option, :disabled")) continue;
    const style = getComputedStyle(element);
    const ground = groundOf(element);
    const lights = [luminance(over(parse(style.color), ground)), luminance(ground)];
    const ratio = (Math.max(...lights) + 0.05) / (Math.min(...lights) + 0.05);
    const size = parseFloat(style.fontSize);
    const isLarge = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    if (ratio < (isLarge ? 3 : 4.5)) found.push(`${text}: ${ratio.toFixed(2)}`);
  }
  return found;
}

function nameOf(element) {
  const byId = (element.getAttribute("aria-labelledby") ?? "").split(" ");
  return [
    element.getAttribute("aria-label") ?? "",
    ...[...(element.labels ?? [])].map((label) => label.textContent),
    ...byId.map((id) => document.getElementById(id)?.textContent ?? ""),
    element.textContent,
    element.title,
  ].join("").trim();
}

/* Controls without a name, pictures without a text, and ids that occur twice. */
function nameless() {
  const kinds = "button, a, input, select, textarea, [role=slider], dialog";
  const controls = [...document.querySelectorAll(kinds)].filter(
    (each) => (isVisible(each) || each.tagName === "DIALOG") && !nameOf(each),
  );
  const pictures = [...document.querySelectorAll("img:not([alt])")];
  const ids = [...document.querySelectorAll("[id]")].map((each) => each.id);
  const twice = ids.filter((id, index) => ids.indexOf(id) !== index);
  return [...controls, ...pictures].map((each) => each.outerHTML.slice(0, 120)).concat(twice);
}

/* What makes the page scroll sideways. */
function tooWide() {
  if (document.documentElement.scrollWidth <= innerWidth) return [];
  return [...document.querySelectorAll("body *")]
    .filter((each) => each.getBoundingClientRect().right > innerWidth + 1)
    .filter((each) => !each.closest(".scroll, .strip, .frame, nav"))
    .map((each) => each.outerHTML.slice(0, 100));
}

/* Targets below the 24 pixels of WCAG 2.2 AA. */
function smallTargets() {
  return [...document.querySelectorAll("main button, main .button, nav a")]
    .filter((each) => isVisible(each) && !each.closest(".unseen"))
    .filter((each) => {
      const box = each.getBoundingClientRect();
      return box.width < 24 || box.height < 24;
    })
    .map((each) => each.outerHTML.slice(0, 100));
}
