// The API key, where the service asks for one: typed into a dialog, held in memory, gone with the page.

import { find } from "./dom.js";

let key = "";
let asking = null;

export const currentKey = () => key;

// Ask for a key, once for all requests that wait for it; whether one was given.
export function askForKey(reason) {
  asking ??= open(reason).finally(() => { asking = null; });
  return asking;
}

function open(reason) {
  const dialog = find("#key");
  const field = find("#key-field");
  find("#key-reason").textContent = reason;
  field.value = "";
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      const given = dialog.returnValue === "use" && field.value.trim() !== "";
      if (given) key = field.value.trim();
      field.value = "";
      resolve(given);
    }, { once: true });
  });
}
