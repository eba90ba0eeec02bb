// Bilinear resampling as Pillow does it: a triangle as wide as the reduction, in integers, first
// along rows, then along columns. So a browser reads the same pixels as Python.

const BITS = 22;

// box: x0, y0, x1, y1 in the source, fractions allowed. Gives width * height * channels bytes.
export function resize(source, [sourceWidth, sourceHeight], channels, [width, height], box) {
  const [x0, y0, x1, y1] = box ?? [0, 0, sourceWidth, sourceHeight];
  let pixels = source;
  if (width !== sourceWidth || x0 || x1 !== width) {
    const weights = weightsOf(sourceWidth, x0, x1, width);
    const across = new Uint8ClampedArray(width * sourceHeight * channels);
    for (let y = 0; y < sourceHeight; y++) {
      const row = y * sourceWidth * channels;
      for (let x = 0, out = y * width * channels; x < width; x++) {
        const { first, values } = weights[x];
        for (let channel = 0; channel < channels; channel++, out++) {
          let sum = 1 << (BITS - 1);
          let at = row + first * channels + channel;
          for (let k = 0; k < values.length; k++, at += channels) sum += pixels[at] * values[k];
          across[out] = sum >> BITS;
        }
      }
    }
    pixels = across;
  }
  if (height !== sourceHeight || y0 || y1 !== height) {
    const weights = weightsOf(sourceHeight, y0, y1, height);
    const length = width * channels;
    const down = new Uint8ClampedArray(length * height);
    const sums = new Int32Array(length);
    for (let y = 0; y < height; y++) {
      const { first, values } = weights[y];
      sums.fill(1 << (BITS - 1));
      for (let k = 0; k < values.length; k++) {
        const row = (first + k) * length;
        for (let x = 0; x < length; x++) sums[x] += pixels[row + x] * values[k];
      }
      for (let x = 0; x < length; x++) down[y * length + x] = sums[x] >> BITS;
    }
    pixels = down;
  }
  return pixels;
}

function weightsOf(sourceSize, low, high, size) {
  const scale = (high - low) / size;
  const reach = Math.max(scale, 1);
  return Array.from({ length: size }, (_, place) => {
    const center = low + (place + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - reach + 0.5));
    const end = Math.min(sourceSize, Math.trunc(center + reach + 0.5));
    const shares = Array.from({ length: end - first }, (_, k) =>
      Math.max(0, 1 - Math.abs(k + first - center + 0.5) / reach),
    );
    const sum = shares.reduce((total, share) => total + share, 0);
    return { first, values: shares.map((share) => Math.trunc((share / sum) * 2 ** BITS + 0.5)) };
  });
}
