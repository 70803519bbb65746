/* The page: a drawing or a file goes in, the exported model runs here, its probabilities come out. */

import * as ort from "./ort.js";
import { fitted, grey, onLight, placed } from "./digit.js";

const PEN = 22; // width of a stroke on a paper of 280: some two pixels of a digit of 20
const STEP = 10; // of the pen by keyboard
const MOST_SHOWN = 10; // classes
const QUIET = 500; // ms without a change, after which the answer is spoken

const byId = (id) => document.getElementById(id);
const paper = byId("paper");
const ink = paper.getContext("2d", { willReadFrequently: true });
const pen = { x: 140, y: 140, down: false };

let about; // what the model knows of itself
let session;
let file = null; // the image that was chosen last; null: the drawing counts
let busy = false;
let again = false;
let speaking;

/* --- Drawing --- */

function line(from, to) {
  ink.lineWidth = PEN;
  ink.lineCap = ink.lineJoin = "round";
  ink.strokeStyle = "#fff";
  ink.beginPath();
  ink.moveTo(from.x, from.y);
  ink.lineTo(to.x, to.y);
  ink.stroke();
  takePaper();
}

function takePaper() {
  file = null;
  byId("file").value = "";
  tell("");
  complain("");
  look();
}

function clear() {
  ink.clearRect(0, 0, paper.width, paper.height);
  takePaper();
}

function placeOf(event) {
  const box = paper.getBoundingClientRect();
  return {
    x: ((event.clientX - box.left) / box.width) * paper.width,
    y: ((event.clientY - box.top) / box.height) * paper.height,
  };
}

function showPen() {
  byId("pen").style.left = `${(pen.x / paper.width) * 100}%`;
  byId("pen").style.top = `${(pen.y / paper.height) * 100}%`;
  byId("pen").classList.toggle("down", pen.down);
}

function listenToPointers() {
  let last = null;
  paper.addEventListener("pointerdown", (event) => {
    paper.setPointerCapture(event.pointerId);
    last = placeOf(event);
    line(last, last);
  });
  paper.addEventListener("pointermove", (event) => {
    if (!last) return;
    for (const part of event.getCoalescedEvents().concat(event)) {
      const place = placeOf(part);
      line(last, place);
      last = place;
    }
  });
  for (const end of ["pointerup", "pointercancel"]) paper.addEventListener(end, () => (last = null));
}

function listenToKeys() {
  const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  paper.addEventListener("keydown", (event) => {
    if (event.key in ways) {
      const [x, y] = ways[event.key];
      const from = { ...pen };
      pen.x = Math.min(Math.max(pen.x + x * STEP, 0), paper.width);
      pen.y = Math.min(Math.max(pen.y + y * STEP, 0), paper.height);
      if (pen.down) line(from, pen);
    } else if (event.key === " ") {
      pen.down = !pen.down;
      if (pen.down) line(pen, pen);
      byId("pen-state").textContent = pen.down ? "Pen down." : "Pen up.";
    } else if (event.key === "Escape") {
      clear();
      byId("pen-state").textContent = "Cleared.";
    } else {
      return;
    }
    event.preventDefault();
    showPen();
  });
}

/* --- From what is given to pixels --- */

/** The channels of the drawing, or of the file, each size x size; null where there is nothing yet. */
function channelsGiven(size) {
  if (file) return channelsOfFile(size);
  const { data, width, height } = ink.getImageData(0, 0, paper.width, paper.height);
  const drawing = { pixels: new Uint8ClampedArray(width * height), width, height };
  for (let at = 0; at < drawing.pixels.length; at++) drawing.pixels[at] = data[4 * at + 3]; // white ink, by its alpha
  const digit = placed(drawing, size);
  return digit && [about.on_light ? inverted(digit) : digit];
}

function channelsOfFile(size) {
  const invert = byId("invert").checked;
  const channels = file.map((channel) => fitted(channel, size));
  const given = about.shape[0] === 1 ? [greyOf(channels)] : channels;
  const otherWay = about.on_light !== null && onLight(given[0]) !== about.on_light;
  tell(
    otherWay && !invert
      ? `The background seems to be ${about.on_light ? "dark" : "light"}, which the model never saw: do not trust this ` +
          "answer, or turn dark and light round."
      : "",
  );
  return invert ? given.map(inverted) : given;
}

function greyOf([red, green, blue]) {
  return { ...red, pixels: red.pixels.map((value, at) => grey(value, green.pixels[at], blue.pixels[at])) };
}

function inverted(image) {
  return { ...image, pixels: image.pixels.map((value) => 255 - value) };
}

