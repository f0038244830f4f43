// The camera: only while its tab is shown, never recorded; a picture of it is a JPEG like any other.

import { el, find, replace } from "./dom.js";
import { canvasOf, draw, toBlob } from "./picture.js";
import { trouble } from "./views.js";
import { Problem } from "./api.js";

const LIVE_MS = 500;
const REASONS = {
  NotAllowedError: "The browser does not let this page use the camera; its address bar says how to allow it.",
  NotFoundError: "This device has no camera.",
  NotReadableError: "Another program is using the camera.",
};

// `taken(blob)` gets every picture; returns what stops the camera.
export function startCamera(taken) {
  const [video, start, take, live] = ["#video", "#camera-start", "#camera-take", "#camera-live"].map((id) => find(id));
  const status = find("#camera-status");
  let stream = null;
  let timer = 0;

  function stop() {
    clearInterval(timer);
    for (const track of stream?.getTracks() ?? []) track.stop();
    stream = video.srcObject = null;
    live.checked = false;
    take.disabled = live.disabled = true;
    start.textContent = "Start the camera";
  }

  async function snap() {
    const frame = canvasOf(video.videoWidth, video.videoHeight);
    draw(frame, video, [0, 0, video.videoWidth, video.videoHeight]);
    await taken(await toBlob(frame, "image/jpeg", 0.92));
  }

  start.addEventListener("click", async () => {
    if (stream) return stop();
    try {
      if (!navigator.mediaDevices) throw new DOMException("", "InsecureContext");
      stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 1280 } } });
      video.srcObject = stream;
      await video.play();
      take.disabled = live.disabled = false;
      start.textContent = "Stop the camera";
      return replace(status, el("p", { class: "muted" }, "Pictures go to this service only, one by one, when you ask."));
    } catch (error) {
      stop();
      const reason = REASONS[error.name] ?? "Browsers give the camera to pages over HTTPS, or from this machine, only.";
      return replace(status, trouble(new Problem("No camera", reason, { next: "A photo from a file does as well." })));
    }
  });
  take.addEventListener("click", snap);
  live.addEventListener("change", () => {
    clearInterval(timer);
    if (live.checked) timer = setInterval(snap, LIVE_MS);
  });
  document.addEventListener("visibilitychange", () => document.hidden && stream && stop());
  return stop;
}
