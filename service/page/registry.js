// The registry: the card of a version, what was measured, its report's pictures, and what it confuses.

import { ask, askJson, modelPath } from "./api.js";
import { currentKey } from "./key.js";
import { colourOf } from "./colour.js";
import { el, find, options, replace } from "./dom.js";
import { linked, remember } from "./link.js";
import { markdown } from "./markdown.js";
import { grouped } from "./numbers.js";
import { on, state } from "./state.js";
import { noVersions, versionPairs } from "./versions.js";
import { View, note } from "./views.js";

const EVALUATION = "evaluation.json";
const PAGE = "index.html";
const PICTURES = { // file: what it shows
  "learning.png": "Learning: both losses should fall, then level off.",
  "reliability.png": "Is it right as often as it says? On the dashed line it is.",
  "classes.png": "How well each class is recognised.",
  "confusion.png": "Which classes are confused.",
  "filters.png": "What the first layer looks for.",
  "augmented.jpg": "What the training saw.",
};
const WHOLE_MATRIX = 20; // classes, up to which the whole matrix is shown
const WORST = 20; // pairs of classes that are listed otherwise

export function startRegistry() {
  const section = find("#models");
  const place = find(".registry", section);
  const chooser = find("#card-of");
  let addresses = [];
  const view = new View(section, "models", async (signal) => {
    options(chooser, versionPairs(), chooser.value || linked("card") || state.model);
    if (!chooser.value) return view.say(noVersions());
    const ref = chooser.value;
    const detail = await askJson(modelPath(ref), { signal });
    const evaluation = detail.report.includes(EVALUATION) ? await askJson(reportPath(ref, EVALUATION), { signal }) : null;
    const pictures = await Promise.all(Object.entries(PICTURES).filter(([file]) => detail.report.includes(file)).map(
      async ([file, text]) => [URL.createObjectURL(await (await ask(reportPath(ref, file), { signal })).blob()), text]));
    if (signal.aborted) return undefined;
    addresses.forEach((address) => URL.revokeObjectURL(address));
    addresses = pictures.map(([address]) => address);
    replace(place,
      el("div", { class: "card" }, markdown(detail.card || "This version has no card.")),
      evaluation ? confusions(detail.labels, evaluation.confusion) : null,
      pictures.length ? el("div", { class: "two" }, pictures.map(([src, text]) => el("figure", { class: "picture" }, el("figcaption", {}, text), el("img", { src, alt: text, loading: "lazy" })))) : null,
      detail.report.includes(PAGE) && !currentKey() ? el("p", {}, el("a", { href: reportPath(ref, PAGE), target: "_blank", rel: "noopener" }, `The whole report of ${ref}`)) : null);
    return view.say(...(detail.report.length ? [] : [note("This version has no report: none was written when it was published. ", el("code", {}, `hubel evaluate ${ref} PHOTOS --calibrate`), " publishes the next version with one, measured on photos of yours.")]));
  });
  chooser.addEventListener("change", () => {
    remember({ card: chooser.value }, "models");
    view.update();
  });
  on("model", () => {
    if (linked("card") || !state.model) return;
    chooser.value = state.model;
    view.update();
  });
}

const reportPath = (ref, file) => modelPath(ref, `/report/${encodeURIComponent(file)}`);

function confusions(labels, confusion) {
  return el("div", {}, el("h3", {}, "What it confuses"), el("p", { class: "muted" },
    `${grouped(confusion.reduce((sum, [, , count]) => sum + count, 0))} test pictures: rows are what they are, columns what it said.`),
  labels.length <= WHOLE_MATRIX ? matrix(labels, confusion) : worst(labels, confusion));
}

function matrix(labels, confusion) {
  const counts = labels.map(() => labels.map(() => 0));
  for (const [truth, said, count] of confusion) counts[truth][said] = count;
  const cell = (count, truth, said, total) => {
    const shown = el("td", { title: `${count} of ${labels[truth]} taken for ${labels[said]}` }, String(count || ""));
    if (count) {
      const share = count / total;
      const { css, ink } = colourOf({ map: "signed", low: -1, high: 1 }, truth === said ? -0.25 - share * 0.55 : 0.2 + Math.min(0.8, share * 3));
      shown.style.background = css;
      shown.style.color = ink;
    }
    return shown;
  };
  return el("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Confusion matrix" }, el("table", { class: "confusion" },
    el("thead", {}, el("tr", {}, el("td"), labels.map((label) => el("th", { scope: "col", title: label }, label)))),
    el("tbody", {}, counts.map((row, truth) => el("tr", {}, el("th", { scope: "row", title: labels[truth] }, labels[truth]),
      row.map((count, said) => cell(count, truth, said, row.reduce((sum, each) => sum + each, 0))))))));
}

function worst(labels, confusion) {
  const wrong = confusion.filter(([truth, said]) => truth !== said).sort((a, b) => b[2] - a[2]).slice(0, WORST);
  return el("table", { class: "plain" }, el("thead", {}, el("tr", {}, ["it is", "it said", "pictures"].map((head) => el("th", { scope: "col" }, head)))),
    el("tbody", {}, wrong.map(([truth, said, count]) => el("tr", {}, el("td", {}, labels[truth]), el("td", {}, labels[said]), el("td", { class: "number" }, String(count))))));
}
