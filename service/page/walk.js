// The layer walk: every layer of the network, its feature maps on this picture, and the neuron that is pointed at.

import { Problem } from "./api.js";
import { paintLegend, scaleOf } from "./colour.js";
import { el, find, replace } from "./dom.js";
import { activationsOf, layersOf } from "./explanations.js";
import { filterPicture } from "./filters.js";
import { linked, remember } from "./link.js";
import { showMaps } from "./maps.js";
import { showNeuron } from "./neuron.js";
import { decimal, grouped } from "./numbers.js";
import { kindName, paddingText, seesAll, sentenceFor, shapeText } from "./sentences.js";
import { softmax } from "./softmax.js";
import { state } from "./state.js";
import { tilesOf, valuesOf } from "./tiles.js";
import { View, note, trouble } from "./views.js";

const SOFTMAX = "softmax";
const FIRST_SHOWN = 64; // maps; the others on demand
const POINT_MS = 60;

let shownModel = "";
let network = null; // what the layers route says
let chosen = "";
let all = false;

export function startWalk() {
  const section = find("#layers");
  const list = find(".layer-list", section);
  const place = find(".layer", section);
  const view = new View(section, "picture model detail", async (signal) => {
    if (!state.model || !state.detail) return;
    network = await layersOf(state.model);
    const layers = [...network.layers, { name: SOFTMAX, kind: SOFTMAX, shape: network.layers.at(-1).shape, parameters: 0, inputs: [] }];
    if (shownModel !== state.model) {
      const usual = layers.find(({ kind }) => kind === "convolution")?.name ?? "input";
      const wanted = shownModel ? chosen : linked("layer"); // a link that is wrong is told; another network has other layers
      chosen = !wanted || (shownModel && !layers.some(({ name }) => name === wanted)) ? usual : wanted;
      replace(list, layers.map(listed));
      shownModel = state.model;
    }
    const layer = layers.find(({ name }) => name === chosen);
    mark(list, layer?.name);
    if (!layer) {
      replace(place);
      throw unknownLayer(layers);
    }
    await showLayer(place, layer, signal);
    if (!signal.aborted) {
      const without = layers.some(({ kind }) => kind === "convolution") ? []
        : [note("This network has no convolutions: it weighs all pixels at once, so its layers have values, but no maps to look at.")];
      view.say(...without, ...(state.picture ? [] : [note("Choose a picture to see what the layers make of it.")]));
    }
  });
  const choose = (name) => {
    chosen = name;
    all = false;
    mark(list, name);
    remember({ layer: name, channel: "", y: "", x: "" }, "layers");
    view.update();
  };
  list.addEventListener("click", (event) => {
    const option = event.target.closest("[role='option']");
    if (option) choose(option.dataset.name);
  });
  list.addEventListener("keydown", (event) => {
    const options = [...list.children];
    const at = options.findIndex(({ dataset }) => dataset.name === chosen);
    const next = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: options.length - 1 }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    if (options[next]) choose(options[next].dataset.name);
  });
  place.addEventListener("showall", () => {
    all = true;
    view.update();
  });
}

const unknownLayer = (layers) => new Problem("No such layer", `${state.model} has no layer "${chosen}".`, {
  next: `Choose one from the list. It has ${layers.slice(0, 8).map(({ name }) => name).join(", ")}${layers.length > 8 ? ", \u2026" : ""}.`,
});

const listed = (layer, at) => el("div", { role: "option", id: `layer-${at}`, "data-name": layer.name, "aria-selected": "false" },
  el("span", { class: "kind" }, kindName(layer.kind)), el("span", { class: "shape" }, shapeText(layer.shape)),
  el("span", { class: "name" }, layer.name));

