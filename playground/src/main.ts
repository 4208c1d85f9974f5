/** The page: what is on it, and what happens when something is done to it. */

import "./style.css";
import type { Density, Standardizer } from "./data/densities";
import { isToy, type ToyName, TOYS } from "./data/toys";
import { BRUSH, Drawing, FEWEST_POINTS, fitted, MOST_POINTS, parseRows, type Place, REACH } from "./drawing";
import { openModel, Refusal, type SavedModel, saveModel, type TrainedOn } from "./format";
import { fixedDraws, floorOn, lossOn } from "./judging";
import { fromHash, SAMPLER_STEPS, SIZES, type State, STEPS, toHash } from "./link";
import { type DataSpec, type FromWorker, makeDensity, type ToWorker } from "./messages";
import { Denoiser, type DenoiserSettings, kanSettings, matchingMlp, mlpSettings, type Network } from "./model/denoiser";
import { COSINE, Process, type ProcessSettings } from "./model/process";
import { Random } from "./model/random";
import { energyDistance, meanDistance, reverse } from "./model/sampling";
import { type Curve, drawChart } from "./view/chart";
import { digits, download, find, html } from "./view/dom";
import { EdgesView } from "./view/edges";
import { type Frame, fieldPlaces, frameOf, Panel } from "./view/panel";
import { makeTile } from "./view/tiles";

type Side = "kan" | "mlp";
const SIDES: readonly Side[] = ["kan", "mlp"];
const NAMES: Readonly<Record<Side, string>> = { kan: "KAN", mlp: "MLP" };
/** Peak learning rates. */
const RATES: Readonly<Record<Side, number>> = { kan: 0.01, mlp: 0.02 };

const SHOWN = 500;
const REFERENCE = 2000;
const REAL_DRAWS = 8;
const PLAY_SECONDS = 4;
const REST_SECONDS = 1.2;
const DRAWING_FRAME: Frame = { centre: [0, 0], reach: REACH };

/** A network on the page: what it has learned, and what it makes of noise. */
interface Model {
  readonly denoiser: Network;
  readonly standardizer: Standardizer;
  readonly data: TrainedOn | null;
  /** Whether it comes from a file, which a link does not carry. */
  readonly opened: boolean;
  states: readonly Float64Array[];
  curve: (readonly [number, number])[];
  steps: number;
  seconds: number;
  distance: number | null;
  field: { at: number; vectors: Float64Array } | null;
}

const still = matchMedia("(prefers-reduced-motion: reduce)");
const noise = new Random(7).normals(2 * SHOWN);

const panels = {
  data: new Panel(find("#data", HTMLElement), "data"),
  kan: new Panel(find("#kan", HTMLElement), "kan"),
  mlp: new Panel(find("#mlp", HTMLElement), "mlp"),
};
const message = find("#message", HTMLElement);
const trainButton = find("#train", HTMLButtonElement);
const playButton = find("#play", HTMLButtonElement);
const undoButton = find("#undo", HTMLButtonElement);
const clearButton = find("#clear", HTMLButtonElement);
const timeSlider = find("#time", HTMLInputElement);
const level = find("#level", HTMLOutputElement);
const fieldBox = find("#field", HTMLInputElement);
const chart = find("#loss .chart", HTMLElement);
const fileInput = find("#file", HTMLInputElement);
const stepsSelect = find("#steps", HTMLSelectElement);
const sizeSelect = find("#size", HTMLSelectElement);
const edges = new EdgesView(find("#edges .layers", HTMLElement), () => {
  followed = true;
  keepLink();
});

let state: State = fromHash(location.hash);
const drawing = new Drawing();
/** The noising process of what is shown: that of training here, or of an opened model. */
let process = new Process(COSINE);
let timesteps = process.timesteps(SAMPLER_STEPS);
let density: Density | null = null;
/** Clean points that the data's picture shows, standardised, with the noise that is added to each. */
let clean = new Float64Array(0);
let floor: number | null = null;
/** Real points that samples are compared with, and their mean distance. */
let reference = { points: new Float64Array(0), within: 0 };
/** Energy distance of as many real points as are shown: the value to reach. */
let reachable = 0;
let exact = new Map<number, Float64Array>();
const models: Record<Side, Model | null> = { kan: null, mlp: null };
const workers: Record<Side, Worker | null> = { kan: null, mlp: null };
let paused = false;
let time = state.time;
let playing = false;
let rested = 0;
let pen: Place = [0, 0];
let penDown = false;
let followed = false;
let keyboard = false;
let stale = true;
let edgesStale = true;
let chartStale = true;

