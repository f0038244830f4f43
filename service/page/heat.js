// The heat map: which part of the picture speaks for a class, over the picture itself.

import { Problem } from "./api.js";
import { colourOf, paintLegend } from "./colour.js";
import { el, find, options, replace } from "./dom.js";
import { heatOf, layersOf } from "./explanations.js";
import { linked, remember } from "./link.js";
import { decimal, percent } from "./numbers.js";
import { canvasOf, draw, toBlob, upright } from "./picture.js";
import { on, state } from "./state.js";
import { View, note } from "./views.js";

const METHODS = {
  cam: ["Class activation map", "the last feature maps, weighed as the last layer weighs them for this class: exact for this network"],
  gradcam: ["Grad-CAM", "the last feature maps, weighed by how strongly the class depends on each"],
  occlusion: ["Occlusion", "how far the probability falls when a part of the picture is covered"],
};
const SMALLEST_SIDE = 360; // pixels: smaller pictures are shown larger
const ROWS = ["upper", "middle", "lower"];
const COLUMNS = ["left", "centre", "right"];

export function startHeat() {
  const section = find("#heat");
  const place = find(".heat", section);
  const [field, method, opacity] = ["#heat-class", "#heat-method", "#heat-opacity"].map((id) => find(id));
  let shown = null; // {told, image}, of what is painted
  let model = ""; // whose classes and methods are offered
  field.value = linked("class");
  opacity.value = linked("opacity", "60");

  const view = new View(section, "answer detail", async (signal) => {
    if (!state.picture || !state.answer || !state.detail) {
      replace(place);
      return view.say(note("Choose a picture first."));
    }
    const { methods } = await layersOf(state.model);
    if (model && model !== state.model) forgetWhatIsNotThere(field, methods); // what a link names and is not there is told
    model = state.model;
    options(method, methods.map((name) => [name, METHODS[name]?.[0] ?? name]), linked("method") || methods[0]);
    if (linked("method") && !methods.includes(linked("method"))) throw noMethod(methods);
    const label = field.value.trim();
    if (label && !classNamed(label)) throw noClass(label);
    if (method.value === "gradcam") view.say(note("The first map by Grad-CAM takes several seconds: torch is loaded for it."));
    const told = await heatOf({ method: method.value, class: label }, signal);
    const { image } = await upright(state.picture);
    if (signal.aborted) return undefined;
    shown = { told, image };
    show(place, shown, opacity.value / 100);
    return view.say();
  });

  const choose = () => {
    const usual = method.selectedIndex === 0; // so that another network is asked by what is best for it
    remember({ class: field.value.trim(), method: usual ? "" : method.value, opacity: opacity.value }, "heat");
    view.update();
  };
  field.addEventListener("change", choose);
  method.addEventListener("change", choose);
  opacity.addEventListener("input", () => {
    remember({ opacity: opacity.value }, "heat");
    if (shown) blend(find("canvas.over", place), shown, opacity.value / 100);
  });
  find("#heat-save").addEventListener("click", async () => {
    const canvas = find("canvas.over", place);
    if (!canvas) return;
    const address = URL.createObjectURL(await toBlob(canvas));
    el("a", { href: address, download: `${shown.told.model}-${shown.told.method}-${shown.told.class.label}.png` }).click();
    URL.revokeObjectURL(address);
  });
  on("detail", () => options(find("#heat-labels"), (state.detail?.labels ?? []).map((label) => [label, ""])));
  on("answer", () => replace(find("#heat-top"), (state.answer?.predictions ?? []).map(({ label, probability }) =>
    el("button", { type: "button", onclick: () => {
      field.value = label;
      choose();
    } }, `${label} ${percent(probability)}`))));
}

// Another network has other classes and methods: those chosen before go on where it has them.
function forgetWhatIsNotThere(field, methods) {
  if (!classNamed(field.value.trim())) field.value = "";
  remember({ class: field.value.trim(), method: methods.includes(linked("method")) ? linked("method") : "" });
}

const classNamed = (name) => state.detail.labels.includes(name) || (/^\d+$/.test(name) && Number(name) < state.detail.labels.length);

const noClass = (label) => new Problem("No such class", `${state.model} has no class "${label}".`, {
  next: `It has ${state.detail.labels.length}, as ${state.detail.labels.slice(0, 4).join(", ")}. Begin to type and choose one from the list, or leave the field empty.`,
});

const noMethod = (methods) => new Problem("This method does not work here", `${state.model} cannot be asked for "${linked("method")}" on this server.`, {
  next: `${methods.map((name) => METHODS[name]?.[0] ?? name).join(" and ")} work; choose one. Grad-CAM needs a network with convolutions, and torch on the server.`,
});

function show(place, { told, image }, opacity) {
  const { map, method } = told;
  const zoom = Math.max(1, Math.floor(SMALLEST_SIDE / Math.max(image.width, image.height)));
  const canvas = canvasOf(image.width * zoom, image.height * zoom);
  canvas.classList.add("over");
  blend(canvas, { told, image }, opacity);
  const legend = el("canvas", { "aria-hidden": "true" });
  paintLegend(legend, { map: "amount", low: 0, high: 1 });
  const where = strongest(map);
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", map.maximum > 0 ? `Heat map for ${told.class.label}: strongest in the ${where} of what the network sees` : `Heat map for ${told.class.label}: nothing`);
  replace(place, el("div", {}, canvas), el("div", {},
    el("p", { role: "status" }, map.maximum > 0
      ? `What speaks most for ${told.class.label} (${percent(told.class.probability)}) is in the ${where} of what the network sees.`
      : `Nothing in the picture speaks for ${told.class.label} (${percent(told.class.probability)}).`),
    el("div", { class: "legend" }, el("span", {}, "nothing"), legend, el("span", {}, decimal(Math.max(map.maximum, 0), 3))),
    el("p", { class: "muted" }, `${METHODS[method][0]}: ${METHODS[method][1]}. ${map.height} \u00d7 ${map.width} values${told.layer ? ` of ${told.layer}` : ""}, smoothed to the size of the picture.`)));
}

// Lay the heat over the part of the picture that the network sees.
function blend(canvas, { told: { map, crop, image: { width } }, image }, opacity) {
  const small = canvasOf(map.width, map.height);
  const pixels = new ImageData(map.width, map.height);
  const scale = { map: "amount", low: 0, high: 1 };
  map.values.flat().forEach((value, at) => {
    const share = map.maximum > 0 ? Math.max(0, value / map.maximum) : 0;
    const [r, g, b] = colourOf(scale, share).css.match(/\d+/g);
    pixels.data.set([r, g, b, 255 * Math.min(1, 0.25 + share)], at * 4);
  });
  small.getContext("2d").putImageData(pixels, 0, 0);
  const context = draw(canvas, image);
  const zoom = canvas.width / width;
  context.imageSmoothingQuality = "high";
  context.globalAlpha = opacity;
  context.drawImage(small, crop.x * zoom, crop.y * zoom, crop.width * zoom, crop.height * zoom);
  context.globalAlpha = 1;
}

function strongest({ values, width, height, maximum }) {
  const at = values.flat().indexOf(maximum);
  const [row, column] = [ROWS[Math.floor((Math.floor(at / width) / height) * 3)], COLUMNS[Math.floor(((at % width) / width) * 3)]];
  return row === "middle" && column === "centre" ? "middle" : `${row} ${column}`;
}
