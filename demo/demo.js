/* The page: preprocess a drawing or a file, run the exported model, show the probabilities. */

import * as ort from "./ort.js";
import { fitted, grey, isLight, placed } from "./digit.js";

const PEN = 22; // width of a stroke, on a canvas of 280: about two pixels in a digit of 20
const STEP = 10; // of the pen, per key
const MAX_CLASSES = 10; // shown
const QUIET = 500; // ms without a change before a screen reader announces the prediction

const byId = (id) => document.getElementById(id);
const paper = byId("paper");
const ink = paper.getContext("2d", { willReadFrequently: true });
const pen = { x: 140, y: 140, down: false };

let about; // metadata of the model
let session;
let file = null; // the chosen image; null: the drawing is the input
let choices = 0; // counts drawings and files: the result of decoding an earlier file is discarded
let decoding = 0; // number of files
let running = false;
let outdated = false; // the input has changed since the model was run
let announcing; // timer

/* --- Drawing --- */

function line(from, to) {
  ink.lineWidth = PEN;
  ink.lineCap = ink.lineJoin = "round";
  ink.strokeStyle = ink.fillStyle = "#fff";
  ink.beginPath();
  ink.moveTo(from.x, from.y);
  ink.lineTo(to.x, to.y);
  ink.stroke();
  ink.beginPath(); // a line of length 0 is not drawn
  ink.arc(to.x, to.y, PEN / 2, 0, 2 * Math.PI);
  ink.fill();
  useDrawing();
}

function useDrawing() {
  file = null;
  choices++;
  byId("file").value = "";
  showHint("");
  showProblem("");
  update();
}

function clear() {
  ink.clearRect(0, 0, paper.width, paper.height);
  useDrawing();
}

function positionOf(event) {
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
  let drawing = null; // id of the pointer that draws; other fingers and buttons are ignored
  let last;
  paper.addEventListener("pointerdown", (event) => {
    if (drawing !== null || event.button) return;
    paper.setPointerCapture(event.pointerId);
    drawing = event.pointerId;
    last = positionOf(event);
    line(last, last);
  });
  paper.addEventListener("pointermove", (event) => {
    if (event.pointerId !== drawing) return;
    if (!event.buttons) drawing = null; // released without an event, for example in a menu
    if (drawing === null) return;
    const between = event.getCoalescedEvents?.() ?? []; // browsers have it only on https and on localhost
    for (const each of between.length ? between : [event]) {
      const position = positionOf(each);
      line(last, position);
      last = position;
    }
  });
  for (const end of ["pointerup", "pointercancel"]) {
    paper.addEventListener(end, (event) => {
      if (event.pointerId === drawing) drawing = null;
    });
  }
}

function listenToKeys() {
  const directions = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  paper.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key in directions) {
      const [x, y] = directions[event.key];
      const from = { ...pen };
      pen.x = Math.min(Math.max(pen.x + x * STEP, 0), paper.width);
      pen.y = Math.min(Math.max(pen.y + y * STEP, 0), paper.height);
      if (pen.down) line(from, pen);
      announcePen("At");
    } else if (event.key === " ") {
      if (!event.repeat) pen.down = !pen.down;
      if (pen.down) line(pen, pen);
      announcePen(pen.down ? "Pen down at" : "Pen up at");
    } else if (event.key === "Escape") {
      pen.down = false;
      clear();
      announcePen("Cleared. Pen up at");
    } else {
      return;
    }
    event.preventDefault();
    showPen();
  });
}

function announcePen(action) {
  const [x, y] = [pen.x / paper.width, pen.y / paper.height].map((share) => Math.round(100 * share));
  byId("pen-state").textContent = `${action} ${x} % from the left, ${y} % from the top.`;
}

/* --- Preprocessing --- */

/** The channels of the drawing or the file, each size x size; null without an input. */
function inputOf(size) {
  if (file) return inputOfFile(size);
  const { data, width, height } = ink.getImageData(0, 0, paper.width, paper.height);
  const drawing = { pixels: new Uint8ClampedArray(width * height), width, height };
  for (let at = 0; at < drawing.pixels.length; at++) drawing.pixels[at] = data[4 * at + 3]; // the alpha of white ink
  const digit = placed(drawing, size);
  return digit && [about.on_light ? inverted(digit) : digit];
}

function inputOfFile(size) {
  const channels = file.map((channel) => fitted(channel, size));
  const input = about.shape[0] === 1 ? [greyOf(channels)] : channels;
  const opposite = about.on_light !== null && isLight(input) !== about.on_light;
  const invert = opposite && byId("invert").checked;
  const background = `The background appears to be ${about.on_light ? "dark" : "light"}, unlike those of the training images`;
  if (invert) showHint(`${background}. The image was inverted.`);
  else showHint(opposite ? `${background}. The prediction is unreliable: try inverting the image.` : "");
  return invert ? input.map(inverted) : input;
}

