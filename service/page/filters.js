// The filters of the first convolution as pictures: in colour where they see colours, else around zero.

import { paint, rangeOf, scaleOf } from "./colour.js";
import { el } from "./dom.js";
import { canvasOf } from "./picture.js";

const SIDE = 40;
const GAP = 4;
const COLUMNS = 16;

export function filterPicture({ shape: [count, channels, height, width], weights }) {
  const zoom = Math.max(1, Math.floor(SIDE / Math.max(width, height)));
  const columns = Math.min(count, COLUMNS);
  const canvas = canvasOf(columns * (width * zoom + GAP) - GAP, Math.ceil(count / columns) * (height * zoom + GAP) - GAP);
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  const [low, high] = rangeOf(weights.flat(3));
  weights.forEach((filter, at) => {
    context.drawImage(channels === 3 ? coloured(filter, width, height, Math.max(-low, high)) : paint(document.createElement("canvas"), filter[0].flat(), width, height, scaleOf(Math.min(low, -1e-9), high)),
      (at % columns) * (width * zoom + GAP), Math.floor(at / columns) * (height * zoom + GAP), width * zoom, height * zoom);
  });
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `The ${count} filters of the first convolution`);
  const meaning = channels === 3 ? "grey is zero, a colour is what it looks for" : "orange adds, blue takes away";
  return el("figure", { class: "filters" }, el("figcaption", { class: "muted" }, `Its ${count} filters, as learned: ${meaning}.`), canvas);
}

function coloured(filter, width, height, bound) {
  const canvas = canvasOf(width, height);
  const pixels = new ImageData(width, height);
  for (let at = 0; at < width * height; at += 1) {
    for (let channel = 0; channel < 3; channel += 1) {
      pixels.data[at * 4 + channel] = 127.5 + (filter[channel][Math.floor(at / width)][at % width] / bound) * 127.5;
    }
    pixels.data[at * 4 + 3] = 255;
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}