const say = (text: string): void => {
  message.textContent = text;
};
const isDrawing = (): boolean => state.data === "drawing";
const isTraining = (): boolean => SIDES.some((side) => workers[side] !== null);
const hasModel = (): boolean => SIDES.some((side) => models[side] !== null);
const standardizerOf = (side: Side | "data"): Standardizer | null =>
  side === "data" ? (density?.standardizer ?? SIDES.map((s) => models[s]?.standardizer).find((s) => s !== undefined) ?? null) : (models[side]?.standardizer ?? null);

function keepLink(): void {
  state = { ...state, points: isDrawing() ? drawing.points : [], time: Math.round(time), trained: SIDES.some((side) => models[side]?.opened === false), edge: followed ? edges.chosen : null };
  history.replaceState(null, "", toHash(state));
}

const dataSpec = (): DataSpec =>
  isDrawing() ? { points: Float64Array.from(drawing.points.flat()), spread: BRUSH } : { toy: state.data };

const trainedOn = (): TrainedOn =>
  isDrawing() ? { toy: null, points: drawing.points, spread: BRUSH } : { toy: state.data, points: [], spread: 0 };

function drawPoints(from: Density, count: number, random: Random): Float64Array<ArrayBuffer> {
  const points = new Float64Array(2 * count);
  for (let n = 0; n < points.length; n += 2) [points[n], points[n + 1]] = from.draw(random);
  return points;
}

const distanceOf = (points: Float64Array): number => energyDistance(points, reference.points, reference.within);

/** Lays out what follows from the data: their density, its picture and the floor. */
function refreshData(): void {
  const enough = !isDrawing() || drawing.size >= FEWEST_POINTS;
  density = enough ? makeDensity(dataSpec()) : null;
  exact = new Map();
  floor = null;
  clean = new Float64Array(0);
  if (density !== null) {
    const random = new Random(11);
    clean = drawPoints(density, SHOWN, random);
    const points = drawPoints(density, REFERENCE, random);
    reference = { points, within: meanDistance(points, points) };
    const real = Array.from({ length: REAL_DRAWS }, () => distanceOf(drawPoints(density!, SHOWN, random)));
    reachable = real.reduce((sum, value) => sum + value, 0) / REAL_DRAWS;
    floor = floorOn(process, density, fixedDraws(process, density));
  }
  const standardizer = standardizerOf("data");
  for (const side of ["data", ...SIDES] as const) {
    const own = standardizerOf(side) ?? standardizer;
    panels[side].frame = isDrawing() ? DRAWING_FRAME : own === null ? DRAWING_FRAME : frameOf(own);
  }
  panels.data.canvas.classList.toggle("drawable", isDrawing());
  panels.data.canvas.tabIndex = isDrawing() ? 0 : -1;
  panels.data.canvas.setAttribute("role", isDrawing() ? "application" : "img");
  undoButton.hidden = clearButton.hidden = !isDrawing();
  undoButton.disabled = clearButton.disabled = drawing.size === 0;
  stale = chartStale = edgesStale = true;
}

function stopWorkers(): void {
  for (const side of SIDES) {
    workers[side]?.terminate();
    workers[side] = null;
  }
  paused = false;
}

function useProcess(settings: ProcessSettings): void {
  process = new Process(settings);
  timesteps = process.timesteps(SAMPLER_STEPS);
}

/** Forgets what was learned, which other data or sizes make meaningless. */
function forget(): void {
  stopWorkers();
  models.kan = models.mlp = null;
  useProcess(COSINE);
  refreshData();
  edges.show(null, noise, 0);
  showButtons();
}

function settingsOf(side: Side): DenoiserSettings {
  const kan = kanSettings(state.hidden);
  if (side === "kan") return kan;
  return mlpSettings(matchingMlp(new Denoiser(kan).parameters.length, state.hidden.length + 1));
}

