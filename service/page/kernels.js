// The kernel bench: known kernels, or your own, on the picture in grey; then ReLU; then pooling.

import { numberTable, sign } from "./cells.js";
import { paint, paintLegend, rangeOf, scaleOf } from "./colour.js";
import { convolve, patchAt, pool, relu } from "./convolution.js";
import { el, find, options, replace } from "./dom.js";
import { linked, remember } from "./link.js";
import { decimal } from "./numbers.js";
import { canvasOf, draw, upright } from "./picture.js";
import { state } from "./state.js";
import { View, note } from "./views.js";

const EDGE = [-1, -1, 1, 1];
const edge = Array.from({ length: 4 }, () => EDGE);
const negative = (kernel) => kernel.map((row) => row.map((value) => -value));
const transposed = (kernel) => kernel[0].map((_, j) => kernel.map((row) => row[j]));

const KERNELS = {
  "sobel-x": ["Sobel x", [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], "bright on the right, dark on the left: upright edges"],
  "sobel-y": ["Sobel y", [[-1, -2, -1], [0, 0, 0], [1, 2, 1]], "bright below, dark above: level edges"],
  box: ["Box", Array.from({ length: 3 }, () => [1 / 9, 1 / 9, 1 / 9]), "the mean of nine neighbours"],
  blur: ["Blur", [[1, 2, 1], [2, 4, 2], [1, 2, 1]].map((row) => row.map((value) => value / 16)), "a mean that trusts the middle most, as a Gaussian does"],
  sharpen: ["Sharpen", [[0, -1, 0], [-1, 5, -1], [0, -1, 0]], "the pixel, and what sets it apart from its neighbours once more"],
  "edge-right": ["Dark to light, rightwards", edge, "two columns of \u22121, then two of +1"],
  "edge-left": ["Light to dark, rightwards", negative(edge), "its negative: two columns of +1, then two of \u22121"],
  "edge-down": ["Dark to light, downwards", transposed(edge), "laid on its side: two rows of \u22121, then two of +1"],
  "edge-up": ["Light to dark, downwards", transposed(negative(edge)), "the negative on its side: two rows of +1, then two of \u22121"],
};
const OWN = "own";
const SIDE = 160; // pixels of the picture's longer side on the bench
const SIZES = [1, 2, 3, 4, 5, 7];

export function startBench() {
  const section = find("#kernels");
  const place = find(".bench", section);
  const setup = readSetup();
  let picture = null;

  const maps = el("div", { class: "bench-maps" });
  const sum = el("div", { class: "bench-sum" });
  const run = () => picture && showBench(maps, sum, picture, setup);
  replace(place, controls(setup, () => {
    remember(linkOf(setup), "kernels");
    run();
  }), maps, sum);

  const view = new View(section, "picture", async (signal) => {
    if (!state.picture) {
      picture = null;
      replace(maps);
      replace(sum);
      return view.say(note("Choose a picture first; the kernels need no model."));
    }
    const { image } = await upright(state.picture);
    if (signal.aborted) return undefined;
    picture = inGrey(image);
    run();
    return view.say();
  });
}

// ---- what is set

function readSetup() {
  const name = linked("kernel", "sobel-x");
  const own = ownKernel(linked("cells"));
  const number = (key, usual, allowed) => (allowed.includes(Number(linked(key, usual))) ? Number(linked(key, usual)) : usual);
  return {
    name: Object.hasOwn(KERNELS, name) ? name : own ? OWN : "sobel-x",
    kernel: Object.hasOwn(KERNELS, name) ? KERNELS[name][1].map((row) => [...row]) : own ?? KERNELS["sobel-x"][1].map((row) => [...row]),
    stride: number("stride", 1, [1, 2, 3, 4]),
    padding: number("padding", 1, [0, 1, 2, 3]),
    pooling: number("pooling", 2, [1, 2, 3, 4]),
    kind: linked("pool") === "average" ? "average" : "max",
  };
}

function ownKernel(cells) {
  const values = cells.split(",").map(Number);
  const side = Math.sqrt(values.length);
  if (!SIZES.includes(side) || values.some((value) => !Number.isFinite(value)) || cells === "") return null;
  return Array.from({ length: side }, (_, i) => values.slice(i * side, (i + 1) * side));
}

