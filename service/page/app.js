// Puts the page together: the list of versions, the first picture, every view, the address.

import { fail, keepChoice, startAsking, takeSample } from "./ask.js";
import { startComparison } from "./compare.js";
import { find } from "./dom.js";
import { layersOf } from "./explanations.js";
import { startHealth } from "./health.js";
import { startHeat } from "./heat.js";
import { startBench } from "./kernels.js";
import { linked, linkedSection, readLink, remember, write } from "./link.js";
import { startRegistry } from "./registry.js";
import { startRobustness } from "./robustness.js";
import { startSoftmax } from "./softmax.js";
import { on, state } from "./state.js";
import { startStrip } from "./strip.js";
import { startTheme } from "./theme.js";
import { chooseModel, linkedModel, loadVersions, startVersions, usualFor } from "./versions.js";
import { startWalk } from "./walk.js";

const FOLLOW_MS = 4000;
const sections = [...document.querySelectorAll("main > section")];

async function start() {
  readLink();
  startTheme();
  startVersions((error) => fail(error));
  startAsking();
  startNavigation();
  startAway();
  for (const startView of [
    startStrip, startWalk, startHeat, startSoftmax, startBench, startComparison, startRobustness, startRegistry, startHealth,
  ]) startView();
  // The process that explains takes a second to begin: it does so while somebody looks for a picture.
  on("detail", () => state.detail && layersOf(state.model).catch(() => {})); // a view that asks tells what is wrong
  await open();
  addEventListener("hashchange", () => location.reload()); // another link: views read theirs when they begin
}

// Show what the address names.
async function open() {
  const [sample, named] = [linked("sample"), linked("model")];
  const section = find(`#${CSS.escape(linkedSection() || "ask")}`);
  try {
    await loadVersions();
    const ref = named ? linkedModel() : usualFor("photo");
    if (ref) await chooseModel(ref);
    if (named) keepChoice(ref, sample.startsWith("digit-") ? "drawing" : "photo");
    if (sample) await takeSample(sample);
  } catch (error) {
    fail(error, open);
  }
  if (section && section.id !== "ask") holdInSight(section);
}

// Views above the section fill up after it was scrolled to: follow it, until somebody does something.
function holdInSight(section) {
  section.scrollIntoView({ behavior: "instant" });
  const observer = new ResizeObserver(() => section.scrollIntoView({ behavior: "instant" }));
  observer.observe(find("main"));
  const stop = () => observer.disconnect();
  for (const name of ["wheel", "pointerdown", "keydown", "touchstart"]) addEventListener(name, stop, { once: true, passive: true });
  setTimeout(stop, FOLLOW_MS);
}

function startNavigation() {
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[href^='#']");
    const section = link && find(link.getAttribute("href"));
    if (!section) return;
    event.preventDefault();
    section.tabIndex = -1;
    section.focus({ preventScroll: true });
    section.scrollIntoView();
    remember({}, section.id);
  });
  const seen = new Map();
  const observer = new IntersectionObserver((entries) => {
    for (const entry of entries) seen.set(entry.target, entry.isIntersecting);
    const first = sections.find((section) => seen.get(section));
    for (const link of document.querySelectorAll(".contents a")) {
      const here = link.getAttribute("href") === `#${first?.id}`;
      if (here) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
  }, { rootMargin: "-20% 0px -65% 0px" });
  for (const section of sections) observer.observe(section);
  const button = find("#copy-link");
  button.addEventListener("click", async () => {
    write();
    try {
      await navigator.clipboard.writeText(location.href);
      button.textContent = "Copied";
    } catch {
      button.textContent = "It is in the address bar";
    }
    setTimeout(() => { button.textContent = "Copy link"; }, 2000);
  });
}

// Say it when the service goes away, and go on when it is back.
function startAway() {
  on("away", async () => {
    find("#away").hidden = !state.away;
    find("#away").textContent = state.away ? "The service does not answer. The page goes on by itself when it is back." : "";
    if (!state.away && !state.models.length) await open();
  });
}

start();
