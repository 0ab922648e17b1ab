/* Mark parts as good or defective, with undo. */
import { post } from "../core/api.js";
import { attempt, notice } from "../core/notice.js";
import { t } from "../core/texts.js";

const batches = [];  // batches of this page, the last one last

/* `blind`: no verdict of these parts was shown. Calls `onChange` after the marks are stored, and after they were taken back. */
export function markParts(ids, label, onChange, blind = false) {
  return attempt(async () => {
    const { batch } = await post("/v1/marks", { ids, label, blind });
    batches.push({ batch, onChange });
    await onChange();
    notice(t(`marked.${label}`, { n: ids.length }), { action: { label: t("undo"), run: () => undo(batch) } });
    return batch;
  });
}

export function undo(batch = batches.at(-1)?.batch) {
  const at = batches.findIndex((each) => each.batch === batch);
  if (at < 0) {
    notice(t("nothing_to_undo"));
    return undefined;
  }
  const [{ onChange }] = batches.splice(at, 1);
  return attempt(async () => {
    await post("/v1/marks/undo", { batch });
    await onChange();
    notice(t("undone"));
  });
}