const linkOf = ({ name, kernel, stride, padding, pooling, kind }) => ({
  kernel: name, cells: name === OWN ? kernel.flat().join(",") : "", stride, padding, pooling, pool: kind,
});

function controls(setup, changed) {
  const cells = el("div", { class: "kernel-cells", role: "group", "aria-label": "The kernel, row by row" });
  const meaning = el("p", { class: "muted" });
  const chooser = options(el("select", { id: "kernel" }), [...Object.entries(KERNELS).map(([name, [text]]) => [name, text]), [OWN, "Your own"]], setup.name);
  const size = options(el("select", { id: "kernel-size" }), SIZES.map((side) => [String(side), `${side} \u00d7 ${side}`]));

  const showCells = () => {
    chooser.value = setup.name;
    size.value = String(setup.kernel.length);
    meaning.textContent = KERNELS[setup.name]?.[2] ?? "Whatever you like: change the numbers, and look what it finds.";
    cells.style.gridTemplateColumns = `repeat(${setup.kernel[0].length}, auto)`;
    replace(cells, setup.kernel.flatMap((row, i) => row.map((value, j) => el("input", {
      type: "number", step: "any", value: String(Number(value.toFixed(4))), "aria-label": `Row ${i + 1}, column ${j + 1}`,
      oninput: (event) => {
        if (event.target.value === "" || !Number.isFinite(event.target.valueAsNumber)) return;
        setup.kernel[i][j] = event.target.valueAsNumber;
        setup.name = OWN;
        chooser.value = OWN;
        meaning.textContent = "Whatever you like: change the numbers, and look what it finds.";
        changed();
      },
    }))));
  };
  chooser.addEventListener("change", () => {
    setup.name = chooser.value;
    if (setup.name !== OWN) setup.kernel = KERNELS[setup.name][1].map((row) => [...row]);
    showCells();
    changed();
  });
  size.addEventListener("change", () => {
    const side = Number(size.value);
    setup.kernel = Array.from({ length: side }, (_, i) => Array.from({ length: side }, (__, j) => setup.kernel[i]?.[j] ?? 0));
    setup.name = OWN;
    showCells();
    changed();
  });
  const pick = (key, text, pairs) => {
    const select = options(el("select", { id: `bench-${key}` }), pairs, String(setup[key]));
    select.addEventListener("change", () => {
      setup[key] = key === "kind" ? select.value : Number(select.value);
      changed();
    });
    return el("label", {}, `${text} `, select);
  };
  const numbers = (list) => list.map((value) => [String(value), String(value)]);
  showCells();
  return el("div", { class: "bench-controls" },
    el("div", { class: "row" }, el("label", {}, "Kernel ", chooser), el("label", {}, "Size ", size),
      pick("stride", "Stride", numbers([1, 2, 3, 4])), pick("padding", "Padding", numbers([0, 1, 2, 3])),
      el("span", { class: "pair" }, pick("pooling", "Pooling", [["1", "none"], ...[2, 3, 4].map((side) => [String(side), `${side} \u00d7 ${side}`])]),
        pick("kind", "keeps the", [["max", "largest"], ["average", "mean"]]))),
    meaning, cells);
}

// ---- what it does

function inGrey(image) {
  const scale = Math.min(1, SIDE / Math.max(image.width, image.height));
  const canvas = canvasOf(image.width * scale, image.height * scale);
  const { data } = draw(canvas, image).getImageData(0, 0, canvas.width, canvas.height);
  // Luma of ITU-R BT.601, 0 to 1.
  const values = Float32Array.from({ length: canvas.width * canvas.height }, (_, at) =>
    (0.299 * data[at * 4] + 0.587 * data[at * 4 + 1] + 0.114 * data[at * 4 + 2]) / 255);
  return { values, width: canvas.width, height: canvas.height };
}