function train(): void {
  if (isDrawing() && drawing.size < FEWEST_POINTS) {
    const some = drawing.size === 0 ? "there are none yet" : drawing.size === 1 ? "there is one" : `there are ${drawing.size}`;
    say(`Draw at least ${FEWEST_POINTS} points, a short stroke is enough; ${some}.`);
    return;
  }
  if (typeof Worker === "undefined") {
    say("This browser has no web workers, which training needs; open this link in a current browser. All else works, and nothing is lost.");
    return;
  }
  forget();
  say("");
  for (const side of SIDES) startWorker(side);
  if (!still.matches) setPlaying(true);
  showButtons();
  keepLink();
}

function startWorker(side: Side): void {
  const settings = settingsOf(side);
  const denoiser = new Denoiser(settings);
  const model: Model = {
    denoiser,
    standardizer: density!.standardizer,
    data: trainedOn(),
    opened: false,
    states: [],
    curve: [],
    steps: state.steps,
    seconds: 0,
    distance: null,
    field: null,
  };
  models[side] = model;
  let worker: Worker;
  try {
    worker = new Worker(new URL("./worker.ts", import.meta.url), { type: "module", name: NAMES[side] });
  } catch {
    say("This browser does not start web workers here; serve the page from a web server, as make playground does.");
    models[side] = null;
    return;
  }
  workers[side] = worker;
  worker.onmessage = ({ data }: MessageEvent<FromWorker>): void => {
    if (workers[side] !== worker) return;
    if (data.type === "failed") {
      fail(side, data.reason);
      return;
    }
    denoiser.parameters.set(data.parameters);
    model.seconds = data.seconds;
    model.curve.push([data.step, data.loss]);
    model.field = null;
    if (data.states !== null) {
      const first = model.states.length === 0;
      model.states = data.states;
      if (first) showButtons();
      model.distance = distanceOf(data.states[data.states.length - 1]);
    }
    stale = chartStale = true;
    edgesStale ||= side === "kan";
    if (data.step === data.steps) finish(side);
  };
  worker.onerror = (event): void => fail(side, event.message || "the worker did not start");
  const order: ToWorker = {
    type: "start",
    settings,
    training: { steps: state.steps, batchSize: 256, learningRate: RATES[side], warmupSteps: Math.min(50, state.steps / 10), emaDecay: 0.995 },
    data: dataSpec(),
    seed: state.seed,
    start: noise,
    samplerSteps: SAMPLER_STEPS,
  };
  worker.postMessage(order);
}

function finish(side: Side): void {
  workers[side]?.terminate();
  workers[side] = null;
  if (!isTraining()) {
    const seconds = SIDES.map((s) => `${NAMES[s]} ${(models[s]?.seconds ?? 0).toFixed(1)} s`).join(", ");
    const steps = Math.max(...SIDES.map((s) => models[s]?.steps ?? 0));
    say(`Trained for ${steps.toLocaleString("en")} steps: ${seconds}.`);
  }
  showButtons();
}

function fail(side: Side, reason: string): void {
  workers[side]?.terminate();
  workers[side] = null;
  say(`Training of the ${NAMES[side]} stopped (${reason}); what it had learned is kept. Train again, or reload the page.`);
  showButtons();
}

function pauseOrTrain(): void {
  if (!isTraining()) {
    train();
    return;
  }
  paused = !paused;
  for (const side of SIDES) workers[side]?.postMessage({ type: paused ? "pause" : "resume" } satisfies ToWorker);
  showButtons();
}

function showButtons(): void {
  trainButton.textContent = !isTraining() ? "Train" : paused ? "Go on" : "Pause";
  for (const side of SIDES) {
    const ready = (models[side]?.states.length ?? 0) > 0;
    for (const button of panels[side].figure.querySelectorAll("button")) button.disabled = !ready;
  }
  stale = true;
}

function setPlaying(on: boolean): void {
  playing = on;
  rested = 0;
  if (on && time >= SAMPLER_STEPS) time = 0;
  playButton.textContent = on ? "Stop" : "Play";
  playButton.setAttribute("aria-pressed", String(on));
  stale = true;
}

// What is drawn.

/** The timestep of a place of the slider; the last has hardly any noise left. */
const timestepAt = (place: number): number => timesteps[Math.min(Math.round(place), SAMPLER_STEPS - 1)];

