// The picture that is asked about, and what a browser can tell of it. A picture is
// {blob, name, kind: "photo" | "drawing" | "camera", sample}; its bytes go to the service as they are.

import { Problem } from "./api.js";

const PREVIEW_SIDE = 1024;

// The upright picture, no side over 1,024 pixels, with its full size; worked out once.
export function upright(picture) {
  picture.upright ??= decode(picture, "from-image");
  return picture.upright;
}

// The pixels as the file stores them, before EXIF turns them.
export function asStored(picture) {
  picture.stored ??= decode(picture, "none");
  return picture.stored;
}

async function decode(picture, imageOrientation) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(picture.blob, { imageOrientation });
  } catch {
    throw new Problem("This browser cannot show the picture", `${picture.name} may be of a format that only the service reads.`, {
      next: "The answer above is right all the same; a JPEG or PNG shows here too.",
    });
  }
  const { width, height } = bitmap;
  const scale = Math.min(1, PREVIEW_SIDE / Math.max(width, height));
  if (scale === 1) return { width, height, image: bitmap, scale };
  const image = canvasOf(width * scale, height * scale);
  draw(image, bitmap);
  bitmap.close();
  return { width, height, image, scale };
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
