// From logits to probabilities, with a temperature to turn, and the loss for the class that you say is right.

import { el, find, options, replace } from "./dom.js";
import { activationsOf, layersOf } from "./explanations.js";
import { linked, remember } from "./link.js";
import { decimal, percent } from "./numbers.js";
import { state } from "./state.js";
import { View, note } from "./views.js";

const SHOWN = 10; // classes

// Probabilities of logits at a temperature. Source: Guo et al., 2017, eq. 9; the largest is taken away first, so that nothing overflows.
export function softmax(logits, temperature = 1) {
  const largest = Math.max(...logits);
  const powers = logits.map((logit) => Math.exp((logit - largest) / temperature));
  const sum = powers.reduce((total, power) => total + power, 0);
  return powers.map((power) => power / sum);
}

export function startSoftmax() {
  const section = find("#softmax");
  const place = find(".softmax", section);
  const [slider, shownValue, truth] = ["#temperature", "#temperature-value", "#truth"].map((id) => find(id));
  let told = null; // {logits, served}
  let model = ""; // whose classes may be said to be right
  let chosen = bounded(Number(linked("temperature"))); // null: as it is served

  const show = () => {
    const temperature = chosen ?? told?.served ?? 1;
    slider.value = toSlider(temperature);
    shownValue.textContent = temperature.toFixed(2);
    slider.setAttribute("aria-valuetext", temperature.toFixed(2));
    if (told) showTable(place, told.logits, temperature, truth.value === "" ? null : Number(truth.value));
  };

  const view = new View(section, "picture model detail", async (signal) => {
    if (!state.picture || !state.detail) {
      told = null;
      replace(place);
      return view.say(note("Choose a picture first."));
    }
    const { layers, temperature } = await layersOf(state.model);
    const { layers: [last] } = await activationsOf([layers.at(-1).name], signal);
    if (signal.aborted) return undefined;
    told = { logits: last.values, served: temperature };
    if (model && model !== state.model) {
      truth.value = ""; // another network has other classes
      remember({ truth: "" });
    }
    model = state.model;
    options(truth, [["", "not said"], ...state.detail.labels.map((label, at) => [String(at), label])], linked("truth") || truth.value);
    find("#temperature-note").textContent = `Low: the first takes all. High: all alike. The order never changes. ${state.detail.calibration.calibrated
      ? `On pictures it had not seen, ${temperature.toFixed(2)} made the probabilities honest: that is what is served.`
      : `It is served at ${temperature.toFixed(2)}, since no temperature has been fitted.`}`;
    show();
    return view.say();
  });

  slider.addEventListener("input", () => {
    chosen = fromSlider(Number(slider.value));
    remember({ temperature: chosen.toFixed(2) }, "softmax");
    show();
  });
  truth.addEventListener("change", () => {
    remember({ truth: truth.value }, "softmax");
    show();
  });
  find("#temperature-served").addEventListener("click", () => {
    chosen = null;
    remember({ temperature: "" }, "softmax");
    show();
  });
}

// From -100 to 100 on the slider lie temperatures from 0.1 to 10.
const fromSlider = (value) => 10 ** (value / 100);
const toSlider = (temperature) => String(Math.round(Math.log10(bounded(temperature)) * 100));
const bounded = (temperature) => (temperature > 0 ? Math.min(10, Math.max(0.1, temperature)) : null);

function showTable(place, logits, temperature, truth) {
  const shares = softmax(logits, temperature);
  const order = shares.map((_, at) => at).sort((a, b) => logits[b] - logits[a]);
  const shown = order.slice(0, SHOWN);
  if (truth !== null && !shown.includes(truth)) shown.push(truth);
  const largest = Math.max(...logits);
  const powers = logits.map((logit) => Math.exp((logit - largest) / temperature));
  const sum = powers.reduce((total, power) => total + power, 0);
  const heads = ["class", "logit z", "e^((z \u2212 max) / T)", "probability"];
  const row = (at) => el("tr", { class: at === truth ? "true" : null },
    el("td", {}, state.detail.labels[at]),
    ...[decimal(logits[at]), decimal(powers[at]), percent(shares[at])].map((text) => el("td", { class: "number" }, text)),
    el("td", {}, bar(shares[at])));
  replace(place,
    el("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Logits and probabilities" }, el("table", { class: "plain" },
      el("thead", {}, el("tr", {}, heads.map((head, at) => el("th", { scope: "col", class: at ? "number" : null }, head)), el("td", {}))),
      el("tbody", {}, shown.map(row)))),
    el("p", { class: "muted" }, `The sum over all ${logits.length} classes is ${decimal(sum)}; each power divided by it is the probability. The largest logit, ${decimal(largest)}, is taken away first: that changes no probability, and no power is too large to compute.`),
    truth === null ? null : el("p", { role: "status" }, lossSentence(shares[truth], truth)));
}

function bar(share) {
  const inner = el("div");
  inner.style.width = `${share * 100}%`;
  return el("div", { class: "bar", "aria-hidden": "true" }, inner);
}

// Source: cross-entropy of one picture, in nats.
const lossSentence = (share, truth) =>
  `If it really is ${state.detail.labels[truth]}, the cross-entropy is \u2212ln ${decimal(share, 3)} = ${decimal(-Math.log(share), 4)}: the loss that training would have tried to make smaller. At certainty it would be 0.`;
