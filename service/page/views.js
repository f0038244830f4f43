// A view is a section that works out what it shows when it can be seen, again when what it depends on has changed,
// and says in place what went wrong.

import { Problem } from "./api.js";
import { el, find, replace } from "./dom.js";
import { on } from "./state.js";

const SETTLE_MS = 120; // while a slider moves or somebody draws, the last state counts

export class View {
  // `render(signal)` shows it, and may throw a Problem; `names` are the parts of the state that it depends on.
  constructor(section, names, render) {
    this.section = section;
    this.render = render;
    this.status = find(".status", section);
    this.visible = false;
    this.stale = true;
    this.failed = false;
    this.controller = new AbortController();
    new IntersectionObserver((entries) => {
      this.visible = entries.at(-1).isIntersecting;
      this.#start();
    }, { rootMargin: "120px" }).observe(section);
    on(names, () => this.update());
    on("away", () => this.failed && this.update());
  }

  update() {
    this.controller.abort();
    delete this.section.dataset.ms; // the time that the last one took
    this.stale = true;
    this.#start();
  }

  say(...what) {
    replace(this.status, what);
  }

  #start() {
    clearTimeout(this.timer);
    if (this.visible && this.stale) this.timer = setTimeout(() => this.#run(), SETTLE_MS);
  }

  async #run() {
    this.stale = false;
    const { signal } = (this.controller = new AbortController());
    const started = performance.now();
    this.section.setAttribute("aria-busy", "true");
    try {
      await this.render(signal);
      if (signal.aborted) return;
      this.failed = false;
      this.section.dataset.ms = Math.round(performance.now() - started);
    } catch (error) {
      if (signal.aborted) return;
      this.failed = true;
      this.say(trouble(error, () => this.update()));
    } finally {
      if (!signal.aborted) this.section.removeAttribute("aria-busy");
    }
  }
}

// What went wrong, and what to do next, as an element.
export function trouble(error, again) {
  const known = error instanceof Problem ? error
    : new Problem("The page has a fault", String(error.message ?? error), { next: "Load the page again." });
  if (known !== error) console.error(error);
  return el("div", { class: "trouble" },
    el("strong", {}, known.title), el("p", {}, known.detail),
    known.next ? el("p", {}, known.next) : null,
    again && known.slug !== "away" ? el("button", { type: "button", onclick: again }, "Try again") : null);
}

export const note = (...text) => el("p", { class: "note" }, ...text);
