// Pictures that the page brings along, so that nobody has to have one: a photo, two patterns, ten digits.

import { canvasOf, toBlob } from "./picture.js";

// Strokes on a square of side 1, each a list of points; what lies between them is drawn smoothly.
export const DIGITS = [
  [[[0.5, 0.14], [0.33, 0.24], [0.27, 0.5], [0.33, 0.77], [0.5, 0.87], [0.67, 0.77], [0.73, 0.5], [0.67, 0.24], [0.5, 0.14]]],
  [[[0.42, 0.28], [0.52, 0.15], [0.51, 0.5], [0.5, 0.87]]],
  [[[0.3, 0.3], [0.38, 0.17], [0.55, 0.14], [0.68, 0.26], [0.62, 0.46], [0.42, 0.68], [0.28, 0.85]], [[0.28, 0.85], [0.5, 0.84], [0.74, 0.85]]],
  [[[0.31, 0.22], [0.47, 0.14], [0.65, 0.22], [0.64, 0.39], [0.47, 0.47], [0.66, 0.56], [0.69, 0.73], [0.52, 0.87], [0.3, 0.8]]],
  [[[0.4, 0.14], [0.33, 0.36], [0.27, 0.56], [0.5, 0.56], [0.76, 0.54]], [[0.62, 0.3], [0.6, 0.6], [0.58, 0.88]]],
  [[[0.7, 0.15], [0.52, 0.15], [0.35, 0.17]], [[0.35, 0.17], [0.33, 0.32], [0.31, 0.46]], [[0.31, 0.46], [0.5, 0.42], [0.68, 0.53], [0.69, 0.72], [0.52, 0.87], [0.3, 0.81]]],
  [[[0.62, 0.13], [0.43, 0.3], [0.33, 0.55], [0.36, 0.78], [0.52, 0.87], [0.67, 0.76], [0.63, 0.58], [0.48, 0.54], [0.36, 0.66]]],
  [[[0.27, 0.17], [0.5, 0.17], [0.73, 0.17]], [[0.73, 0.17], [0.6, 0.45], [0.45, 0.87]]],
  [[[0.5, 0.49], [0.34, 0.37], [0.36, 0.2], [0.5, 0.13], [0.65, 0.2], [0.66, 0.36], [0.5, 0.49], [0.32, 0.64], [0.34, 0.81], [0.5, 0.88], [0.67, 0.8], [0.68, 0.63], [0.5, 0.49]]],
  [[[0.66, 0.28], [0.52, 0.14], [0.35, 0.24], [0.36, 0.42], [0.52, 0.48], [0.66, 0.36], [0.67, 0.27], [0.64, 0.55], [0.55, 0.87]]],
];

const PATTERNS = {
  shapes(context) {
    context.fillStyle = "#f3efe6";
    context.fillRect(0, 0, 240, 240);
    for (const [colour, path] of [["#c2452d", circle(70, 72, 44)], ["#23577a", square(138, 30, 76)], ["#3d7a45", triangle()]]) {
      context.fillStyle = colour;
      context.fill(path);
    }
  },
  stripes(context) {
    context.fillStyle = "#fff";
    context.fillRect(0, 0, 240, 240);
    context.fillStyle = "#222";
    for (let at = 0; at < 6; at += 1) {
      context.fillRect(10 + at * 18, 12, 9, 98);
      context.fillRect(130, 12 + at * 18, 98, 9);
    }
    context.lineWidth = 9;
    for (let at = 0; at < 5; at += 1) {
      context.strokeRect(18 + at * 9.5, 136 + at * 9.5, 92 - at * 19, 92 - at * 19);
      context.stroke(line(132 + at * 20, 132, 228, 228 - at * 20));
      context.stroke(line(132, 132 + at * 20, 228 - at * 20, 228));
    }
  },
};

export async function samplePhoto(sample) {
  if (sample === "cat") return (await fetch("page/cat.jpg")).blob();
  const canvas = canvasOf(240, 240);
  PATTERNS[sample](canvas.getContext("2d"));
  return toBlob(canvas);
}

export const isSamplePhoto = (sample) => sample === "cat" || Object.hasOwn(PATTERNS, sample);

function circle(x, y, radius) {
  const path = new Path2D();
  path.arc(x, y, radius, 0, 2 * Math.PI);
  return path;
}

function square(x, y, side) {
  const path = new Path2D();
  path.rect(x, y, side, side);
  return path;
}

function triangle() {
  return new Path2D("M120 132 L206 218 L34 218 Z");
}

function line(fromX, fromY, toX, toY) {
  return new Path2D(`M${fromX} ${fromY} L${toX} ${toY}`);
}
