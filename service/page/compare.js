// Two versions, or models, asked about one picture.

import { el, find, options, replace } from "./dom.js";
import { linked, remember } from "./link.js";
import { milliseconds, percent } from "./numbers.js";
import { predict, showBars } from "./prediction.js";
import { state, on } from "./state.js";
import { versionPairs } from "./versions.js";
import { View, note } from "./views.js";

export function startComparison() {
  const section = find("#compare");
  const place = find(".compare", section);
  const against = find("#against");
  let wanted = linked("against"); // the version that somebody chose
  const view = new View(section, "answer", async (signal) => {
    if (!state.answer) {
      replace(place);
      return view.say(note("Choose a picture first."));
    }
    if (!against.value) {
      replace(place);
      return view.say(note("One version is served here, so there is nothing to compare it with. Train another, or publish a version with an alias."));
    }
    const { answer } = state;
    const sides = await Promise.all([answer.ref, against.value].map((ref) => predict(ref, answer.picture.blob, { topK: 0, signal })));
    if (signal.aborted) return undefined;
    replace(place, el("p", { class: "said", role: "status" }, verdict(...sides)), sides.map(side));
    return view.say();
  });
  against.addEventListener("change", () => {
    wanted = against.value;
    remember({ against: wanted }, "compare");
    view.update();
  });
  on("models model", () => {
    const others = versionPairs().filter(([ref]) => ref !== state.model);
    const nameOf = (ref) => ref.split(":")[0];
    const sibling = others.findLast(([ref]) => nameOf(ref) === nameOf(state.model))?.[0]; // another version of the same model
    options(against, others, others.some(([ref]) => ref === wanted) ? wanted : sibling);
  });
}

function side(answer) {
  const list = el("ol", { class: "bars", "aria-label": `Most probable classes of ${answer.model}:${answer.version}` });
  showBars(list, answer.predictions.slice(0, 5));
  return el("div", { class: "card" }, el("h3", {}, `${answer.model}:${answer.version}`), list,
    el("p", { class: "muted" }, `${answer.calibrated ? "Calibrated" : "Not calibrated"}; answered in ${milliseconds(answer.elapsed)}.`));
}

function verdict(first, second) {
  const [a, b] = [first.predictions[0], second.predictions[0]];
  const shareOf = (answer, label) => answer.predictions.find((each) => each.label === label)?.probability;
  if (a.label === b.label) {
    return `Both say ${a.label}: ${percent(a.probability)} and ${percent(b.probability)}.`;
  }
  const [there, here] = [shareOf(second, a.label), shareOf(first, b.label)];
  const known = there === undefined || here === undefined ? " They do not know the same classes."
    : ` The second gives ${a.label} ${percent(there)}, the first gives ${b.label} ${percent(here)}.`;
  return `They differ: ${a.label} (${percent(a.probability)}) and ${b.label} (${percent(b.probability)}).${known}`;
}
