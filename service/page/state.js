// What the page shows now, and who wants to hear of a change. Knows no view and no server.
//
//   models      what GET /v1/models lists            model      the reference that is asked, "digits:1"
//   detail      that version, as the service tells   picture    {blob, name, kind, sample}, or null
//   answer      what it said about the picture       away       whether the service does not answer

const listeners = new Map();

export const state = { models: [], defaultModel: "", model: "", detail: null, picture: null, answer: null, away: false };

export function on(names, listener) {
  for (const name of names.split(" ")) listeners.set(name, [...(listeners.get(name) ?? []), listener]);
}

export function set(changes) {
  const changed = Object.entries(changes).filter(([name, value]) => state[name] !== value);
  Object.assign(state, changes);
  const told = new Set();
  for (const [name] of changed) {
    for (const listener of listeners.get(name) ?? []) if (!told.has(listener)) told.add(listener) && listener();
  }
}
