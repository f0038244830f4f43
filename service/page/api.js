// Asking the service: its address, the key, its problems, and whether it is there at all.
// Knows what a problem is (RFC 9457), and nothing of what is asked.

import { askForKey, currentKey } from "./key.js";
import { set, state } from "./state.js";

const RETRY_MS = 1000;

// Something that went wrong, in the service's own words, with what to do next.
export class Problem extends Error {
  constructor(title, detail, { status = 0, next = "", slug = "" } = {}) {
    super(detail);
    Object.assign(this, { title, detail, status, next, slug });
  }
}

const NEXT = {
  "unsupported-format": "Save the picture as JPEG or PNG and choose it again.",
  "invalid-image": "Choose another file; the service reads JPEG, PNG, WebP, GIF, BMP and TIFF.",
  "queue-full": "The service has more to do than it can; ask again in a moment.",
  "model-not-ready": "The version is being loaded; ask again in a moment.",
  "deadline-exceeded": "Ask again in a moment; the service was busy.",
  "model-not-found": "Choose a model from the list at the top.",
  "version-not-found": "Choose a version from the list at the top.",
  "rate-limited": "Wait a moment: this key has asked as often as it may.",
};

// Addresses are relative, so that the page works behind a proxy's prefix too. Somebody is asked for a key where the
// service wants one, unless `keyed` is false.
export async function ask(path, { query = {}, body, signal, method = body ? "POST" : "GET", headers = {}, keyed = true } = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== "");
  const address = given.length ? `${path}?${new URLSearchParams(given)}` : path;
  for (let refused = ""; ;) {
    const key = currentKey();
    const response = await reach(address, { method, body, signal, headers: key ? { ...headers, "X-API-Key": key } : headers });
    if (response.ok) return response;
    const problem = await problemOf(response);
    if (response.status !== 401 || !keyed) throw problem;
    refused = key ? "The service does not know that key." : "Whoever runs it can give you one.";
    if (key === currentKey() && !(await askForKey(refused))) throw problem;
  }
}

export const askJson = async (path, asked) => (await ask(path, asked)).json();

export const modelPath = (ref, rest = "") => `v1/models/${encodeURIComponent(ref)}${rest}`;

async function reach(address, asked) {
  try {
    const response = await fetch(address, { ...asked, credentials: "omit" });
    set({ away: false });
    return response;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    if (!state.away) {
      set({ away: true });
      setTimeout(lookAgain, RETRY_MS);
    }
    throw new Problem("The service does not answer", "Nothing at this address answers at the moment.", {
      slug: "away",
      next: "The page asks again every second and goes on by itself when the service is back.",
    });
  }
}

async function lookAgain() {
  try {
    const response = await fetch("readyz", { cache: "no-store", credentials: "omit" });
    if (response.ok) return set({ away: false });
  } catch {
    // Still away.
  }
  return setTimeout(lookAgain, RETRY_MS);
}

async function problemOf(response) {
  let told = {};
  try {
    told = await response.json();
  } catch {
    // Something between the page and the service has answered.
  }
  const slug = String(told.type ?? "").split(":").pop();
  const wait = Number(response.headers.get("retry-after"));
  const limit = told.setting ? `Who runs the service may move the limit, ${told.value}, with ${told.setting}.` : "";
  return new Problem(told.title ?? `The service answered ${response.status}`, told.detail ?? response.statusText, {
    status: response.status,
    slug,
    next: [NEXT[slug], limit, wait ? `It says when: in ${wait} s.` : ""].filter(Boolean).join(" "),
  });
}
