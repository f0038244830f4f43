// How steady the answer is: the same picture turned, blurred, squeezed and cropped in the browser, and asked about again.

import { el, find, replace } from "./dom.js";
import { percent } from "./numbers.js";
import { canvasOf, draw, toBlob, upright } from "./picture.js";
import { predict } from "./prediction.js";
import { state } from "./state.js";
import { View, note } from "./views.js";

const AT_ONCE = 4; // requests
const [SHORT_SIDE, LONG_SIDE] = [320, 640]; // pixels, to which a picture is made small before anything is done to it

const ROWS = [
  { title: "Turned", steps: [-45, -30, -15, 0, 15, 30, 45], name: (degrees) => `${degrees}\u00b0`.replace("-", "\u2212"), change: turned },
  { title: "Blurred", steps: [0, 0.5, 1, 2, 4, 6, 10], name: (share) => (share ? `${share} %` : "sharp"), change: blurred },
  { title: "Squeezed as JPEG", steps: [95, 75, 50, 25, 10, 5, 1], name: (quality) => `quality ${quality}`, change: copied, file: (canvas, quality) => toBlob(canvas, "image/jpeg", quality / 100) },
  { title: "Cropped", steps: [100, 90, 80, 65, 50, 35, 20], name: (share) => `${share} %`, change: cropped },
];

export function startRobustness() {
  const section = find("#robustness");
  const place = find(".robustness", section);
  const view = new View(section, "answer", async (signal) => {
    if (!state.answer) {
      replace(place);
      return view.say(note("Choose a picture first."));
    }
    const { answer } = state;
    const { image } = await upright(answer.picture);
    if (signal.aborted) return undefined;
    view.say();
    const scale = Math.min(1, SHORT_SIDE / Math.min(image.width, image.height), LONG_SIDE / Math.max(image.width, image.height));
    const base = canvasOf(image.width * scale, image.height * scale);
    draw(base, image);
    const jobs = [];
    replace(place, ROWS.map((row) => {
      const items = row.steps.map((step) => {
        const item = el("li");
        jobs.push(() => tryOne(item, row, step, base, answer, signal));
        return item;
      });
      return el("div", {}, el("h3", {}, row.title), el("ol", { "aria-label": row.title }, items));
    }));
    await inTurns(jobs, signal);
    return signal.aborted ? undefined : view.say(el("p", { role: "status" }, summary(place, answer.predictions[0].label)));
  });
}

async function inTurns(jobs, signal) {
  const left = [...jobs];
  await Promise.all(Array.from({ length: AT_ONCE }, async () => {
    for (let job = left.shift(); job && !signal.aborted; job = left.shift()) await job();
  }));
}

async function tryOne(item, { name, change, file }, step, base, { ref, picture, predictions: [expected] }, signal) {
  const canvas = change(base, step);
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", name(step));
  const blob = await (file ? file(canvas, step) : toBlob(canvas, ...formatOf(picture)));
  replace(item, canvas, el("span", { class: "muted" }, name(step)));
  if (file) draw(canvas, await createImageBitmap(blob)); // what the squeezing has left
  const { predictions } = await predict(ref, blob, { topK: 0, signal });
  if (signal.aborted) return;
  const share = predictions.find(({ label }) => label === expected.label)?.probability ?? 0;
  const bar = el("div", { class: "bar", "aria-hidden": "true" }, el("div"));
  bar.firstChild.style.width = `${share * 100}%`;
  const other = predictions[0].label !== expected.label ? predictions[0].label : "";
  item.dataset.held = String(!other);
  item.append(bar, el("span", { class: "value" }, percent(share)), other ? el("span", { class: "other" }, `now ${other}`) : "");
}

// A photo that came as a JPEG goes on as a good one, in a sixth of the bytes and of the time; anything else as it is.
const formatOf = ({ blob }) => (blob.type === "image/jpeg" ? ["image/jpeg", 0.97] : ["image/png"]);

function summary(place, label) {
  const items = [...place.querySelectorAll("li")];
  const held = items.filter(({ dataset }) => dataset.held === "true").length;
  return `The bars tell how probable ${label} is. It stays the first answer in ${held} of ${items.length}.`;
}

// ---- what is done to the picture; each gives a new canvas

function copied(image) {
  const canvas = canvasOf(image.width, image.height);
  draw(canvas, image);
  return canvas;
}

function turned(image, degrees) {
  const canvas = canvasOf(image.width, image.height);
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0, 1, 1, 0, 0, canvas.width, canvas.height); // the corners take a colour of the picture
  context.translate(canvas.width / 2, canvas.height / 2);
  context.rotate((degrees * Math.PI) / 180);
  context.drawImage(image, -canvas.width / 2, -canvas.height / 2);
  return canvas;
}

function blurred(image, share) {
  const radius = (Math.min(image.width, image.height) * share) / 100;
  const margin = Math.ceil(3 * radius);
  const canvas = canvasOf(image.width, image.height);
  const context = canvas.getContext("2d");
  context.filter = `blur(${radius}px)`;
  context.drawImage(mirrored(image, margin), -margin, -margin);
  return canvas;
}

// The picture with a margin in which it is mirrored, so that a blur does not fade out at its edges.
function mirrored(image, margin) {
  const { width, height } = image;
  const canvas = canvasOf(width + 2 * margin, height + 2 * margin);
  const context = canvas.getContext("2d");
  for (const down of [-1, 0, 1]) {
    for (const across of [-1, 0, 1]) {
      context.setTransform(across ? -1 : 1, 0, 0, down ? -1 : 1, margin + (across > 0 ? 2 * width : 0), margin + (down > 0 ? 2 * height : 0));
      context.drawImage(image, 0, 0);
    }
  }
  return canvas;
}

function cropped(image, share) {
  const [width, height] = [(image.width * share) / 100, (image.height * share) / 100];
  const canvas = canvasOf(width, height);
  draw(canvas, image, [(image.width - width) / 2, (image.height - height) / 2, width, height]);
  return canvas;
}
