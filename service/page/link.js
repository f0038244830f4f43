// The address that leads back to what is shown: "#layers&model=digits:1&layer=conv1&channel=3".
// It names models, layers, kernels and the page's own samples; never a picture of yours, and never a key.

const values = new Map();
let section = "";
let timer = 0;

export function readLink() {
  const [first, ...pairs] = location.hash.slice(1).split("&");
  section = first;
  values.clear();
  for (const pair of pairs) {
    const [name, value = ""] = pair.split("=");
    try {
      values.set(name, decodeURIComponent(value));
    } catch {
      values.set(name, value); // a stray percent sign: it is what it is
    }
  }
}

export const linked = (name, usual = "") => values.get(name) ?? usual;

export const linkedSection = () => section;

// Keep what is shown; an empty value is left out.
export function remember(changes, at = section) {
  section = at;
  for (const [name, value] of Object.entries(changes)) {
    if (value === "" || value === null || value === undefined) values.delete(name);
    else values.set(name, String(value));
  }
  clearTimeout(timer);
  timer = setTimeout(write, 150); // browsers refuse pages that write often
}

export function write() {
  const pairs = [...values].map(([name, value]) => `${name}=${encodeURIComponent(value).replaceAll("%3A", ":").replaceAll("%2C", ",")}`);
  history.replaceState(null, "", `#${[section, ...pairs].join("&")}`);
}