function mark(list, name) {
  list.removeAttribute("aria-activedescendant");
  for (const option of list.children) {
    const here = option.dataset.name === name;
    option.setAttribute("aria-selected", String(here));
    if (!here) continue;
    list.setAttribute("aria-activedescendant", option.id);
    if (option.offsetTop < list.scrollTop || option.offsetTop + option.offsetHeight > list.scrollTop + list.clientHeight) {
      list.scrollTop = option.offsetTop - list.clientHeight / 2;
    }
  }
}

async function showLayer(place, layer, signal) {
  const shown = state.picture ? await measured(layer, signal) : null;
  if (signal.aborted) return;
  const maps = el("div");
  const readout = el("p", { class: "mono", role: "status" });
  const neuron = el("div", { class: "neuron" });
  const first = network.filters?.layer === layer.name ? filterPicture(network.filters) : null;
  replace(place,
    el("h3", {}, kindName(layer.kind), " ", el("span", { class: "mono muted" }, layer.name)),
    el("p", {}, sentenceFor(layer, network.layers)),
    facts(layer),
    first,
    ...(shown ? summary(shown, layer) : []), maps,
    shown && shown.values.length < shown.count
      ? el("button", { type: "button", onclick: () => place.dispatchEvent(new Event("showall")) }, `Show all ${grouped(shown.count)} maps`) : null,
    readout, neuron);
  if (!shown) return;
  let timer = 0;
  let controller = new AbortController();
  const pointed = (at) => {
    const value = shown.values[at.channel][at.y * shown.width + at.x];
    readout.textContent = `${whereText(layer, at)}: ${shown.rounded ? `about ${decimal(value, 2)}` : decimal(value)}`;
    remember({ layer: layer.name, channel: at.channel, y: at.y, x: at.x }, "layers");
    clearTimeout(timer);
    controller.abort();
    const { signal: still } = (controller = new AbortController());
    timer = setTimeout(async () => {
      try {
        await showNeuron(neuron, layer, at, shown, still);
      } catch (error) {
        if (!still.aborted) replace(neuron, trouble(error, () => pointed(at)));
      }
    }, POINT_MS);
  };
  const grid = showMaps(maps, { ...shown, label: mapsLabel(layer, shown) }, pointed);
  if (linked("channel") !== "" && linked("layer") === layer.name) {
    const at = { channel: Number(linked("channel")), y: Number(linked("y", 0)), x: Number(linked("x", 0)) };
    if (!grid.point(at)) {
      replace(neuron, note(`The link names map ${linked("channel")}, row ${linked("y")}, column ${linked("x")}; this layer is ${shapeText(layer.shape)}. Point at another.`));
    }
  } else if (layer.neuron || layer.kind === SOFTMAX) {
    replace(neuron, note("Point at a pixel, or go over the maps with the arrow keys, to see how its value was computed. A click holds it."));
  }
}

// The layer's values on this picture, and the scale that shows them.
async function measured(layer, signal) {
  const last = network.layers.at(-1).name;
  const { layers: [told] } = await activationsOf([layer.kind === SOFTMAX ? last : layer.name], signal);
  if (layer.kind === SOFTMAX) {
    const shares = softmax(told.values, network.temperature);
    return { ...ones(shares), logits: told.values, minimum: 0, maximum: Math.max(...shares), dead: [] };
  }
  if (told.values) return { ...ones(told.values), ...range(told) };
  const tiles = await tilesOf(told);
  if (layer.kind === "input") return colours(tiles, told);
  const values = valuesOf(tiles, told);
  return { values: all ? values : values.slice(0, FIRST_SHOWN), count: values.length, width: tiles.width, height: tiles.height, rounded: true, ...range(told) };
}

const range = ({ minimum, maximum, dead }) => ({ minimum, maximum, dead, scale: scaleOf(minimum, maximum) });

const ones = (values) => ({
  values: values.map((value) => [value]), count: values.length, width: 1, height: 1, scale: scaleOf(Math.min(...values), Math.max(...values)),
});

