// What the explaining routes say of the picture that is shown; each thing is asked for once for each picture and version.

import { ask, askJson, modelPath } from "./api.js";
import { state } from "./state.js";

const KEPT = 60;
const kept = new Map(); // answers about pictures, in the order of their last use
const networks = new Map(); // promises, since several views ask at once
const numbers = new WeakMap();
let next = 0;

// The network as a graph: its layers, methods and filters.
export function layersOf(ref) {
  if (!networks.has(ref)) {
    const asked = askJson(modelPath(ref, "/layers"));
    asked.catch(() => networks.delete(ref)); // what failed is asked again
    networks.set(ref, asked);
  }
  return networks.get(ref);
}

// What a layer, or several, make of the picture.
export const activationsOf = (layers, signal) => ofPicture("/activations", { layers: layers.join(",") }, signal);

export const neuronOf = (place, signal) => ofPicture("/neuron", place, signal);

export const heatOf = (query, signal) => ofPicture("/explain", query, signal);

async function ofPicture(route, query, signal) {
  const { picture, model } = state;
  if (!numbers.has(picture)) numbers.set(picture, (next += 1));
  const name = [numbers.get(picture), model, route, JSON.stringify(query)].join(" ");
  const known = kept.get(name) ?? await (await ask(modelPath(model, route), { query, body: picture.blob, signal })).json();
  kept.delete(name);
  kept.set(name, known);
  if (kept.size > KEPT) kept.delete(kept.keys().next().value);
  return known;
}