function showBench(place, sum, picture, { kernel, stride, padding, pooling, kind }) {
  const started = performance.now();
  const convolved = convolve(picture, kernel, stride, padding);
  if (convolved.width < 1 || convolved.height < 1) {
    replace(sum);
    return replace(place, note(`A kernel of ${kernel.length} \u00d7 ${kernel[0].length} does not fit into ${picture.width} \u00d7 ${picture.height} pixels. Make it smaller, or the padding larger.`));
  }
  const bent = relu(convolved);
  const pooled = pooling > 1 ? pool(bent, pooling, kind) : bent;
  const ms = performance.now() - started;
  const scale = scaleOf(Math.min(-1e-6, ...rangeOf(convolved.values)), rangeOf(convolved.values)[1]);
  const roundedDown = (picture.width + 2 * padding - kernel[0].length) % stride !== 0;
  const figures = [
    figure("The picture", `in grey, ${picture.width} \u00d7 ${picture.height}`, greyCanvas(picture)),
    figure("Convolution", `(${picture.width} + 2 \u00b7 ${padding} \u2212 ${kernel[0].length}) / ${stride} + 1${roundedDown ? ", rounded down," : ""} = ${convolved.width} wide, ${convolved.height} high`,
      mapCanvas(convolved, scale, (at) => showSum(sum, picture, kernel, stride, padding, at, convolved), "Convolution. Arrow keys go from pixel to pixel.")),
    figure("ReLU", "what is below zero is gone", mapCanvas(bent, scale)),
    figure("Pooling", pooling > 1 ? `the ${kind === "max" ? "largest" : "mean"} of each ${pooling} \u00d7 ${pooling}: ${pooled.width} \u00d7 ${pooled.height}` : "none",
      pooled.width > 0 && pooled.height > 0 ? mapCanvas(pooled, scale) : note("The maps are smaller than the window.")),
  ];
  const legend = el("canvas", { "aria-hidden": "true" });
  paintLegend(legend, scale);
  replace(place, figures);
  place.dataset.ms = ms.toFixed(1);
  replace(sum, el("div", { class: "legend" }, el("span", {}, decimal(scale.low, 3)), legend, el("span", {}, decimal(scale.high, 3))),
    note("Point at a pixel of the convolution, or go over it with the arrow keys, to see its sum."));
  return undefined;
}

const figure = (title, text, canvas) => el("figure", {}, el("figcaption", {}, el("strong", {}, title), `, ${text}`), canvas);

function greyCanvas({ values, width, height }) {
  const canvas = canvasOf(width, height);
  canvas.className = "map pixels";
  const pixels = new ImageData(width, height);
  values.forEach((value, at) => pixels.data.set([value * 255, value * 255, value * 255, 255], at * 4));
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", "The picture in grey");
  return canvas;
}

function mapCanvas(map, scale, pointed, label) {
  const canvas = paint(el("canvas", { class: "map pixels" }), map.values, map.width, map.height, scale);
  canvas.setAttribute("role", pointed ? "application" : "img");
  canvas.setAttribute("aria-label", label ?? `${map.width} by ${map.height} values`);
  if (!pointed) return canvas;
  canvas.tabIndex = 0;
  let cursor = { y: Math.floor(map.height / 2), x: Math.floor(map.width / 2) };
  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect();
    cursor = {
      y: Math.max(0, Math.min(map.height - 1, Math.floor(((event.clientY - box.top) / box.height) * map.height))),
      x: Math.max(0, Math.min(map.width - 1, Math.floor(((event.clientX - box.left) / box.width) * map.width))),
    };
    pointed(cursor);
  });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!step) return;
    event.preventDefault();
    cursor = { y: Math.max(0, Math.min(map.height - 1, cursor.y + step[0])), x: Math.max(0, Math.min(map.width - 1, cursor.x + step[1])) };
    pointed(cursor);
  });
  return canvas;
}

function showSum(place, picture, kernel, stride, padding, { y, x }, convolved) {
  const patch = patchAt(picture, y * stride - padding, x * stride - padding, kernel.length, kernel[0].length);
  const products = patch.map((row, i) => row.map((value, j) => value * kernel[i][j]));
  const value = convolved.values[y * convolved.width + x];
  replace(place, place.firstChild, el("p", { class: "sum", role: "status" },
    `Row ${y}, column ${x}: the products add up to ${decimal(value)}. After ReLU: ${decimal(Math.max(0, value))}.`),
  el("div", { class: "patches scroll", tabindex: "0", role: "group", "aria-label": "The arithmetic of one pixel" },
    numberTable("patch of the picture", patch, { aroundZero: false }), sign("\u00d7"), numberTable("kernel", kernel), sign("="), numberTable("products", products)));
}