function greyOf([red, green, blue]) {
  return { ...red, pixels: red.pixels.map((value, at) => grey(value, green.pixels[at], blue.pixels[at])) };
}

function inverted(image) {
  return { ...image, pixels: image.pixels.map((value) => 255 - value) };
}

/** Red, green and blue of a file; transparent pixels are white. */
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

async function chooseFile(event) {
  const [chosen] = event.target.files;
  if (!chosen) return;
  const choice = ++choices;
  ink.clearRect(0, 0, paper.width, paper.height);
  showProblem("");
  showHint("");
  decoding++;
  showBusy();
  const image = await decoded(chosen).catch(() => null);
  decoding--;
  if (choice === choices) {
    file = image;
    if (!image) showProblem(`${chosen.name} is not an image that this browser can read.`);
  }
  await update();
}

/* --- Prediction --- */

/** Run the model on the input, and again if the input has changed meanwhile. */
async function update() {
  outdated = true;
  if (running) return;
  running = true;
  showBusy();
  try {
    while (outdated) {
      outdated = false;
      const [channels, height, width] = about.shape;
      const input = inputOf(height);
      show(input, input && (await probabilitiesOf(input, [1, channels, height, width])));
    }
  } catch (error) {
    showProblem(`The model failed: ${error.message ?? error}`);
  }
  running = false;
  showBusy();
}

function showBusy() {
  byId("output").ariaBusy = String(running || decoding > 0);
}

async function probabilitiesOf(input, shape) {
  const pixels = new Uint8Array(input.length * input[0].pixels.length);
  input.forEach((channel, number) => pixels.set(channel.pixels, number * channel.pixels.length));
  const { probabilities } = await session.run({ images: new ort.Tensor("uint8", pixels, shape) });
  return Array.from(probabilities.data);
}

function show(input, probabilities) {
  const [, height, width] = about.shape;
  const shown = new ImageData(width, height);
  for (let at = 0; at < width * height; at++) {
    const colour = [0, 1, 2].map((channel) => (input ? (input[channel] ?? input[0]).pixels[at] : about.on_light ? 255 : 0));
    shown.data.set([...colour, 255], 4 * at);
  }
  byId("model-input").getContext("2d").putImageData(shown, 0, 0);

  const ranked = about.classes.map((name, number) => ({ name, number, share: probabilities?.[number] ?? 0 }));
  const best = probabilities ? ranked.reduce((one, other) => (other.share > one.share ? other : one)) : null;
  if (ranked.length > MAX_CLASSES) {
    ranked.sort((one, other) => other.share - one.share);
    ranked.length = MAX_CLASSES;
  }
  byId("probabilities").replaceChildren(...ranked.map((row) => rowOf(row, row.number === best?.number)));
  const answer = byId("answer");
  answer.replaceChildren();
  if (best) {
    const strong = document.createElement("strong");
    strong.textContent = best.name;
    answer.append(strong, ` ${percent(best.share)}`);
    announce(`${best.name}, ${percent(best.share)}.`);
  } else {
    answer.textContent = "Nothing yet.";
    announce("");
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

/** Announce the prediction to screen readers, once nothing has changed for a while. */
function announce(text) {
  clearTimeout(announcing);
  announcing = setTimeout(() => (byId("announcement").textContent = text), QUIET);
}

function showHint(text) {
  byId("hint").textContent = text;
}

function showProblem(text) {
  byId("problem").textContent = text;
}

/* --- Start --- */

async function start() {
  const response = await fetch("about.json");
  if (!response.ok) throw new Error(`about.json: ${response.status} ${response.statusText}`);
  about = await response.json();
  const [channels, height, width] = about.shape;
  byId("about").textContent =
    `${about.network}, trained on ${about.dataset}: ${about.classes.length} classes, images of ${height} × ${width} pixels.`;
  document.body.classList.toggle("on-light", about.on_light === true);
  Object.assign(byId("model-input"), { width, height });
  byId("caption").textContent = `The input of the model: ${height} × ${width} pixels.`;
  for (const id of ["drawing", "drawing-help", "placing"]) byId(id).hidden = channels !== 1;
  ort.env.wasm.numThreads = 1; // more would require special headers from the server
  ort.env.wasm.wasmPaths = { wasm: new URL("ort.wasm", import.meta.url).href };
  session = await ort.InferenceSession.create("model.onnx", { executionProviders: ["wasm"] });
  listenToPointers();
  listenToKeys();
  showPen();
  byId("background").hidden = about.on_light === null;
  byId("clear").addEventListener("click", clear);
  byId("file").addEventListener("change", chooseFile);
  byId("invert").addEventListener("change", update);
  update();
}

start().catch((error) => {
  byId("about").textContent = "";
  showProblem(`The model could not be loaded: ${error.message ?? error}`);
});