// The picture as the network gets it: its channels, 0 to 255.
function colours(tiles, { shape }) {
  const canvas = new OffscreenCanvas(tiles.width, tiles.height);
  const context = canvas.getContext("2d");
  context.drawImage(tiles.image, 0, 0);
  const { data } = context.getImageData(0, 0, tiles.width, tiles.height);
  const values = Array.from({ length: shape[0] }, (_, channel) =>
    Float32Array.from({ length: tiles.width * tiles.height }, (_, at) => data[at * 4 + channel]));
  return { values, count: shape[0], width: tiles.width, height: tiles.height, minimum: 0, maximum: 255, dead: [], scale: { map: "amount", low: 0, high: 255 } };
}

function summary(shown, layer) {
  const legend = el("canvas", { "aria-hidden": "true" });
  paintLegend(legend, shown.scale);
  const maps = layer.shape.length === 3 && layer.kind !== "input";
  const said = [
    `From ${decimal(shown.minimum, 3)} to ${decimal(shown.maximum, 3)}, all on one scale.`,
    maps ? deadSentence(shown) : "",
  ];
  return [
    el("div", { class: "legend" }, el("span", {}, decimal(shown.scale.low, 3)), legend, el("span", {}, decimal(shown.scale.high, 3))),
    el("p", { class: "muted dead" }, said.filter(Boolean).join(" ")),
  ];
}

function deadSentence({ dead, count }) {
  if (count === 1) return dead.length ? "The map is dead on this picture: the same value everywhere." : "";
  if (dead.length === 0) return `None of the ${grouped(count)} maps is dead on this picture.`;
  const named = `${dead.slice(0, 12).join(", ")}${dead.length > 12 ? ", \u2026" : ""}`;
  return `${grouped(dead.length)} of ${grouped(count)} maps ${dead.length === 1 ? "is" : "are"} dead on this picture, the same value everywhere: ${named}.`;
}

function facts(layer) {
  const field = layer.receptive_field;
  const said = [
    layer.shape.length === 3 ? `${grouped(layer.shape[0])} ${layer.shape[0] === 1 ? "map" : "maps"} of ${layer.shape[1]} \u00d7 ${layer.shape[2]}` : `${grouped(layer.shape[0])} values`,
    layer.parameters ? `${grouped(layer.parameters)} parameters` : "nothing learned here",
    layer.kernel ? `kernel ${layer.kernel.join(" \u00d7 ")}` : "",
    layer.stride && Math.max(...layer.stride) > 1 ? `stride ${layer.stride[0]}` : "",
    layer.padding?.some(Boolean) ? paddingText(layer.padding) : "",
    layer.groups > 1 ? `${layer.groups} groups` : "",
    layer.dilation && Math.max(...layer.dilation) > 1 ? `dilation ${layer.dilation[0]}` : "",
    layer.kind !== "input" && field ? `each pixel sees ${field.height} \u00d7 ${field.width} of the picture` : "",
    seesAll(layer) ? "each value sees the whole picture" : "",
    ...(layer.folded ?? []).map((part) => `${part.replaceAll("_", " ")} is folded into the weights`),
  ];
  return el("ul", { class: "facts" }, said.filter(Boolean).map((text) => el("li", {}, text)));
}

function mapsLabel(layer, shown) {
  const keys = shown.width * shown.height === 1 ? "Arrow keys go from value to value." : "Arrow keys move over a map, Page Up and Page Down change the map.";
  return `${shown.values.length} ${shown.width * shown.height === 1 ? "values" : "maps"} of the layer ${layer.name}. ${keys}`;
}

function whereText(layer, { channel, y, x }) {
  if (layer.shape.length === 3) return `map ${channel}, row ${y}, column ${x}`;
  const label = layer.shape[0] === state.detail.labels.length ? state.detail.labels[channel] : undefined;
  return label && label !== String(channel) ? `value ${channel}, ${label}` : `value ${channel}`;
}