/** sigma times the exact score: the negative noise of the posterior mean. */
function exactField(place: number): Float64Array | null {
  if (density === null) return null;
  const at = Math.min(Math.round(place), SAMPLER_STEPS - 1);
  const known = exact.get(at);
  if (known !== undefined) return known;
  const t = timestepAt(at);
  const places = fieldPlaces(panels.data.frame, density.standardizer);
  const vectors = density.posteriorMean(places, process.alpha[t], process.sigma[t]);
  for (let n = 0; n < vectors.length; n++) vectors[n] = (process.alpha[t] * vectors[n] - places[n]) / process.sigma[t];
  exact.set(at, vectors);
  return vectors;
}

function modelField(model: Model, frame: Frame, place: number): Float64Array {
  const at = Math.min(Math.round(place), SAMPLER_STEPS - 1);
  if (model.field?.at === at) return model.field.vectors;
  const t = timestepAt(at);
  const places = fieldPlaces(frame, model.standardizer);
  const vectors = model.denoiser.forward(places, new Int32Array(places.length / 2).fill(t));
  const [a, b] = process.noiseCoefficients(t);
  for (let n = 0; n < vectors.length; n++) vectors[n] = -(a * vectors[n] + b * places[n]);
  model.field = { at, vectors };
  return vectors;
}

/** Points between two states of the reverse process. */
function between(states: readonly Float64Array[], place: number): Float64Array {
  const at = Math.min(Math.floor(place), states.length - 2);
  const share = place - at;
  const [from, to] = [states[at], states[at + 1]];
  return from.map((value, n) => value + share * (to[n] - value));
}

function noisedData(place: number): Float64Array {
  if (place >= SAMPLER_STEPS) return clean;
  const at = Math.floor(place);
  const share = place - at;
  const ends = [at, at + 1].map((n) => (n >= SAMPLER_STEPS ? [1, 0] : [process.alpha[timesteps[n]], process.sigma[timesteps[n]]]));
  const alpha = ends[0][0] + share * (ends[1][0] - ends[0][0]);
  const sigma = ends[0][1] + share * (ends[1][1] - ends[0][1]);
  return clean.map((value, n) => alpha * value + sigma * noise[n]);
}

function drawData(): void {
  const panel = panels.data;
  panel.begin();
  const showField = fieldBox.checked;
  if (isDrawing()) panel.brush(drawing.points, BRUSH);
  if (density !== null) {
    const vectors = showField && !penDown ? exactField(time) : null;
    if (vectors !== null) panel.field(vectors, density.standardizer);
    if (!penDown) panel.points(noisedData(time), density.standardizer);
  } else if (isDrawing() && drawing.size === 0) {
    panel.words("Draw here");
  } else if (!isDrawing()) {
    panel.words("The file does not say\nwhat it was trained on.");
  }
  if (isDrawing() && keyboard) panel.pen(pen);
  const real = density === null ? "" : `\nenergy distance of real points ${digits(reachable, 2)}`;
  const count = isDrawing() ? `${drawing.size.toLocaleString("en")} of at most ${MOST_POINTS.toLocaleString("en")} points` : density === null ? "" : TOYS[state.data as ToyName].title;
  const note = keyboard ? "arrow keys, Space" : density === null ? "" : time >= SAMPLER_STEPS ? (showField ? "exact score" : "") : `noised${showField ? ", exact score" : ""}`;
  panel.say(note, count + real, isDrawing() ? `Drawing, ${count}. Arrow keys move the pen, Space puts a point, Backspace undoes.` : `${count}: ${SHOWN} points${note === "" ? "" : `, ${note}`}`);
}

function drawSide(side: Side): void {
  const panel = panels[side];
  const model = models[side];
  panel.begin();
  if (model === null || model.states.length === 0) {
    const standardizer = standardizerOf("data");
    if (standardizer !== null) panel.points(noise, standardizer, 0.25);
    const count = new Denoiser(settingsOf(side)).parameters.length.toLocaleString("en");
    panel.say(model === null ? "noise, not trained yet" : "starting", `${count} parameters`, `${NAMES[side]}, not trained yet`);
    return;
  }
  if (fieldBox.checked) panel.field(modelField(model, panel.frame, time), model.standardizer);
  panel.points(between(model.states, time), model.standardizer);
  const step = model.curve.at(-1)?.[0];
  const note = step !== undefined && step < model.steps ? `step ${step.toLocaleString("en")}` : time >= SAMPLER_STEPS ? "samples" : "from noise";
  const distance = model.distance === null ? "" : `\nenergy distance ${digits(model.distance, 2)}`;
  const facts = `${model.denoiser.numParameters.toLocaleString("en")} parameters${distance}`;
  panel.say(note, facts, `${NAMES[side]}: ${SHOWN} points made of noise, ${note}. ${facts}`);
  panel.canvas.dataset["distance"] = String(model.distance ?? "");
}

