// The picture that is asked about, and what a browser can tell of it. A picture is
// {blob, name, kind: "photo" | "drawing" | "camera", sample}; its bytes go to the service as they are.

import { Problem } from "./api.js";

const PREVIEW_SIDE = 1024;

// The upright picture, no side over 1,024 pixels, with its full size; worked out once.
export function upright(picture) {
  picture.upright ??= decode(picture);
  return picture.upright;
}

// How an upright picture of `width` and `height` is drawn as its file stores it, by its EXIF orientation: a canvas's matrix.
const STORED = {
  2: (width) => [-1, 0, 0, 1, width, 0],
  3: (width, height) => [-1, 0, 0, -1, width, height],
  4: (width, height) => [1, 0, 0, -1, 0, height],
  5: () => [0, 1, 1, 0, 0, 0],
  6: (width) => [0, -1, 1, 0, 0, width],
  7: (width, height) => [0, -1, -1, 0, height, width],
  8: (width, height) => [0, 1, -1, 0, height, 0],
};

// The pixels as the file stores them: browsers turn a picture while they decode it, so it is turned back.
export function asStored({ image, width, height }, orientation) {
  const sideways = orientation >= 5;
  const canvas = canvasOf(...(sideways ? [image.height, image.width] : [image.width, image.height]));
  const context = canvas.getContext("2d");
  if (STORED[orientation]) context.setTransform(...STORED[orientation](image.width, image.height));
  context.drawImage(image, 0, 0);
  return { image: canvas, width: sideways ? height : width, height: sideways ? width : height };
}

async function decode(picture) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(picture.blob);
  } catch {
    throw new Problem("This browser cannot show the picture", `This browser cannot show ${picture.name}; it may be of a format that only the service reads.`, {
      next: "The answer is right all the same; a JPEG or PNG shows here too.",
    });
  }
  const { width, height } = bitmap;
  const scale = Math.min(1, PREVIEW_SIDE / Math.max(width, height));
  if (scale === 1) return { width, height, image: bitmap };
  const image = canvasOf(width * scale, height * scale);
  draw(image, bitmap);
  bitmap.close();
  return { width, height, image };
}

export function canvasOf(width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(width));
  canvas.height = Math.max(1, Math.round(height));
  return canvas;
}

// Draw an image, or its part `box` ([left, top, width, height]), over a whole canvas.
export function draw(canvas, image, box = [0, 0, image.width, image.height]) {
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.drawImage(image, ...box, 0, 0, canvas.width, canvas.height);
  return context;
}

export const toBlob = (canvas, type = "image/png", quality = undefined) =>
  new Promise((resolve) => canvas.toBlob(resolve, type, quality));

// The part of an upright picture that a network sees, [left, top, width, height], as its input contract says.
export function seenBox(preprocessing, width, height) {
  if (preprocessing.short_side === null || preprocessing.short_side === undefined) return [0, 0, width, height];
  const scale = Math.min(width, height) / preprocessing.short_side;
  const [w, h] = [preprocessing.width * scale, preprocessing.height * scale];
  return [(width - w) / 2, (height - h) / 2, w, h];
}
