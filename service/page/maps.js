// Feature maps on one canvas, all on one scale, and a cursor that goes over their pixels by pointer or keys.

import { paint } from "./colour.js";
import { el } from "./dom.js";
import { canvasOf } from "./picture.js";

const GAP = 4;
const SIDE = 88; // of a map, in pixels of the screen, as far as whole pixels allow
const CELL = 20; // of a map of one pixel
const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

// Draw `values`, [channels][y * width + x], into `place`; `pointed({channel, y, x})` hears of every move of the cursor.
export function showMaps(place, { values, width, height, scale, label }, pointed) {
  const zoom = width * height === 1 ? CELL : Math.max(1, Math.round(SIDE / Math.max(width, height)));
  const gap = width * height === 1 ? 1 : GAP;
  const [tileWidth, tileHeight] = [width * zoom, height * zoom];
  const columns = Math.max(1, Math.min(values.length, Math.floor(((place.clientWidth || 600) - 10 + gap) / (tileWidth + gap))));
  const rows = Math.ceil(values.length / columns);
  const base = canvasOf(columns * (tileWidth + gap) - gap, rows * (tileHeight + gap) - gap);
  const context = base.getContext("2d");
  context.imageSmoothingEnabled = false;
  const corner = (channel) => [(channel % columns) * (tileWidth + gap), Math.floor(channel / columns) * (tileHeight + gap)];
  const single = document.createElement("canvas");
  values.forEach((map, channel) => {
    context.drawImage(paint(single, map, width, height, scale), ...corner(channel), tileWidth, tileHeight);
  });

  const canvas = el("canvas", { class: "maps", width: base.width, height: base.height, tabindex: "0", role: "application", "aria-label": label });
  const shown = canvas.getContext("2d");
  let cursor = null;
  let pinned = false;

  function show() {
    shown.clearRect(0, 0, canvas.width, canvas.height);
    shown.drawImage(base, 0, 0);
    if (!cursor) return;
    const [left, top] = corner(cursor.channel);
    shown.lineWidth = 2;
    for (const [colour, grow] of [["#000", 3], ["#ffb000", 1]]) {
      shown.strokeStyle = colour;
      shown.strokeRect(left + cursor.x * zoom - grow, top + cursor.y * zoom - grow, zoom + 2 * grow, zoom + 2 * grow);
    }
  }

  function moveTo(place) {
    if (cursor && place.channel === cursor.channel && place.y === cursor.y && place.x === cursor.x) return;
    cursor = place;
    show();
    pointed(cursor);
  }

  function placeAt(event) {
    const box = canvas.getBoundingClientRect();
    const x = ((event.clientX - box.left - canvas.clientLeft) / canvas.clientWidth) * canvas.width;
    const y = ((event.clientY - box.top - canvas.clientTop) / canvas.clientHeight) * canvas.height;
    if (x < 0 || y < 0 || x >= canvas.width) return null;
    const channel = Math.floor(y / (tileHeight + gap)) * columns + Math.floor(x / (tileWidth + gap));
    const inside = { channel, y: Math.floor((y % (tileHeight + gap)) / zoom), x: Math.floor((x % (tileWidth + gap)) / zoom) };
    return channel < values.length && inside.y < height && inside.x < width ? inside : null;
  }

  canvas.addEventListener("pointermove", (event) => {
    const at = placeAt(event);
    if (at && !pinned) moveTo(at);
  });
  canvas.addEventListener("click", (event) => {
    const at = placeAt(event);
    if (!at) return;
    pinned = !(pinned && cursor.channel === at.channel && cursor.y === at.y && cursor.x === at.x);
    moveTo(at);
  });
  canvas.addEventListener("keydown", (event) => {
    const next = moved(cursor ?? { channel: 0, y: Math.floor(height / 2), x: Math.floor(width / 2) }, event.key);
    if (!next) return;
    event.preventDefault();
    pinned = true;
    moveTo(next);
  });

  function moved({ channel, y, x }, key) {
    const clampTo = (value, count) => Math.max(0, Math.min(count - 1, value));
    if (key === "Escape") pinned = false;
    if (key === "Enter" || key === " ") return cursor ? null : { channel, y, x };
    if (key === "PageUp" || key === "PageDown") return { channel: clampTo(channel + (key === "PageDown" ? 1 : -1), values.length), y, x };
    const step = STEPS[key];
    if (!step) return null;
    if (width * height === 1) return { channel: clampTo(channel + step[0] * columns + step[1], values.length), y, x };
    return { channel, y: clampTo(y + step[0], height), x: clampTo(x + step[1], width) };
  }

  show();
  place.replaceChildren(el("div", { class: "maps-frame" }, canvas));
  return {
    // Put the cursor where a link says, if that exists.
    point(at) {
      const exists = at.channel < values.length && at.y < height && at.x < width && Math.min(at.channel, at.y, at.x) >= 0;
      if (exists) {
        pinned = true;
        moveTo(at);
      }
      return exists;
    },
  };
}
