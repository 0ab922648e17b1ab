/* Pictures that are dropped, pasted or picked: sent one after the other. */
import { send } from "../core/api.js";
import { find, getModel } from "../core/dom.js";
import { notice } from "../core/notice.js";
import { t } from "../core/texts.js";

const toUrl = (base64) => base64 && `data:image/png;base64,${base64}`;

let waiting = 0;
let done = 0;
let line = Promise.resolve();
let lastPicture = null;

/* Call `onAnswer` with each answer, and addresses of the picture, its heat map and mask. */
export function inspectFiles(files, onAnswer) {
  waiting += files.length;
  showProgress("");
  for (const file of files) line = line.then(() => inspectOne(file, onAnswer));
  return line;
}

async function inspectOne(file, onAnswer) {
  showProgress(file.name);
  // A browser cannot show every format: of others the station draws the picture.
  const own = /^image\/(png|jpeg|webp|gif|bmp|avif)$/.test(file.type);
  const form = new FormData();
  form.append("image", file, file.name || "pasted.png");
  try {
    const answer = await send(`/v1/models/${getModel()}/inspect`, form, { include: own ? "heat,mask" : "heat,mask,overlay", source: `page: ${file.name || t("inspect.pasted")}` });
    const { images = {}, ...inspection } = answer;
    if (lastPicture) URL.revokeObjectURL(lastPicture);
    lastPicture = own ? URL.createObjectURL(file) : null;
    await onAnswer(inspection, { picture: lastPicture ?? toUrl(images.overlay), heat: toUrl(images.heat), mask: toUrl(images.mask) });
  } catch (error) {
    const name = `${file.name}: `;
    notice(error.message.startsWith(name) ? error.message : name + error.message, { wrong: true });
  }
  done += 1;
  showProgress(file.name);
}

function showProgress(name) {
  const shown = find("#progress");
  shown.hidden = done >= waiting || waiting < 2;
  find("span", shown).style.setProperty("width", `${(100 * done) / Math.max(1, waiting)}%`);
  find("p", shown).textContent = t("inspect.sending", { done: Math.min(done + 1, waiting), of: waiting, name });
  if (done >= waiting) done = waiting = 0;
}

const imagesOf = (list) => [...list].filter((file) => file.type.startsWith("image/") || /\.(tiff?|bmp|png|jpe?g)$/i.test(file.name));

export function watchDrops(inspect) {
  const cover = find("#drop-here");
  let depth = 0;
  addEventListener("dragenter", (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    depth += 1;
    cover.hidden = false;
  });
  addEventListener("dragleave", () => {
    depth = Math.max(0, depth - 1);
    cover.hidden = depth === 0;
  });
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    depth = 0;
    cover.hidden = true;
    take(event.dataTransfer.files);
  });
  addEventListener("paste", (event) => {
    if (event.clipboardData?.files.length) take(event.clipboardData.files);
  });

  function take(list) {
    const images = imagesOf(list);
    if (images.length < list.length) notice(t("inspect.not_images", { n: list.length - images.length }), { wrong: true });
    if (images.length) inspect(images);
  }
}
