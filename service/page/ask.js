// The first screen: a picture comes from a file, the pad or the camera, and is asked about.

import { startCamera } from "./camera.js";
import { startDrawing } from "./drawing.js";
import { el, find, replace } from "./dom.js";
import { remember } from "./link.js";
import { percent } from "./numbers.js";
import { draw, upright } from "./picture.js";
import { predict, showAnswer, showNothing } from "./prediction.js";
import { isSamplePhoto, samplePhoto } from "./samples.js";
import { on, set, state } from "./state.js";
import { chooseModel, noVersions, usualFor } from "./versions.js";
import { trouble } from "./views.js";

const TABS = ["photo", "draw", "camera"];
const EMPTY = "Nothing is drawn yet. Draw a digit, or take one of those below the pad.";
const CHOICES = { drawing: "", other: "" }; // the version that somebody chose, for drawings and for all else

let controller = new AbortController();
let photo = null;
let pad;
let stopCamera;

const choiceFor = (kind) => (kind === "drawing" ? "drawing" : "other");

const kindNow = () => state.picture?.kind ?? (tabNow() === "draw" ? "drawing" : "photo");

export function keepChoice(ref, kind = kindNow()) {
  CHOICES[choiceFor(kind)] = ref;
}

export function startAsking() {
  pad = startDrawing(drawn, emptied);
  stopCamera = startCamera((blob) => show({ blob, name: "the camera's picture", kind: "camera" }));
  startTabs();
  startFiles();
  find("#model").addEventListener("change", (event) => keepChoice(event.target.value));
  on("model", () => state.model && state.picture && answer(state.picture, performance.now()));
  on("away", () => !state.away && state.picture && !state.answer && answer(state.picture, performance.now()));
}

// Show the page's own picture of a link: "cat", "digit-3".
export async function takeSample(sample) {
  const digit = /^digit-(\d)$/.exec(sample);
  if (digit) {
    selectTab("draw");
    await pad.take(Number(digit[1]));
  } else if (isSamplePhoto(sample)) {
    selectTab("photo");
    await show({ blob: await samplePhoto(sample), name: `the sample "${sample}"`, kind: "photo", sample });
  }
}

// Say in the answer's place why there is none; `again` tries what failed once more.
export function fail(error, again) {
  if (error.name === "AbortError") return;
  showNothing("No answer.");
  replace(find("#ask-status"), trouble(error, again));
}

// Make a picture the one that the page is about, and ask.
async function show(picture, at = performance.now()) {
  remember({ sample: picture.sample ?? "" });
  if (picture.kind === "photo") photo = picture;
  if (picture.kind !== "drawing") preview(picture);
  const ref = CHOICES[choiceFor(picture.kind)] || usualFor(picture.kind);
  set({ picture, answer: null });
  if (!ref) return replace(find("#ask-status"), noVersions());
  if (ref === state.model) return answer(picture, at);
  return chooseModel(ref).catch((error) => fail(error, () => show(picture))); // which asks
}

async function drawn(blob, { lifted, sample, at }) {
  const picture = { blob, name: "your drawing", kind: "drawing", sample: sample && `digit-${sample}` };
  if (lifted) return show(picture, at);
  if (!state.picture || state.picture.kind === "drawing") await answer(picture, at, false);
  return undefined;
}

function emptied() {
  controller.abort();
  set({ picture: null, answer: null });
  remember({ sample: "" });
  replace(find("#ask-status"));
  showNothing(EMPTY);
}

// Ask, and show the answer; `final` is false while somebody still draws.
async function answer(picture, at, final = true) {
  controller.abort();
  const { signal } = (controller = new AbortController());
  const ref = state.model || usualFor(picture.kind);
  try {
    const said = await predict(ref, picture.blob, { signal });
    if (signal.aborted) return;
    showAnswer(said);
    replace(find("#ask-status"));
    if (!final) return;
    if (picture.kind === "drawing") performance.measure("pen-lift-to-answer", { start: at, end: performance.now() });
    const [first] = said.predictions;
    find("#spoken").textContent = `${first.label}, ${percent(first.probability)}.`;
    set({ answer: { ...said, ref, picture } });
  } catch (error) {
    if (!signal.aborted) fail(error, () => answer(picture, performance.now()));
  }
}

function startFiles() {
  const drop = find("#drop");
  const file = find("#file");
  const take = (blob) => blob && show({ blob, name: blob.name || "your picture", kind: "photo" });
  file.addEventListener("change", () => take(file.files[0]));
  for (const name of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", name === "dragover");
    });
  }
  const takeFile = (blob) => {
    if (!blob) return;
    selectTab("photo");
    take(blob);
  };
  document.addEventListener("drop", (event) => takeFile(event.dataTransfer.files[0]));
  document.addEventListener("paste", (event) => takeFile(event.clipboardData.files[0]));
  for (const button of document.querySelectorAll("[data-sample]")) {
    button.addEventListener("click", () => takeSample(button.dataset.sample).catch((error) => fail(error)));
  }
}

async function preview(picture) {
  const [canvas, text] = [find("#preview"), find("#drop-text")];
  if (picture.kind === "camera") return;
  try {
    const { width, height, image } = await upright(picture);
    if (photo !== picture) return;
    canvas.hidden = false;
    canvas.width = image.width;
    canvas.height = image.height;
    draw(canvas, image);
    replace(text, `${picture.name}, ${width} \u00d7 ${height}. Drop another here, or `, el("span", { class: "link" }, "choose a file"));
  } catch (error) {
    canvas.hidden = true;
    replace(text, error.message, " ", el("span", { class: "link" }, "Choose another file"));
  }
}

// ---- where the picture comes from

const tabNow = () => TABS.find((name) => find(`#tab-${name}`).getAttribute("aria-selected") === "true");

function selectTab(chosen) {
  for (const name of TABS) {
    const tab = find(`#tab-${name}`);
    tab.setAttribute("aria-selected", String(name === chosen));
    tab.tabIndex = name === chosen ? 0 : -1;
    find(`#from-${name}`).hidden = name !== chosen;
  }
  if (chosen !== "camera") stopCamera();
}

function startTabs() {
  TABS.forEach((name, at) => {
    const tab = find(`#tab-${name}`);
    tab.addEventListener("click", () => openTab(name));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = TABS[(at + step + TABS.length) % TABS.length];
      find(`#tab-${next}`).focus();
      openTab(next);
    });
  });
}

// The picture is the one of the tab that is open.
function openTab(name) {
  if (name === tabNow()) return;
  selectTab(name);
  if (name === "draw") pad.again();
  if (name === "photo" && photo) show(photo);
}
