/*
 * Preprocessing: from a drawing or a photograph to the input of the model.
 *
 * Images are {pixels: Uint8ClampedArray, width, height}, one channel, in row-major order.
 */

const ONE = 2 ** 22; // 1 as a fixed-point number, as Pillow has it

/** The filter of each of `to` output pixels: the first input pixel, and the weights of that one and the following. */
function weightsOf(from, to) {
  const scale = from / to;
  const support = Math.max(scale, 1);
  return Array.from({ length: to }, (_, at) => {
    const centre = (at + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const last = Math.min(from, Math.trunc(centre + support + 0.5));
    const weights = [];
    for (let input = first; input < last; input++) {
      weights.push(Math.max(0, 1 - Math.abs((input - centre + 0.5) * (1 / support))));
    }
    const sum = weights.reduce((total, weight) => total + weight, 0);
    return { first, weights: weights.map((weight) => Math.floor((weight / sum) * ONE + 0.5)) };
  });
}

/**
 * Resize one channel with a triangle filter, which spans an output pixel where the image shrinks. In fixed-point numbers,
 * like Pillow: resize(..., BILINEAR), which commands/lib/placing.py calls for one axis after the other, gives the same
 * pixels. torch's interpolate(mode="bilinear", antialias=True), which resizes files in this project, differs in few
 * pixels, by 1.
 */
export function resized(image, width, height) {
  const across = new Uint8ClampedArray(width * image.height);
  weightsOf(image.width, width).forEach(({ first, weights }, x) => {
    for (let y = 0; y < image.height; y++) {
      let sum = 0;
      for (let at = 0; at < weights.length; at++) sum += weights[at] * image.pixels[y * image.width + first + at];
      across[y * width + x] = Math.floor(sum / ONE + 0.5);
    }
  });
  const pixels = new Uint8ClampedArray(width * height);
  weightsOf(image.height, height).forEach(({ first, weights }, y) => {
    for (let x = 0; x < width; x++) {
      let sum = 0;
      for (let at = 0; at < weights.length; at++) sum += weights[at] * across[(first + at) * width + x];
      pixels[y * width + x] = Math.floor(sum / ONE + 0.5);
    }
  });
  return { pixels, width, height };
}

/** Resize the shorter side to `size` and crop the centre, like stages/lib/preprocessing/geometry.py. */
export function fitted(image, size) {
  if (image.width === size && image.height === size) return image;
  const scale = size / Math.min(image.width, image.height);
  const [width, height] = [image.width, image.height].map((side) => Math.max(size, roundedHalfToEven(side * scale)));
  return crop(resized(image, width, height), (width - size) >> 1, (height - size) >> 1, size, size);
}

/**
 * Place a drawing like MNIST's digits: scale the box around its ink to fit 20 x 20 pixels, with its proportions, and
 * centre its mass in 28 x 28 pixels. Other sizes in proportion.
 *
 * Source: Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-Based Learning Applied to Document Recognition",
 * Proceedings of the IEEE 86 (1998), section III.A; and the page of the MNIST database.
 *
 * commands/lib/placing.py follows the same rule and gives the same pixels.
 *
 * @param drawing light ink on 0
 * @returns an image of size x size, or null if there is no ink, or none is left at this size
 */
export function placed(drawing, size) {
  const box = boxAroundInk(drawing);
  if (!box) return null;
  const most = Math.round((size * 20) / 28);
  const scale = most / Math.max(box.width, box.height);
  const [width, height] = [box.width, box.height].map((side) => Math.max(1, Math.round(side * scale)));
  const digit = resized(crop(drawing, box.left, box.top, box.width, box.height), width, height);

  let [mass, massX, massY] = [0, 0, 0];
  digit.pixels.forEach((ink, at) => {
    mass += ink;
    massX += ink * ((at % width) + 0.5);
    massY += ink * (Math.floor(at / width) + 0.5);
  });
  if (!mass) return null;
  // Rounding up is not documented, but leaves MNIST's digits where they are, if their box is 20 pixels.
  const within = (offset, length) => Math.min(Math.max(Math.ceil(offset), 0), size - length);
  const left = within(size / 2 - massX / mass, width);
  const top = within(size / 2 - massY / mass, height);
  const pixels = new Uint8ClampedArray(size * size);
  digit.pixels.forEach((ink, at) => {
    pixels[(top + Math.floor(at / width)) * size + left + (at % width)] = ink;
  });
  return { pixels, width: size, height: size };
}

/** Convert a colour to grey by the weights of ITU-R 601-2, in Pillow's arithmetic. */
export function grey(red, green, blue) {
  return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16;
}

/** Whether at least half of the pixels at the edge are light, like commands/lib/backgrounds.py. */
export function isLight(channels) {
  const edge = [];
  for (const { pixels, width, height } of channels) {
    for (let x = 0; x < width; x++) edge.push(pixels[x], pixels[(height - 1) * width + x]);
    for (let y = 1; y < height - 1; y++) edge.push(pixels[y * width], pixels[(y + 1) * width - 1]);
  }
  edge.sort((one, other) => one - other);
  return (edge[(edge.length - 1) >> 1] + edge[edge.length >> 1]) / 2 > 127;
}

function boxAroundInk({ pixels, width, height }) {
  let [left, right, top, bottom] = [width, -1, height, -1];
  pixels.forEach((ink, at) => {
    if (!ink) return;
    const [x, y] = [at % width, Math.floor(at / width)];
    [left, right] = [Math.min(left, x), Math.max(right, x)];
    [top, bottom] = [Math.min(top, y), Math.max(bottom, y)];
  });
  return right < 0 ? null : { left, top, width: right - left + 1, height: bottom - top + 1 };
}

function crop(image, left, top, width, height) {
  const pixels = new Uint8ClampedArray(width * height);
  for (let y = 0; y < height; y++) {
    const start = (top + y) * image.width + left;
    pixels.set(image.pixels.subarray(start, start + width), y * width);
  }
  return { pixels, width, height };
}

function roundedHalfToEven(number) {
  const below = Math.floor(number);
  if (number - below !== 0.5) return Math.round(number);
  return below % 2 ? below + 1 : below;
}
