// Convolution, ReLU and pooling of one grey picture, as networks compute them. Knows no page.
//
// A picture is {values, width, height}: numbers row by row. A window is {size: [rows, columns], stride, padding}.

const outputSide = (side, window, stride, padding) => Math.floor((side + 2 * padding - window) / stride) + 1;

// The sum of products at every place (cross-correlation, as in every framework; the kernel is not turned).
export function convolve(picture, kernel, stride, padding) {
  const [rows, columns] = [kernel.length, kernel[0].length];
  return slide(picture, [rows, columns], stride, padding, (top, left) => {
    let sum = 0;
    for (let i = 0; i < rows; i += 1) {
      for (let j = 0; j < columns; j += 1) sum += kernel[i][j] * at(picture, top + i, left + j);
    }
    return sum;
  });
}

export const relu = (picture) => ({ ...picture, values: picture.values.map((value) => Math.max(0, value)) });

// The largest, or the mean, of each window; windows do not reach beyond the picture.
export function pool(picture, size, kind) {
  return slide(picture, [size, size], size, 0, (top, left) => {
    let [largest, sum] = [-Infinity, 0];
    for (let i = 0; i < size; i += 1) {
      for (let j = 0; j < size; j += 1) {
        const value = at(picture, top + i, left + j);
        largest = Math.max(largest, value);
        sum += value;
      }
    }
    return kind === "max" ? largest : sum / (size * size);
  });
}

// The values under a window, 0 outside of the picture.
export const patchAt = (picture, top, left, rows, columns) =>
  Array.from({ length: rows }, (_, i) => Array.from({ length: columns }, (__, j) => at(picture, top + i, left + j)));

function at({ values, width, height }, y, x) {
  return y < 0 || x < 0 || y >= height || x >= width ? 0 : values[y * width + x];
}

function slide(picture, [rows, columns], stride, padding, compute) {
  const width = Math.max(0, outputSide(picture.width, columns, stride, padding));
  const height = Math.max(0, outputSide(picture.height, rows, stride, padding));
  const values = new Float32Array(width * height);
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) values[y * width + x] = compute(y * stride - padding, x * stride - padding);
  }
  return { values, width, height };
}
