// How numbers are written.

export const percent = (share) => `${(share * 100).toFixed(1)} %`;

export const milliseconds = (ms) => `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;

export const grouped = (number) => Math.round(number).toLocaleString("en");

// Four significant digits, and a real minus sign.
export function decimal(value, digits = 4) {
  if (!Number.isFinite(value)) return String(value);
  const size = Math.abs(value);
  const text = size !== 0 && (size < 1e-3 || size >= 1e6) ? value.toExponential(digits - 2)
    : String(Number(value.toPrecision(digits)));
  return text.replace(/-/g, "\u2212");
}
