// Which version is asked: the list at the top, and what is known of the version chosen.

import { Problem, askJson, modelPath } from "./api.js";
import { el, find, options } from "./dom.js";
import { linked, remember } from "./link.js";
import { on, set, state } from "./state.js";

const DIGITS = "digits";

// Every version as [reference, text].
export const versionPairs = () => state.models.flatMap((model) => model.versions.map((version) => {
  const said = [...version.aliases, ...(version.state === "ready" ? [] : [version.state])].join(", ");
  return [`${model.name}:${version.version}`, `${model.name}:${version.version}${said ? ` (${said})` : ""}`];
}));

export async function loadVersions() {
  const listed = await askJson("v1/models");
  set({ models: listed.models, defaultModel: listed.default_model });
  options(find("#model"), versionPairs());
}

// The version that answers for a model's name, or "" where it is not served.
function servedAs(name) {
  const model = state.models.find((each) => each.name === name);
  if (!model || model.versions.length === 0) return "";
  return `${name}:${model.aliases.production ?? model.versions.at(-1).version}`;
}

// The version for a kind of picture, if nobody has chosen one: digits for drawings.
export const usualFor = (kind) => (kind === "drawing" && servedAs(DIGITS)) || servedAs(state.defaultModel) || versionPairs()[0]?.[0] || "";

export async function chooseModel(ref) {
  const known = versionPairs().map(([each]) => each);
  if (!known.includes(ref)) {
    throw new Problem("No such version", `There is no ${ref} here.`, { next: `Choose one of the list at the top: ${known.join(", ")}.` });
  }
  find("#model").value = ref;
  if (ref === state.model) return;
  set({ model: ref, detail: null, answer: null });
  remember({ model: ref });
  const detail = await askJson(modelPath(ref));
  if (state.model === ref) set({ detail });
}

// The version that a link names: `digits:1`, or `digits` for what answers under that name.
export const linkedModel = () => (linked("model").includes(":") ? linked("model") : servedAs(linked("model")) || linked("model"));

export function startVersions(failed) {
  find("#model").addEventListener("change", (event) => chooseModel(event.target.value).catch(failed));
  on("models", () => options(find("#model"), versionPairs(), state.model));
}

export const noVersions = () => el("p", {}, "No version is served here. ", el("code", {}, "hubel setup"), " makes two.");
