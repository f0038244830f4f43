// What becomes of a picture before the first layer: stored, turned upright, cropped, made small.

import { find, replace, el } from "./dom.js";
import { activationsOf } from "./explanations.js";
import { decimal } from "./numbers.js";
import { asStored, canvasOf, draw, seenBox, upright } from "./picture.js";
import { state } from "./state.js";
import { tilesOf } from "./tiles.js";
import { View, note } from "./views.js";

const TURNS = { 2: "mirrored", 3: "turned half round", 4: "flipped", 5: "mirrored and turned left", 6: "turned right", 7: "mirrored and turned right", 8: "turned left" };
const APPLIED = {
  alpha_over_white: "Where it was transparent, it is white now.",
  first_frame: "Of several frames, this is the first.",
  gray_to_rgb: "",
  to_l: "Its colours have become one grey value.",
  to_rgb: "",
  reduced_decode: "The decoder made it smaller while reading, which saves time.",
};
const SHOWN_SIDE = 420;

export function startStrip() {
  const section = find("#strip");
  const list = find(".strip", section);
  const view = new View(section, "picture detail", async (signal) => {
    const { picture, detail } = state;
    if (!picture || !detail) {
      replace(list);
      return view.say(note("Choose a picture first."));
    }
    const steps = [];
    const trouble = [];
    try {
      steps.push(...await browserSteps(picture, detail.preprocessing));
    } catch (error) {
      trouble.push(note(`${error.message} ${error.next ?? ""}`));
    }
    const { image, layers: [input] } = await activationsOf(["input"], signal);
    if (signal.aborted) return undefined;
    replace(list, steps.map((step) => item(step(image))), item(await seen(input, image, detail.preprocessing)));
    return view.say(...trouble);
  });
}

const item = ([canvas, title, text]) =>
  el("li", {}, shaped(canvas), el("h3", {}, title), el("p", {}, text));

const shaped = (canvas) => {
  canvas.style.setProperty("--wide", canvas.width / canvas.height); // so that all are of one height, where there is room
  return canvas;
};

const named = (canvas, label) => {
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", label);
  return canvas;
};

// The steps that a browser can show by itself; each waits for what the service says the picture is.
async function browserSteps(picture, preprocessing) {
  const turned = await upright(picture);
  const size = ({ width, height }) => `${width} \u00d7 ${height} pixels`;
  const turnOf = ({ applied }) => Number(applied.map((each) => /^exif_orientation_(\d)$/.exec(each)?.[1]).find(Boolean) ?? 1);
  return [
    (image) => {
      const stored = asStored(turned, turnOf(image));
      return [named(small(stored.image), "The picture as stored"), "As stored", `${image.format}, ${size(stored)}.`];
    },
    (image) => [named(small(turned.image), "The picture upright"), "Upright", TURNS[turnOf(image)]
      ? `Its EXIF data say how the camera was held: it is ${TURNS[turnOf(image)]}. ${size(turned)}.` : "It stands upright already."],
    () => [named(cropped(turned, preprocessing), "The part that the network sees, outlined"), "Cropped", preprocessing.short_side
      ? `The middle ${preprocessing.width} of ${preprocessing.short_side}: what is outside the frame is not seen.`
      : "Nothing is cut off; the whole picture is stretched to the network's shape."],
  ];
}

function small(image) {
  const scale = Math.min(1, SHOWN_SIDE / Math.max(image.width, image.height));
  const canvas = canvasOf(image.width * scale, image.height * scale);
  draw(canvas, image);
  return canvas;
}

function cropped({ image }, preprocessing) {
  const canvas = small(image);
  const [left, top, width, height] = seenBox(preprocessing, canvas.width, canvas.height);
  const context = canvas.getContext("2d");
  const outside = new Path2D();
  outside.rect(0, 0, canvas.width, canvas.height);
  outside.rect(left, top, width, height);
  context.fillStyle = "rgb(0 0 0 / 55%)";
  context.fill(outside, "evenodd");
  context.strokeStyle = "#ffb000";
  context.lineWidth = 3;
  context.strokeRect(left + 1.5, top + 1.5, width - 3, height - 3);
  return canvas;
}

async function seen(input, image, preprocessing) {
  const tiles = await tilesOf(input);
  const canvas = canvasOf(tiles.width, tiles.height);
  canvas.getContext("2d").drawImage(tiles.image, 0, 0);
  canvas.classList.add("pixels");
  const channels = preprocessing.mode === "L" ? "one grey value" : "red, green and blue";
  const ends = [0, 1].map((end) => preprocessing.mean.map((mean, channel) => (end - mean) / preprocessing.std[channel]));
  const range = [Math.min(...ends[0]), Math.max(...ends[1])].map((end) => decimal(end, 3));
  const said = [
    `${tiles.width} \u00d7 ${tiles.height} pixels of ${channels}.`,
    ...image.applied.map((each) => APPLIED[each] ?? (each.startsWith("exif") ? "" : `Applied: ${each.replaceAll("_", " ")}.`)),
    preprocessing.mode === "RGB" && isGrey(canvas) ? "The picture is grey: all three have the same values, and colours cannot help." : "",
    `The first layers then move 0 to 255 onto ${range[0]} to ${range[1]}.`,
  ];
  return [named(canvas, "What the network sees"), "What the network sees", said.filter(Boolean).join(" ")];
}

function isGrey(canvas) {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  for (let at = 0; at < data.length; at += 4) {
    if (Math.abs(data[at] - data[at + 1]) > 6 || Math.abs(data[at] - data[at + 2]) > 6) return false;
  }
  return true;
}
