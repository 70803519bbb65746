/*
 * From a drawing or a photograph to the pixels that the model takes: numbers in, numbers out.
 *
 * Images are {pixels: Uint8ClampedArray, width, height}, one channel, row by row.
 */

const ONE = 2 ** 22; // Pillow's weights are whole numbers, and sum up to about this one

/** Of each of `to` new pixels: the first old pixel that it is made of, and the weights of that one and the following. */
function weightsOf(from, to) {
  const scale = from / to;
  const support = Math.max(scale, 1);
  return Array.from({ length: to }, (_, place) => {
    const centre = (place + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const last = Math.min(from, Math.trunc(centre + support + 0.5));
    const weights = [];
    for (let old = first; old < last; old++) {
      weights.push(Math.max(0, 1 - Math.abs((old - centre + 0.5) * (1 / support))));
    }
    const sum = weights.reduce((total, weight) => total + weight, 0);
    return { first, weights: weights.map((weight) => Math.floor((weight / sum) * ONE + 0.5)) };
  });
}

/**
 * Resize one channel by the triangle filter, as wide as a new pixel where the image shrinks. In whole numbers, as Pillow
 * does: its resize(..., BILINEAR), which commands/lib/placing.py calls for one axis after the other, gives the same pixels.
 * From torch's interpolate(mode="bilinear", antialias=True), by which the project resizes files, few pixels differ, by 1.
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

/** Resize the shorter side to `size` and cut out the centre: stages/lib/preprocessing/geometry.py. */
export function fitted(image, size) {
  if (image.width === size && image.height === size) return image;
  const scale = size / Math.min(image.width, image.height);
  const [width, height] = [image.width, image.height].map((side) => Math.max(size, roundedHalfToEven(side * scale)));
  return cut(resized(image, width, height), (width - size) >> 1, (height - size) >> 1, size, size);
}

/**
 * A drawing as MNIST's digits were made: the box around its ink scaled to fit 20 x 20 pixels, its proportions kept, and
 * laid into 28 x 28 pixels so that its centre of mass is at theirs (of another size, in proportion).
 *
 * Source: Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-Based Learning Applied to Document Recognition",
 * Proceedings of the IEEE 86 (1998), section III.A; and the page of the MNIST database.
 *
 * commands/lib/placing.py is the same rule, and gives the same pixels.
 *
 * @param drawing light ink on 0
 * @returns an image of size x size, or null where there is no ink, or too little to be left at this size
 */
export function placed(drawing, size) {
  const box = boxAroundInk(drawing);
  if (!box) return null;
  const most = Math.round((size * 20) / 28);
  const scale = most / Math.max(box.width, box.height);
  const [width, height] = [box.width, box.height].map((side) => Math.max(1, Math.round(side * scale)));
  const digit = resized(cut(drawing, box.left, box.top, box.width, box.height), width, height);

  let [mass, massX, massY] = [0, 0, 0];
  digit.pixels.forEach((ink, at) => {
    mass += ink;
    massX += ink * ((at % width) + 0.5);
    massY += ink * (Math.floor(at / width) + 0.5);
  });
  if (!mass) return null;
  // Rounded up, which nobody has written down: so MNIST's own digits, where their box is of 20, come out where they are.
  const within = (place, length) => Math.min(Math.max(Math.ceil(place), 0), size - length);
  const left = within(size / 2 - massX / mass, width);
  const top = within(size / 2 - massY / mass, height);
  const pixels = new Uint8ClampedArray(size * size);
  digit.pixels.forEach((ink, at) => {
    pixels[(top + Math.floor(at / width)) * size + left + (at % width)] = ink;
  });
  return { pixels, width: size, height: size };
}

/** Grey of a colour, by the weights of ITU-R 601-2, in Pillow's arithmetic. */
export function grey(red, green, blue) {
  return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16;
}

/** Whether the background, of which half of the pixels at the edge are or more, is light: commands/lib/backgrounds.py. */
export function onLight(channels) {
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

function cut(image, left, top, width, height) {
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
