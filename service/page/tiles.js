// The picture of a layer's feature maps, as the service sends it: a grey tile for each channel, read back into numbers.

// The tiles with their image and, for channel k, where it begins: `cornerOf(k)` is [x, y].
export async function tilesOf({ tiles }) {
  const bytes = Uint8Array.from(atob(tiles.png), (character) => character.charCodeAt(0));
  const image = await createImageBitmap(new Blob([bytes], { type: "image/png" }), { colorSpaceConversion: "none" });
  const [stepX, stepY] = [tiles.width + tiles.gap, tiles.height + tiles.gap];
  return { ...tiles, image, cornerOf: (k) => [(k % tiles.columns) * stepX, Math.floor(k / tiles.columns) * stepY] };
}

// The values of every channel, [channels][y * width + x], to within a 255th of the layer's range.
export function valuesOf(tiles, { minimum, maximum }) {
  const canvas = new OffscreenCanvas(tiles.image.width, tiles.image.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(tiles.image, 0, 0);
  const { data, width } = context.getImageData(0, 0, canvas.width, canvas.height);
  return Array.from({ length: tiles.channels }, (_, k) => {
    const [left, top] = tiles.cornerOf(k);
    const values = new Float32Array(tiles.width * tiles.height);
    for (let y = 0; y < tiles.height; y += 1) {
      for (let x = 0; x < tiles.width; x += 1) {
        values[y * tiles.width + x] = minimum + (data[((top + y) * width + left + x) * 4] / 255) * (maximum - minimum);
      }
    }
    return values;
  });
}