function drawTime(): void {
  const t = timestepAt(time);
  const place = String(Math.round(time));
  if (timeSlider.value !== place) timeSlider.value = place;
  const done = time >= SAMPLER_STEPS;
  const text = done ? "t = 0, no noise left" : `t = ${t + 1} of ${process.numTimesteps}, noise σ = ${process.sigma[t].toFixed(2)}`;
  if (level.textContent !== text) level.textContent = text;
  timeSlider.setAttribute("aria-valuetext", text);
}

let edgesDrawn = 0;
let before = 0;

function frame(now: number): void {
  const elapsed = Math.min(0.1, (now - before) / 1000);
  before = now;
  if (playing) {
    if (time < SAMPLER_STEPS) time = Math.min(SAMPLER_STEPS, time + (elapsed * SAMPLER_STEPS) / PLAY_SECONDS);
    else if ((rested += elapsed) > REST_SECONDS) {
      rested = 0;
      time = 0;
    }
    stale = edgesStale = true;
  }
  if (stale) {
    stale = false;
    drawData();
    SIDES.forEach(drawSide);
    drawTime();
  }
  if (chartStale) {
    chartStale = false;
    const curves = SIDES.map((side): Curve => ({ name: NAMES[side], colour: side, points: models[side]?.curve ?? [] }));
    drawChart(chart, curves, floor, Math.max(state.steps, ...SIDES.map((side) => models[side]?.steps ?? 0)));
  }
  const kan = models.kan;
  if (edgesStale && now - edgesDrawn > 160) {
    edgesStale = false;
    edgesDrawn = now;
    if (kan === null || kan.states.length === 0) edges.show(null, noise, 0);
    else edges.show(kan.denoiser, between(kan.states, time).subarray(0, 400), timestepAt(time));
  }
  requestAnimationFrame(frame);
}

// What people do.

function setData(name: ToyName | "drawing"): void {
  state = { ...state, data: name };
  forget();
  say(name === "drawing" && drawing.size === 0 ? "Draw in the left square, then train." : "");
  keepLink();
}

function drawn(): void {
  if (drawing.size >= MOST_POINTS) say(`A drawing holds ${MOST_POINTS.toLocaleString("en")} points; further ones are left out.`);
  else say("");
  if (hasModel() || isTraining()) forget();
  stale = true;
}

function listenToPen(): void {
  const { canvas } = panels.data;
  canvas.addEventListener("pointerdown", (event) => {
    if (!isDrawing() || event.button !== 0) return;
    canvas.setPointerCapture(event.pointerId);
    penDown = true;
    keyboard = false;
    drawing.begin(panels.data.toData(event.clientX, event.clientY));
    drawn();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!penDown) return;
    for (const { clientX, clientY } of event.getCoalescedEvents?.() ?? [event]) drawing.extend(panels.data.toData(clientX, clientY));
    drawn();
  });
  const lift = (): void => {
    if (!penDown) return;
    penDown = false;
    time = SAMPLER_STEPS;
    refreshData();
    keepLink();
  };
  canvas.addEventListener("pointerup", lift);
  canvas.addEventListener("pointercancel", lift);
  canvas.addEventListener("blur", () => {
    keyboard = false;
    stale = true;
  });
  canvas.addEventListener("keydown", (event) => {
    if (!isDrawing()) return;
    const size = event.shiftKey ? 0.2 : 0.05;
    const moves: Record<string, Place> = { ArrowLeft: [-size, 0], ArrowRight: [size, 0], ArrowUp: [0, size], ArrowDown: [0, -size] };
    const move = moves[event.key];
    if (move !== undefined) {
      pen = [Math.min(Math.max(pen[0] + move[0], -REACH), REACH), Math.min(Math.max(pen[1] + move[1], -REACH), REACH)];
    } else if (event.key === " " || event.key === "Enter") {
      drawing.begin(pen);
      drawn();
      refreshData();
    } else if (event.key === "Backspace" || event.key === "Delete") {
      undo();
    } else return;
    event.preventDefault();
    keyboard = true;
    stale = true;
    keepLink();
  });
}

