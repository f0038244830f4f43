// The drawing pad: white strokes on black, as the digits that networks learn from.
// Strokes are kept as points on a square of side 1, so that they can be undone, centred and drawn at any size.

import { el, find } from "./dom.js";
import { canvasOf, toBlob } from "./picture.js";
import { DIGITS } from "./samples.js";

const PEN = 0.075; // the width of the pen, as a share of the pad's side
const SENT_SIDE = 112; // pixels: four times what the network sees, which makes it small itself
const CONTENT = 20 / 28; // the share of a digit's frame that it fills in MNIST

// `drawn(blob, {lifted, sample, at})` gets every drawing, also while the pen is down; `emptied()` is told of an empty pad.
export function startDrawing(drawn, emptied) {
  const pad = find("#pad");
  let strokes = [];
  let sample = "";
  let drawing = false;
  let busy = false;

  const show = () => paintStrokes(pad, strokes);

  async function tell(lifted, at = performance.now()) {
    if (strokes.length === 0) {
      emptied();
      return;
    }
    if (!lifted && busy) return;
    busy = true;
    const shape = find("#centre").checked ? centred(strokes) : strokes;
    try {
      await drawn(await toBlob(paintStrokes(canvasOf(SENT_SIDE, SENT_SIDE), shape)), { lifted, sample, at });
    } finally {
      busy = false;
    }
  }

  const pointOf = (event) => {
    const box = pad.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  };

  pad.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    pad.setPointerCapture(event.pointerId);
    drawing = true;
    sample = "";
    strokes.push([pointOf(event)]);
    show();
    event.preventDefault();
  });
  pad.addEventListener("pointermove", (event) => {
    if (!drawing) return;
    const moves = event.getCoalescedEvents?.() ?? [];
    strokes.at(-1).push(...(moves.length ? moves : [event]).map(pointOf));
    show();
    tell(false);
  });
  const lift = () => {
    if (!drawing) return;
    drawing = false;
    tell(true);
  };
  pad.addEventListener("pointerup", lift);
  pad.addEventListener("pointercancel", lift);
  find("#undo").addEventListener("click", () => {
    strokes.pop();
    sample = "";
    show();
    tell(true);
  });
  find("#clear").addEventListener("click", () => {
    strokes = [];
    sample = "";
    show();
    tell(true);
  });
  find("#centre").addEventListener("change", () => tell(true));

  const take = (digit) => {
    strokes = DIGITS[digit].map((points) => smooth(points));
    sample = String(digit);
    show();
    return tell(true);
  };
  find(".digits").append(...DIGITS.map((_, digit) =>
    el("button", { type: "button", "aria-label": `Sample digit ${digit}`, onclick: () => take(digit) }, String(digit))));
  show();
  return { take, again: () => tell(true) };
}

function paintStrokes(canvas, strokes) {
  const context = canvas.getContext("2d", { alpha: false });
  const side = canvas.width;
  context.fillStyle = "#000";
  context.fillRect(0, 0, side, side);
  context.strokeStyle = "#fff";
  context.lineWidth = PEN * side;
  context.lineCap = "round";
  context.lineJoin = "round";
  for (const points of strokes) {
    context.beginPath();
    context.moveTo(points[0][0] * side, points[0][1] * side);
    for (const [x, y] of points.length > 1 ? points.slice(1) : points) context.lineTo(x * side, y * side);
    context.stroke();
  }
  return canvas;
}

// Scale a drawing into the middle 20 of 28 pixels, its mass in the centre, as MNIST's digits are.
// Source: LeCun, Cortes, Burges: the MNIST database.
function centred(strokes) {
  const points = strokes.flat();
  const [xs, ys] = [points.map(([x]) => x), points.map(([, y]) => y)];
  const [left, right, top, bottom] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const scale = (CONTENT - PEN) / Math.max(right - left, bottom - top, PEN);
  const [x, y] = massCentre(strokes);
  return strokes.map((stroke) => stroke.map((point) => [0.5 + (point[0] - x) * scale, 0.5 + (point[1] - y) * scale]));
}

// Lines of one width have their mass along their length.
function massCentre(strokes) {
  let [sumX, sumY, sum] = [0, 0, 0];
  for (const points of strokes) {
    for (let at = 0; at < points.length; at += 1) {
      const [from, to] = [points[Math.max(0, at - 1)], points[at]];
      const length = Math.hypot(to[0] - from[0], to[1] - from[1]) + 1e-6;
      sumX += length * (from[0] + to[0]) / 2;
      sumY += length * (from[1] + to[1]) / 2;
      sum += length;
    }
  }
  return [sumX / sum, sumY / sum];
}

// Points on the curve that goes through all given ones. Source: Catmull and Rom, 1974, with tension 1/2.
function smooth(points) {
  const curve = [];
  for (let at = 0; at + 1 < points.length; at += 1) {
    const [a, b, c, d] = [points[Math.max(0, at - 1)], points[at], points[at + 1], points[Math.min(points.length - 1, at + 2)]];
    for (let t = 0; t < 1; t += 0.125) {
      curve.push([0, 1].map((axis) => 0.5 * (2 * b[axis] + (c[axis] - a[axis]) * t
        + (2 * a[axis] - 5 * b[axis] + 4 * c[axis] - d[axis]) * t * t + (3 * b[axis] - a[axis] - 3 * c[axis] + d[axis]) * t ** 3)));
    }
  }
  return [...curve, points.at(-1)];
}
