// The answer: what the predict route says of a picture, as bars, and where the time went.

import { ask, modelPath } from "./api.js";
import { el, find, replace } from "./dom.js";
import { milliseconds, percent } from "./numbers.js";
import { state } from "./state.js";

const STAGES = { decode: ["reading the picture", "#3f7fb5"], queue: ["waiting in line", "#b58a2c"], inference: ["the network", "#0f8a7d"] };
const WAY = ["the way there and back", "#8f8a9c"];

// Ask a version about a picture's own bytes. Gives its first result, and its stages in milliseconds.
export async function predict(ref, blob, { topK = 5, signal } = {}) {
  const started = performance.now();
  const response = await ask(modelPath(ref, "/predict"), { query: { top_k: topK }, body: blob, signal });
  const answer = await response.json();
  const elapsed = performance.now() - started;
  return { ...answer, ...answer.results[0], stages: stagesOf(response.headers.get("server-timing") ?? ""), elapsed };
}

export function showAnswer(answer) {
  const [first] = answer.predictions;
  replace(find("#verdict"), sureness(first.probability), el("strong", {}, first.label), ", ", percent(first.probability), ".");
  showBars(find("#bars"), answer.predictions);
  find("#calibrated").textContent = answer.calibrated
    ? "These probabilities are calibrated: of all answers given with 80 %, about 80 in 100 are right."
    : "These probabilities are not calibrated: read them as an order, not as odds.";
  showStages(find("#stages"), answer);
}

export function showNothing(...text) {
  replace(find("#verdict"), ...text);
  for (const id of ["#bars", "#calibrated", "#stages"]) replace(find(id));
}

// Bars that stay where they are, so that they move while somebody draws.
export function showBars(list, predictions) {
  while (list.children.length > predictions.length) list.lastChild.remove();
  while (list.children.length < predictions.length) {
    list.append(el("li", {}, el("span", { class: "label" }), el("span", { class: "value" }),
      el("div", { class: "bar", "aria-hidden": "true" }, el("div"))));
  }
  predictions.forEach(({ label, probability }, at) => {
    const [name, value, bar] = list.children[at].children;
    name.textContent = label;
    value.textContent = percent(probability);
    bar.firstChild.style.width = `${probability * 100}%`;
  });
}

const sureness = (probability) => (probability >= 0.9 ? "This is " : probability >= 0.5 ? "Probably " : "Perhaps ");

function showStages(place, { stages, elapsed, model, version }) {
  const inside = Object.values(stages).reduce((sum, ms) => sum + ms, 0);
  const parts = Object.entries(stages).map(([name, ms]) => [...(STAGES[name] ?? [name, "#777"]), ms]);
  parts.push([...WAY, Math.max(0, elapsed - inside)]);
  const bar = el("div", { class: "stages", "aria-hidden": "true" });
  const key = el("ul", { class: "key" });
  for (const [name, colour, ms] of parts) {
    const [part, dot] = [el("div"), el("i", { "aria-hidden": "true" })];
    part.style.width = `${(ms / Math.max(elapsed, 1e-6)) * 100}%`;
    part.style.background = dot.style.background = colour;
    bar.append(part);
    key.append(el("li", {}, dot, `${name} ${milliseconds(ms)}`));
  }
  const { engine } = state.detail ?? {};
  replace(place, bar, key, el("p", { class: "muted" },
    `${model}:${version} answered in ${milliseconds(elapsed)}${engine ? `, with ${engine}` : ""}.`));
}

// Source: W3C, Server Timing: `decode;dur=1.2, queue;dur=0.1`.
function stagesOf(header) {
  const found = [...header.matchAll(/([\w-]+);dur=([\d.]+)/g)].map(([, name, ms]) => [name, Number(ms)]);
  return Object.fromEntries(found);
}