function undo(): void {
  drawing.undo();
  drawn();
  refreshData();
  keepLink();
}

function sideOf({ settings }: Network): Side {
  if (settings._class_name === "GatedDenoiser") return settings.learned_inputs || settings.learned_functions ? "kan" : "mlp";
  return settings._class_name === "KANDenoiser" ? "kan" : "mlp";
}

function describe(model: SavedModel): string {
  const kind = NAMES[sideOf(model.denoiser)];
  const toy = model.data?.toy;
  const data = toy !== null && toy !== undefined ? `, trained on ${isToy(toy) ? TOYS[toy].title : toy}` : (model.data?.points.length ?? 0) > 0 ? ", trained on a drawing" : "";
  return `a${kind === "MLP" ? "n" : ""} ${kind} of ${model.denoiser.numParameters.toLocaleString("en")} parameters${data}`;
}

/** Shows a saved model beside the other one, if that has learned the same data, else alone. */
function show(saved: SavedModel): void {
  stopWorkers();
  const side = sideOf(saved.denoiser);
  const { data } = saved;
  const other = side === "kan" ? models.mlp : models.kan;
  const alike = (one: unknown, two: unknown): boolean => JSON.stringify(one) === JSON.stringify(two);
  const same = other !== null && data !== null && alike(other.data, data) && alike(process.settings, saved.process);
  models[side === "kan" ? "mlp" : "kan"] = same ? other : null;
  const toy = data?.toy;
  if (toy !== null && toy !== undefined && isToy(toy)) selectData(toy);
  else if (data !== null && data.points.length > 0) {
    drawing.replace(data.points);
    selectData("drawing");
  }
  useProcess(saved.process);
  const predict = (points: Float64Array, t: number): Float64Array => saved.denoiser.forward(points, new Int32Array(points.length / 2).fill(t));
  const known = data !== null && ((toy !== null && toy !== undefined && isToy(toy)) || data.points.length > 0);
  models[side] = {
    denoiser: saved.denoiser,
    standardizer: saved.standardizer,
    data,
    opened: true,
    states: reverse(process, predict, noise, SAMPLER_STEPS),
    curve: [],
    steps: state.steps,
    seconds: 0,
    distance: null,
    field: null,
  };
  refreshData();
  const model = models[side];
  if (known && density !== null && model !== null) {
    model.distance = distanceOf(model.states[SAMPLER_STEPS]);
    model.curve = [[state.steps, lossOn(model.denoiser, fixedDraws(process, density))]];
  }
  if (!known) {
    // Nobody knows its data: its own picture is all there is to see.
    density = null;
    clean = new Float64Array(0);
    floor = null;
    for (const panel of [panels.data, panels[side]]) panel.frame = frameOf(saved.standardizer);
  }
  time = SAMPLER_STEPS;
  stale = chartStale = edgesStale = true;
  showButtons();
}

async function openFile(file: File): Promise<void> {
  try {
    if (file.size > 50_000_000) throw new Refusal("it has more than 50 MB");
    const text = await file.text();
    if (/\.(csv|tsv|txt)$/i.test(file.name)) {
      openPoints(file.name, parseRows(text));
      return;
    }
    const saved = openModel(text);
    show(saved);
    say(`Opened ${file.name}: ${describe(saved)}.`);
    keepLink();
  } catch (error) {
    const reason = error instanceof Refusal ? error.message : String(error);
    say(`${file.name} cannot be opened: ${reason}. What is on the page is as it was.`);
  }
}

function openPoints(name: string, rows: readonly Place[]): void {
  if (rows.length < FEWEST_POINTS) {
    throw new Refusal(`it has ${rows.length === 1 ? "one row" : `${rows.length} rows`} of two numbers, and ${FEWEST_POINTS} are needed`);
  }
  drawing.replace(fitted(rows));
  selectData("drawing");
  forget();
  const kept = rows.length > MOST_POINTS ? `${MOST_POINTS.toLocaleString("en")} of its ${rows.length.toLocaleString("en")} points, drawn at random` : `its ${rows.length.toLocaleString("en")} points`;
  say(`Opened ${name}: ${kept}, scaled to fit the square.`);
  keepLink();
}

