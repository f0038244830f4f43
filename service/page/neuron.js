// One value taken apart: what it sees of the picture, the patches and kernels, the products, the sum.

import { numberTable, sign } from "./cells.js";
import { el, replace } from "./dom.js";
import { activationsOf, neuronOf } from "./explanations.js";
import { decimal, percent } from "./numbers.js";
import { canvasOf } from "./picture.js";
import { seesAll } from "./sentences.js";
import { tilesOf } from "./tiles.js";
import { note, trouble } from "./views.js";

const DETAILED = 8; // input maps, or terms, that are shown at first
const ALL = 512;
const FIELD_SIDE = 196;
const SIGNS = { add: "+", subtract: "\u2212", multiply: "\u00d7" };

export async function showNeuron(place, layer, at, shown, signal, channels = DETAILED) {
  if (layer.kind === "softmax") return replace(place, softmaxSentence(shown, at));
  if (!layer.neuron) return replace(place, note(layer.kind === "input" ? "These are the picture's own values; what is computed from them begins with the next layer." : `Values of this kind of layer, ${layer.kind.replaceAll("_", " ")}, are not taken apart.`));
  const query = { layer: layer.name, channel: at.channel, ...(layer.shape.length === 3 ? { y: at.y, x: at.x } : {}), channels };
  const [told, { layers: [input] }] = await Promise.all([neuronOf(query, signal), activationsOf(["input"], signal)]);
  const field = await fieldPicture(told.receptive_field, input, seesAll(layer));
  if (signal.aborted) return undefined;
  const rest = told.rest.count;
  const showRest = async () => {
    try {
      await showNeuron(place, layer, at, shown, signal, ALL);
    } catch (error) {
      if (!signal.aborted) replace(place, trouble(error, showRest));
    }
  };
  return replace(place,
    el("p", { class: "sum", role: "status" }, sumSentence(told)),
    told.folded.length ? el("p", { class: "muted" }, `Folded in: ${told.folded.join(", ").replaceAll("_", " ")}. Kernel and bias are those that the served network computes with.`) : null,
    field,
    told.inputs.map((each) => patches(each, told)),
    told.terms.length ? terms(told) : null,
    rest ? el("p", {}, `${rest} more add up to ${decimal(told.rest.sum)}. `,
      el("button", { type: "button", onclick: showRest }, "Show them")) : null);
}

function sumSentence({ kind, inputs, terms: given, rest, sum, bias, value, after, picked, computed }) {
  const number = (each) => decimal(each, 5);
  const count = inputs.length + given.length + rest.count;
  const then = after ? ` After ${after.kind.replace("relu", "ReLU")}: ${number(after.value)}.` : "";
  if (kind === "max_pool") return `The largest of the window is ${number(value)}${picked ? `, in row ${picked[0]} and column ${picked[1]} of it` : ""}.${then}`;
  if (kind.endsWith("average_pool")) return `The mean of the window is ${number(value)}.${then}`;
  if (kind === "relu" || kind === "relu6") return `${kind === "relu" ? "The larger of 0 and" : "Between 0 and 6:"} ${number(given[0]?.value)} gives ${number(value)}.`;
  if (kind === "fully_connected") return `${count} products add up to ${number(sum)}; the bias ${number(bias)} makes it ${number(value)}.${then}`;
  if (kind === "convolution") return `${count} ${count === 1 ? "map adds" : "maps add"} up to ${number(sum)}; the bias ${number(bias)} makes it ${number(value)}.${then}`;
  if (SIGNS[kind] && given.length === 2) return `${number(given[0].value)} ${SIGNS[kind]} ${number(given[1].value)} gives ${number(value)}.${then}`;
  return `The result is ${number(value ?? computed)}.${then}`;
}

const softmaxSentence = ({ logits, values }, { channel }) => el("p", { class: "sum", role: "status" },
  `The logit ${decimal(logits[channel])} becomes ${percent(values[channel][0])}. The section "From scores to probabilities" shows the arithmetic.`);

// The network's input with the part that the value sees.
async function fieldPicture(field, input, all) {
  const tiles = await tilesOf(input);
  const zoom = Math.max(1, Math.floor(FIELD_SIDE / Math.max(tiles.width, tiles.height)));
  const canvas = canvasOf(tiles.width * zoom, tiles.height * zoom);
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(tiles.image, 0, 0, canvas.width, canvas.height);
  const box = [field.x * zoom, field.y * zoom, field.width * zoom, field.height * zoom];
  for (const [colour, grow] of [["#000", 2], ["#ffb000", 0]]) {
    context.strokeStyle = colour;
    context.lineWidth = 2;
    context.strokeRect(box[0] - grow, box[1] - grow, box[2] + 2 * grow, box[3] + 2 * grow);
  }
  canvas.setAttribute("role", "img");
  const text = field.whole ? (all ? "It sees the whole picture." : "It may see all of the picture.") : `It sees ${field.height} \u00d7 ${field.width} of the picture's ${tiles.height} \u00d7 ${tiles.width} pixels.`;
  canvas.setAttribute("aria-label", text);
  return el("figure", { class: "field" }, el("figcaption", {}, text), canvas);
}

function patches({ channel, patch, kernel, products, sum }, told) {
  const { window, picked, kind } = told;
  const outside = (i, j) => {
    const [y, x] = [window.y + i * window.dilation[0], window.x + j * window.dilation[1]];
    return y < 0 || x < 0 || y >= window.layer_height || x >= window.layer_width;
  };
  const marks = (i, j) => [outside(i, j) ? "padding" : "", picked && picked[0] === i && picked[1] === j ? "picked" : ""].join(" ").trim();
  if (patch.length * patch[0].length > 200) return note(`The window has ${patch.length} \u00d7 ${patch[0].length} values; their sum is ${decimal(sum)}.`);
  const shown = [numberTable(`map ${channel} of ${window.layer}`, patch, { aroundZero: false, mark: marks })];
  if (kernel) shown.push(sign("\u00d7"), numberTable(kind === "convolution" ? "kernel" : "share of each", kernel));
  if (products) shown.push(sign("="), numberTable("products", products));
  return el("div", { class: "patches scroll", tabindex: "0", role: "group", "aria-label": `Arithmetic of map ${channel}` },
    ...shown, el("strong", {}, kernel ? `sum ${decimal(sum)}` : `largest ${decimal(sum)}`));
}

function terms({ terms: given, kind }) {
  const weighed = kind === "fully_connected";
  return el("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Terms" }, el("table", { class: "plain" },
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "from"), el("th", { scope: "col" }, "value"),
      ...(weighed ? [el("th", { scope: "col" }, "weight"), el("th", { scope: "col" }, "product")] : []))),
    el("tbody", {}, given.map(({ layer, index, value, weight, product }) => el("tr", {},
      el("td", {}, weighed ? `${layer ?? "value"} ${index}` : layer ?? "a number of the network"), el("td", { class: "number" }, decimal(value)),
      ...(weighed ? [el("td", { class: "number" }, decimal(weight)), el("td", { class: "number" }, decimal(product))] : []))))));
}
