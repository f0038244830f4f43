// How the service fares, drawn from its metrics while somebody looks: requests, their time, batches, refusals.

import { Problem, ask } from "./api.js";
import { el, find, replace, svg } from "./dom.js";
import { buckets, quantileBetween, readSamples, total } from "./exposition.js";
import { milliseconds } from "./numbers.js";
import { View, note } from "./views.js";

const EVERY_MS = 2000;
const KEPT = 60; // readings: two minutes
const PREDICTIONS = ({ route }) => route === "/v1/predict" || route === "/v1/models/{ref}/predict";

const FIGURES = [
  { title: "Predictions a second", lines: [({ rate }) => rate], text: ({ rate }) => rate.toFixed(1) },
  { title: "Their time, p50 and p99", lines: [({ p50 }) => p50, ({ p99 }) => p99],
    text: ({ p50, p99 }) => (p50 === null ? "none came" : `${milliseconds(p50 * 1000)}, ${milliseconds(p99 * 1000)}`) },
  { title: "Images in a batch, on average", lines: [({ batch }) => batch], text: ({ batch }) => (batch === null ? "none ran" : batch.toFixed(1)) },
  { title: "Waiting, and refused a second", lines: [({ waiting }) => waiting, ({ refused }) => refused], text: ({ waiting, refused }) => `${waiting}, ${refused.toFixed(1)}` },
];

export function startHealth() {
  const section = find("#health");
  const place = find(".health", section);
  let readings = []; // {at, samples}
  let points = [];
  let timer = 0;
  const view = new View(section, "", async (signal) => {
    clearTimeout(timer);
    const text = await metrics(signal);
    if (signal.aborted) return;
    readings = [...readings, { at: performance.now(), samples: readSamples(text) }].slice(-2);
    if (readings.length === 2) {
      points = [...points, between(...readings)].slice(-KEPT);
      show(place, points);
      view.say();
    } else view.say(note("The first figures come with the second reading, in two seconds."));
    timer = setTimeout(tick, EVERY_MS);
  });
  // Nothing is asked while the section is out of sight or the tab is hidden.
  const tick = () => {
    if (view.visible && !document.hidden) return view.update();
    timer = setTimeout(tick, EVERY_MS);
    return undefined;
  };
}

async function metrics(signal) {
  try {
    return await (await ask("metrics", { signal, keyed: false })).text();
  } catch (error) {
    if (error.status !== 401) throw error;
    throw new Problem("The metrics have a key of their own", "Who runs this service has set HUBEL_METRICS_KEY.", {
      next: "An admin key opens them too. All else on this page works without.",
    });
  }
}

function between(first, second) {
  const seconds = (second.at - first.at) / 1000;
  const grown = (name, fits) => Math.max(0, total(second.samples, name, fits) - total(first.samples, name, fits));
  const times = [first, second].map(({ samples }) => buckets(samples, "hubel_request_seconds", PREDICTIONS));
  const batches = grown("hubel_batch_size_count");
  return {
    rate: grown("hubel_requests_total", PREDICTIONS) / seconds,
    p50: quantileBetween(...times, 0.5),
    p99: quantileBetween(...times, 0.99),
    batch: batches ? grown("hubel_batch_size_sum") / batches : null,
    waiting: total(second.samples, "hubel_queue_length"),
    refused: grown("hubel_overload_refusals_total") / seconds,
  };
}

function show(place, points) {
  replace(place, FIGURES.map(({ title, lines, text }) => {
    const series = lines.map((line) => points.map(line));
    const top = Math.max(1e-9, ...series.flat().filter((value) => value !== null));
    return el("div", { class: "card" }, el("h3", {}, title), el("p", { class: "figure" }, text(points.at(-1))),
      svg("svg", { viewBox: "0 0 120 40", preserveAspectRatio: "none", "aria-hidden": "true" },
        series.map((values, at) => svg("path", { d: pathOf(values, top), class: at ? "second" : null }))),
      el("p", { class: "muted" }, `the last ${Math.round((points.length * EVERY_MS) / 1000)} s`));
  }));
}

// A line from the oldest to the newest value; where nothing came there is a gap.
function pathOf(values, top) {
  let pen = "M";
  return values.map((value, at) => {
    if (value === null) {
      pen = "M";
      return "";
    }
    const [x, y] = [120 - (values.length - 1 - at) * (120 / (KEPT - 1)), 38 - (value / top) * 36];
    const step = `${pen}${x.toFixed(1)} ${y.toFixed(1)}${pen === "M" ? `h0.01` : ""}`;
    pen = "L";
    return step;
  }).join("");
}