/** Red, green and blue of a file, on white where it is transparent. */
async function decoded(blob) {
  const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none" });
  const { width, height } = bitmap;
  const surface = new OffscreenCanvas(width, height).getContext("2d");
  surface.fillStyle = "#fff";
  surface.fillRect(0, 0, width, height);
  surface.drawImage(bitmap, 0, 0);
  const { data } = surface.getImageData(0, 0, width, height);
  return [0, 1, 2].map((channel) => {
    const pixels = new Uint8ClampedArray(width * height);
    for (let at = 0; at < pixels.length; at++) pixels[at] = data[4 * at + channel];
    return { pixels, width, height };
  });
}

async function choose(event) {
  const [chosen] = event.target.files;
  if (!chosen) return;
  complain("");
  byId("output").ariaBusy = "true";
  try {
    file = await decoded(chosen);
  } catch {
    file = null;
    complain(`${chosen.name}: no image that this browser can read.`);
  }
  look();
}

/* --- From pixels to an answer --- */

/** Run the model on what is given now, and once more if that changed meanwhile. */
async function look() {
  again = true;
  if (busy) return;
  work(true);
  while (again) {
    again = false;
    const [channels, height, width] = about.shape;
    const given = channelsGiven(height);
    show(given, given && (await probabilitiesOf(given, [1, channels, height, width])));
  }
  work(false);
}

function work(whether) {
  busy = whether;
  byId("output").ariaBusy = String(whether);
}

async function probabilitiesOf(given, shape) {
  const pixels = new Uint8Array(given.length * given[0].pixels.length);
  given.forEach((channel, number) => pixels.set(channel.pixels, number * channel.pixels.length));
  const { probabilities } = await session.run({ images: new ort.Tensor("uint8", pixels, shape) });
  return Array.from(probabilities.data);
}

function show(given, probabilities) {
  const [, height, width] = about.shape;
  const seen = byId("seen").getContext("2d");
  const shown = new ImageData(width, height);
  for (let at = 0; at < width * height; at++) {
    const colour = [0, 1, 2].map((channel) => (given ? (given[channel] ?? given[0]).pixels[at] : 0));
    shown.data.set([...colour, 255], 4 * at);
  }
  seen.putImageData(shown, 0, 0);

  const ranked = about.classes.map((name, number) => ({ name, number, share: probabilities?.[number] ?? 0 }));
  const best = probabilities ? ranked.reduce((one, other) => (other.share > one.share ? other : one)) : null;
  if (ranked.length > MOST_SHOWN) {
    ranked.sort((one, other) => other.share - one.share);
    ranked.length = MOST_SHOWN;
  }
  byId("probabilities").replaceChildren(...ranked.map((row) => rowOf(row, row.number === best?.number)));
  const answer = byId("answer");
  answer.replaceChildren();
  if (best) {
    const strong = document.createElement("strong");
    strong.textContent = best.name;
    answer.append(strong, ` ${percent(best.share)}`);
    speak(`${best.name}, ${percent(best.share)}.`);
  } else {
    answer.textContent = "Nothing yet.";
    speak("");
  }
}

function rowOf({ name, share }, isBest) {
  const row = document.createElement("tr");
  row.classList.toggle("best", isBest);
  const head = document.createElement("th");
  head.scope = "row";
  head.textContent = name;
  const cell = document.createElement("td");
  cell.style.setProperty("--share", share);
  cell.dataset.probability = share;
  cell.textContent = percent(share);
  row.append(head, cell);
  return row;
}

const percent = (share) => `${(100 * share).toFixed(1)} %`;

/** Say it to who listens, once nothing has changed for a while. */
function speak(text) {
  clearTimeout(speaking);
  speaking = setTimeout(() => (byId("spoken").textContent = text), QUIET);
}

function tell(text) {
  byId("hint").textContent = text;
}

function complain(text) {
  byId("problem").textContent = text;
}

/* --- Begin --- */

async function begin() {
  about = await (await fetch("about.json")).json();
  const [channels, height, width] = about.shape;
  const drawn = channels === 1;
  byId("about").textContent =
    `${about.network}, trained on ${about.dataset}: tells ${about.classes.length} classes apart in images of ` +
    `${height} × ${width} pixels.`;
  document.body.classList.toggle("on-light", about.on_light === true);
  Object.assign(byId("seen"), { width, height });
  byId("caption").textContent = `The ${height} × ${width} pixels that the model is given.`;
  for (const name of ["drawing", "how", "placing"]) byId(name).hidden = !drawn;
  ort.env.wasm.numThreads = 1; // more would ask the server for special headers
  ort.env.wasm.wasmPaths = { wasm: new URL("ort.wasm", import.meta.url).href };
  session = await ort.InferenceSession.create("model.onnx", { executionProviders: ["wasm"] });
  listenToPointers();
  listenToKeys();
  showPen();
  byId("clear").addEventListener("click", clear);
  byId("file").addEventListener("change", choose);
  byId("invert").addEventListener("change", look);
  look();
}

begin().catch((error) => {
  byId("about").textContent = "";
  complain(`The model could not be loaded: ${error.message ?? error}`);
});
