// Numbers as colours: one map for amounts, one for values around zero, both told apart by colour-blind eyes.

// Dark to light through blue, green and yellow, and blue to orange through white (or black), as [r, g, b].
const AMOUNT = [[20, 14, 54], [49, 46, 124], [42, 92, 148], [35, 133, 142], [57, 172, 116], [147, 205, 68], [250, 231, 85]];
const AROUND_ZERO = [[5, 48, 97], [33, 102, 172], [146, 197, 222], [247, 247, 247], [253, 190, 133], [230, 97, 1], [127, 39, 4]];

const table = (stops) => Uint8ClampedArray.from({ length: 256 * 4 }, (_, at) => {
  if (at % 4 === 3) return 255;
  const place = (Math.floor(at / 4) / 255) * (stops.length - 1);
  const low = Math.min(Math.floor(place), stops.length - 2);
  return stops[low][at % 4] + (stops[low + 1][at % 4] - stops[low][at % 4]) * (place - low);
});

const TABLES = { amount: table(AMOUNT), signed: table(AROUND_ZERO) };

// The scale that shows values from `low` to `high`: around zero where there are negative ones.
export function scaleOf(low, high) {
  if (low < 0) {
    const bound = Math.max(-low, high, 1e-12);
    return { map: "signed", low: -bound, high: bound };
  }
  return { map: "amount", low: 0, high: Math.max(high, 1e-12) };
}

export function rangeOf(values) {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return [low, high];
}

const placeOn = (scale, value) =>
  Math.max(0, Math.min(255, Math.round(((value - scale.low) / (scale.high - scale.low)) * 255)));

export function colourOf(scale, value) {
  const at = placeOn(scale, value) * 4;
  const [r, g, b] = TABLES[scale.map].subarray(at, at + 3);
  return { css: `rgb(${r} ${g} ${b})`, ink: luminance(r, g, b) > EQUAL_CONTRAST ? "#000" : "#fff" };
}

const EQUAL_CONTRAST = 0.179; // the luminance on which black and white can be read equally well

// Source: WCAG 2.2, relative luminance.
function luminance(...parts) {
  const [r, g, b] = parts.map((part) => (part <= 10 ? part / 3295 : ((part / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

// Paint values, row by row, one pixel each, into a canvas.
export function paint(canvas, values, width, height, scale) {
  canvas.width = width;
  canvas.height = height;
  const pixels = new ImageData(width, height);
  const colours = TABLES[scale.map];
  for (let at = 0; at < width * height; at += 1) {
    const from = placeOn(scale, values[at]) * 4;
    for (let part = 0; part < 4; part += 1) pixels.data[at * 4 + part] = colours[from + part];
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}

// A legend: the colours of a scale from its lowest to its highest value.
export function paintLegend(canvas, scale) {
  return paint(canvas, Float32Array.from({ length: 256 }, (_, at) => scale.low + ((scale.high - scale.low) * at) / 255), 256, 1, scale);
}
