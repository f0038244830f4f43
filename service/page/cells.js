// A small table of numbers whose cells are coloured by their values.

import { colourOf, rangeOf, scaleOf } from "./colour.js";
import { el } from "./dom.js";
import { decimal } from "./numbers.js";

// Kernels and products are coloured around zero, whatever is in them, so that they can be compared; `mark(i, j)` may name
// a class for a cell: "padding" for what lies outside, "picked" for what was taken.
export function numberTable(caption, rows, { aroundZero = true, mark = () => "" } = {}) {
  const [low, high] = rangeOf(rows.flat().filter((value) => value !== null));
  const scale = scaleOf(aroundZero ? Math.min(low, -1e-9) : low, high);
  return el("figure", {}, el("figcaption", {}, caption), el("table", { class: "cells" }, el("tbody", {}, rows.map((row, i) =>
    el("tr", {}, row.map((value, j) => cell(value, mark(i, j), scale)))))));
}

export const sign = (text) => el("span", { class: "sign", "aria-hidden": "true" }, text);

function cell(value, mark, scale) {
  const shown = el("td", { class: mark || null }, value === null ? "" : decimal(value, 3));
  if (value !== null && mark !== "padding") {
    const { css, ink } = colourOf(scale, value);
    shown.style.background = css;
    shown.style.color = ink;
  }
  return shown;
}
