/* The camera of the tablet or computer that shows the page. */
import { find } from "../core/dom.js";
import { addKeys } from "../core/keys.js";
import { notice } from "../core/notice.js";
import { t } from "../core/texts.js";

export function startCamera(inspect) {
  const open = find("#own-camera");
  const dialog = find("#camera-dialog");
  const video = find("#video");
  if (!navigator.mediaDevices?.getUserMedia) return;  // not over plain HTTP from another machine
  open.hidden = false;

  open.addEventListener("click", async () => {
    try {
      video.srcObject = await navigator.mediaDevices.getUserMedia({
        video: { facingMode: "environment", width: { ideal: 4096 }, height: { ideal: 2160 } },
      });
    } catch {
      notice(t("inspect.no_camera"), { wrong: true });
      return;
    }
    await video.play();
    dialog.showModal();
  });

  dialog.addEventListener("close", () => {
    for (const track of video.srcObject?.getTracks() ?? []) track.stop();
    video.srcObject = null;
  });

  async function shoot() {
    const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
    canvas.getContext("2d").drawImage(video, 0, 0);
    const picture = await canvas.convertToBlob({ type: "image/png" });
    dialog.close();
    await inspect([new File([picture], t("inspect.photo"), { type: "image/png" })]);
  }

  find("#shoot").addEventListener("click", shoot);
  find("#close-camera").addEventListener("click", () => dialog.close());
  addKeys([[[" "], t("inspect.shoot"), () => dialog.open && shoot(), true]]);
}
