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
let chosen = 0; // how often something was: what was decoded for an earlier choice is not wanted any more
let decoding = 0; // files
let busy = false;
let again = false;
let speaking;

/* --- Drawing --- */

function line(from, to) {
  ink.lineWidth = PEN;
  ink.lineCap = ink.lineJoin = "round";
  ink.strokeStyle = ink.fillStyle = "#fff";
  ink.beginPath();
  ink.moveTo(from.x, from.y);
  ink.lineTo(to.x, to.y);
  ink.stroke();
  ink.beginPath(); // a line of no length is not drawn
  ink.arc(to.x, to.y, PEN / 2, 0, 2 * Math.PI);
  ink.fill();
  takePaper();
}

function takePaper() {
  file = null;
  chosen++;
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
  let drawing = null; // the pointer that draws: no second finger, no other button
  let last;
  paper.addEventListener("pointerdown", (event) => {
    if (drawing !== null || event.button) return;
    paper.setPointerCapture(event.pointerId);
    drawing = event.pointerId;
    last = placeOf(event);
    line(last, last);
  });
  paper.addEventListener("pointermove", (event) => {
    if (event.pointerId !== drawing) return;
    if (!event.buttons) drawing = null; // let go where the page was not told, as in a menu
    if (drawing === null) return;
    const between = event.getCoalescedEvents?.() ?? []; // browsers have it on pages of https and of localhost alone
    for (const part of between.length ? between : [event]) {
      const place = placeOf(part);
      line(last, place);
      last = place;
    }
  });
  for (const end of ["pointerup", "pointercancel"]) {
    paper.addEventListener(end, (event) => {
      if (event.pointerId === drawing) drawing = null;
    });
  }
}

function listenToKeys() {
  const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  paper.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key in ways) {
      const [x, y] = ways[event.key];
      const from = { ...pen };
      pen.x = Math.min(Math.max(pen.x + x * STEP, 0), paper.width);
      pen.y = Math.min(Math.max(pen.y + y * STEP, 0), paper.height);
      if (pen.down) line(from, pen);
      tellOfPen("At");
    } else if (event.key === " ") {
      if (!event.repeat) pen.down = !pen.down;
      if (pen.down) line(pen, pen);
      tellOfPen(pen.down ? "Pen down at" : "Pen up at");
    } else if (event.key === "Escape") {
      pen.down = false;
      clear();
      tellOfPen("Cleared. Pen up at");
    } else {
      return;
    }
    event.preventDefault();
    showPen();
  });
}

function tellOfPen(what) {
  const [x, y] = [pen.x / paper.width, pen.y / paper.height].map((share) => Math.round(100 * share));
  byId("pen-state").textContent = `${what} ${x} % from the left, ${y} % from the top.`;
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
  const channels = file.map((channel) => fitted(channel, size));
  const given = about.shape[0] === 1 ? [greyOf(channels)] : channels;
  const otherWay = about.on_light !== null && onLight(given) !== about.on_light;
  const invert = otherWay && byId("invert").checked;
  const what = `The background seems to be ${about.on_light ? "dark" : "light"}, and those of the training images are not`;
  if (invert) tell(`${what}: turned round.`);
  else tell(otherWay ? `${what}: do not trust this answer, or turn it round.` : "");
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
  const [first] = event.target.files;
  if (!first) return;
  const mine = ++chosen;
  ink.clearRect(0, 0, paper.width, paper.height);
  complain("");
  tell("");
  decoding++;
  tellOfWork();
  const image = await decoded(first).catch(() => null);
  decoding--;
  if (mine === chosen) {
    file = image;
    if (!image) complain(`${first.name}: no image that this browser can read.`);
  }
  await look();
}

/* --- From pixels to an answer --- */

/** Run the model on what is given now, and once more if that changed meanwhile. */
async function look() {
  again = true;
  if (busy) return;
  busy = true;
  tellOfWork();
  try {
    while (again) {
      again = false;
      const [channels, height, width] = about.shape;
      const given = channelsGiven(height);
      show(given, given && (await probabilitiesOf(given, [1, channels, height, width])));
    }
  } catch (error) {
    complain(`The model failed: ${error.message ?? error}`);
  }
  busy = false;
  tellOfWork();
}

function tellOfWork() {
  byId("output").ariaBusy = String(busy || decoding > 0);
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
    const colour = [0, 1, 2].map((channel) => (given ? (given[channel] ?? given[0]).pixels[at] : about.on_light ? 255 : 0));
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
  const answer = await fetch("about.json");
  if (!answer.ok) throw new Error(`about.json: ${answer.status} ${answer.statusText}`);
  about = await answer.json();
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
  byId("background").hidden = about.on_light === null;
  byId("clear").addEventListener("click", clear);
  byId("file").addEventListener("change", choose);
  byId("invert").addEventListener("change", look);
  look();
}

begin().catch((error) => {
  byId("about").textContent = "";
  complain(`The model could not be loaded: ${error.message ?? error}`);
});
