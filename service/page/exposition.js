// Prometheus' text form, read back: samples, and quantiles of histograms between two readings. Knows no page.

// Every sample of a text, as {name, labels, value}.
export function readSamples(text) {
  const samples = [];
  for (const line of text.split("\n")) {
    const found = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/.exec(line);
    if (!found) continue;
    const labels = Object.fromEntries([...(found[2] ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map(([, name, value]) => [name, value]));
    samples.push({ name: found[1], labels, value: Number(found[3]) });
  }
  return samples;
}

export const total = (samples, name, fits = () => true) =>
  samples.reduce((sum, sample) => (sample.name === name && fits(sample.labels) ? sum + sample.value : sum), 0);

// Counts up to each bound of a histogram, as a Map of bound to count.
export function buckets(samples, name, fits = () => true) {
  const counts = new Map();
  for (const { name: each, labels, value } of samples) {
    if (each !== `${name}_bucket` || !fits(labels)) continue;
    const bound = labels.le === "+Inf" ? Infinity : Number(labels.le);
    counts.set(bound, (counts.get(bound) ?? 0) + value);
  }
  return counts;
}

// The quantile of what came between two readings, linear within its bucket; null where nothing came.
// Source: Prometheus, histogram_quantile.
export function quantileBetween(before, after, share) {
  const bounds = [...after.keys()].sort((a, b) => a - b);
  const grown = bounds.map((bound) => after.get(bound) - (before.get(bound) ?? 0));
  const all = grown.at(-1) ?? 0;
  if (all <= 0) return null;
  const at = grown.findIndex((count) => count >= share * all);
  const [low, reached] = at === 0 ? [0, 0] : [bounds[at - 1], grown[at - 1]];
  if (bounds[at] === Infinity) return low;
  return low + (bounds[at] - low) * ((share * all - reached) / Math.max(1e-12, grown[at] - reached));
}