function selectData(name: ToyName | "drawing"): void {
  state = { ...state, data: name };
  const radio = document.querySelector<HTMLInputElement>(`input[name="data"][value="${name}"]`);
  if (radio !== null) radio.checked = true;
}

function saveFiles(side: Side): void {
  const stem = (): string => `${side}-${state.data}`;
  find(".json", HTMLButtonElement, panels[side].figure).addEventListener("click", () => {
    const model = models[side];
    if (model === null) return;
    const saved = { denoiser: model.denoiser, process: process.settings, standardizer: model.standardizer, columns: ["x", "y"] as const, data: model.data };
    download(`${stem()}.json`, "application/json", saveModel(saved));
    say(`Saved ${stem()}.json; in Python: kan-diffusion sample ${stem()}.json`);
  });
  find(".csv", HTMLButtonElement, panels[side].figure).addEventListener("click", () => {
    const model = models[side];
    if (model === null) return;
    const points = model.states[model.states.length - 1];
    const { mean, scale } = model.standardizer;
    const rows = Array.from({ length: points.length / 2 }, (_, n) => `${mean[0] + scale[0] * points[2 * n]},${mean[1] + scale[1] * points[2 * n + 1]}`);
    download(`${stem()}.csv`, "text/csv", `x,y\n${rows.join("\n")}\n`);
    say(`Saved ${stem()}.csv: ${rows.length} points.`);
  });
}

function start(): void {
  const names = ["drawing", ...(Object.keys(TOYS) as ToyName[])] as const;
  find("#tiles", HTMLFieldSetElement).append(...names.map((name) => makeTile(name, state.data === name, () => setData(name))));
  timeSlider.max = String(SAMPLER_STEPS);
  for (const steps of STEPS) stepsSelect.append(html("option", { value: String(steps), textContent: steps.toLocaleString("en"), selected: steps === state.steps }));
  for (const hidden of SIZES) {
    const text = ["2", ...hidden.map(String), "2"].join("–");
    sizeSelect.append(html("option", { value: hidden.join("-"), textContent: text, selected: hidden.join() === state.hidden.join() }));
  }
  if (isDrawing()) drawing.replace(state.points);
  refreshData();
  listenToPen();
  SIDES.forEach(saveFiles);
  trainButton.addEventListener("click", pauseOrTrain);
  find("#restart", HTMLButtonElement).addEventListener("click", () => {
    state = { ...state, seed: state.seed + 1 };
    forget();
    say("What was learned is forgotten; the next training starts from other weights.");
    keepLink();
  });
  stepsSelect.addEventListener("change", () => {
    state = { ...state, steps: Number(stepsSelect.value) };
    chartStale = true;
    keepLink();
  });
  sizeSelect.addEventListener("change", () => {
    state = { ...state, hidden: SIZES[sizeSelect.selectedIndex] };
    forget();
    keepLink();
  });
  playButton.addEventListener("click", () => setPlaying(!playing));
  timeSlider.addEventListener("input", () => {
    setPlaying(false);
    time = Number(timeSlider.value);
    stale = edgesStale = true;
    keepLink();
  });
  fieldBox.addEventListener("change", () => (stale = true));
  undoButton.addEventListener("click", undo);
  clearButton.addEventListener("click", () => {
    drawing.clear();
    drawn();
    refreshData();
    keepLink();
  });
  find("#open", HTMLButtonElement).addEventListener("click", () => fileInput.click());
  fileInput.addEventListener("change", () => {
    const file = fileInput.files?.[0];
    fileInput.value = "";
    if (file !== undefined) void openFile(file);
  });
  find("#link", HTMLButtonElement).addEventListener("click", () => void copyLink());
  new ResizeObserver(() => (stale = chartStale = edgesStale = true)).observe(find("main", HTMLElement));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => (stale = true));
  const { edge, trained } = state;
  edges.chosen = edge;
  followed = edge !== null;
  showButtons();
  requestAnimationFrame(frame);
  if (trained && density !== null) train();
  else say(isDrawing() && density === null ? "Draw in the left square, then train." : "Train, and both networks learn these points within seconds; or draw your own.");
}

async function copyLink(): Promise<void> {
  keepLink();
  try {
    await navigator.clipboard.writeText(location.href);
    say("Copied the link; whoever opens it sees the same data, and the same training.");
  } catch {
    say("This browser does not let the page copy; the link is in the address bar.");
  }
}

start();
