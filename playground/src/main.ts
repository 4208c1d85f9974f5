/** The page: what is on it, and what happens when something is done to it. */

import "./style.css";
import { Contestant } from "./contestant";
import { type Point, readPoints, Refusal } from "./data/csv";
import type { Standardizer } from "./data/densities";
import { BRUSH, Drawing, FEWEST_POINTS, fitted, MOST_POINTS, REACH } from "./data/drawing";
import { type DataSpec, type ToyName, TOYS } from "./data/toys";
import { fromHash, SAMPLER_STEPS, SIZES, type State, STEPS, toHash } from "./link";
import { type DenoiserSettings, matchingMlp, numParametersOf } from "./model/denoiser";
import { NUM_TIMESTEPS, samplerTimesteps, SIGMA } from "./model/process";
import { Random } from "./model/random";
import { Target } from "./target";
import { drawChart } from "./view/chart";
import { ARROWS, digits, download, find, html, onClick, whole } from "./view/dom";
import { EdgesView } from "./view/edges";
import { type Frame, fieldPoints, frameOf, Panel } from "./view/panel";
import { makeTile } from "./view/tiles";

type Side = "kan" | "mlp";
const SIDES: readonly Side[] = ["kan", "mlp"];
const NAMES: Readonly<Record<Side, string>> = { kan: "KAN", mlp: "MLP" };
/** Peaks of learning rates. */
const RATES: Readonly<Record<Side, number>> = { kan: 0.01, mlp: 0.02 };

/** Points in a picture. */
const SHOWN = 500;
const PLAY_SECONDS = 4;
const REST_SECONDS = 1.2;
const EDGES_EVERY = 160; // milliseconds
const LARGEST_FILE = 50_000_000;
const DRAWING_FRAME: Frame = { centre: [0, 0], reach: REACH };

const timesteps = samplerTimesteps(SAMPLER_STEPS);
const noise = new Random(7).normals(2 * SHOWN);
const prefersLessMotion = matchMedia("(prefers-reduced-motion: reduce)");

const makeButton = (textContent: string, label = textContent): HTMLButtonElement => html("button", { type: "button", textContent, ariaLabel: label });
const undoButton = makeButton("Undo");
const clearButton = makeButton("Clear");
const saveButtons = { kan: makeButton("↓ Points", "Points of the KAN, as CSV"), mlp: makeButton("↓ Points", "Points of the MLP, as CSV") };
const panels = {
  data: new Panel("data", "Data", undoButton, clearButton),
  kan: new Panel("kan", NAMES.kan, saveButtons.kan),
  mlp: new Panel("mlp", NAMES.mlp, saveButtons.mlp),
};
const message = find("#message", HTMLElement);
const trainButton = find("#train", HTMLButtonElement);
const playButton = find("#play", HTMLButtonElement);
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
/** The data that are learned; null while a drawing has too few points. */
let target: Target | null = null;
let contestants: Partial<Record<Side, Contestant>> = {};
let paused = false;
/** Where the slider stands, in states of the reverse process, and between two of them while it plays. */
let time = state.time;
let playing = false;
let rested = 0;
let pen: Point = [0, 0];
let penDown = false;
let usesKeys = false;
let followed = false;
/** What has to be drawn again. */
const stale = { panels: true, chart: true, edges: true };

const say = (text: string): void => {
  message.textContent = text;
};
const redrawAll = (): void => {
  stale.panels = stale.chart = stale.edges = true;
};
const isDrawing = (): boolean => state.data === "drawing";
const everyContestant = (): Contestant[] => Object.values(contestants);
const isTraining = (): boolean => everyContestant().some((contestant) => contestant.isTraining);

function keepLink(changes: Partial<State> = {}): void {
  state = {
    ...state,
    ...changes,
    points: isDrawing() ? drawing.points : [],
    time: Math.round(time),
    trained: everyContestant().length > 0,
    edge: followed ? edges.chosen : null,
  };
  history.replaceState(null, "", toHash(state));
}

const dataSpec = (): DataSpec =>
  state.data === "drawing" ? { points: Float64Array.from(drawing.points.flat()), spread: BRUSH } : { toy: state.data };

/** Lays out what follows from the data: what is to be reached, and the panels. */
function refreshData(): void {
  target = isDrawing() && drawing.size < FEWEST_POINTS ? null : new Target(dataSpec(), noise, timesteps);
  for (const panel of Object.values(panels)) {
    panel.frame = isDrawing() || target === null ? DRAWING_FRAME : frameOf(target.standardizer);
  }
  const { canvas } = panels.data;
  canvas.classList.toggle("drawable", isDrawing());
  canvas.tabIndex = isDrawing() ? 0 : -1;
  canvas.setAttribute("role", isDrawing() ? "application" : "img");
  for (const button of [undoButton, clearButton]) {
    button.hidden = !isDrawing();
    button.disabled = drawing.size === 0;
  }
  redrawAll();
}

/** Forgets what was learned, which other data or sizes make meaningless. */
function forget(changes: Partial<State> = {}): void {
  state = { ...state, ...changes };
  for (const contestant of everyContestant()) contestant.stop();
  contestants = {};
  paused = false;
  refreshData();
  showButtons();
  keepLink();
}

// Training.

function settingsOf(side: Side): DenoiserSettings {
  const kan: DenoiserSettings = { kind: "kan", hidden: state.hidden };
  if (side === "kan") return kan;
  return { kind: "mlp", hidden: matchingMlp(numParametersOf(kan), state.hidden.length + 1) };
}

function train(): void {
  if (isDrawing() && drawing.size < FEWEST_POINTS) {
    const count = drawing.size === 0 ? "there are none yet" : drawing.size === 1 ? "there is one" : `there are ${drawing.size}`;
    say(`Draw at least ${FEWEST_POINTS} points, a short stroke is enough; ${count}.`);
    return;
  }
  forget();
  say("");
  try {
    for (const side of SIDES) contestants[side] = startTraining(side);
  } catch {
    forget();
    say("The browser starts no web workers here, which training needs; serve the page from a web server, as make playground does.");
    return;
  }
  if (!prefersLessMotion.matches) setPlaying(true);
  showButtons();
  keepLink();
}

function startTraining(side: Side): Contestant {
  return new Contestant(
    NAMES[side],
    {
      settings: settingsOf(side),
      steps: state.steps,
      learningRate: RATES[side],
      data: dataSpec(),
      seed: state.seed,
      start: noise,
      samplerSteps: SAMPLER_STEPS,
    },
    () => {
      stale.panels = stale.chart = true;
      stale.edges ||= side === "kan";
      showButtons();
    },
    (failure) => {
      if (failure !== null) {
        say(`Training of the ${NAMES[side]} stopped (${failure}); what it had learned is kept. Train again, or reload the page.`);
      } else if (!isTraining()) {
        const seconds = SIDES.map((s) => `${NAMES[s]} ${(contestants[s]?.seconds ?? 0).toFixed(1)} s`).join(", ");
        say(`Trained for ${whole(contestants[side]?.steps ?? 0)} steps: ${seconds}.`);
      }
      showButtons();
    },
  );
}

function pause(): void {
  paused = !paused;
  for (const contestant of everyContestant()) contestant.pause(paused);
  showButtons();
}

function showButtons(): void {
  trainButton.textContent = !isTraining() ? "Train" : paused ? "Go on" : "Pause";
  for (const side of SIDES) saveButtons[side].disabled = (contestants[side]?.samples ?? null) === null;
  stale.panels = true;
}

function setPlaying(on: boolean): void {
  playing = on;
  rested = 0;
  if (on && time >= SAMPLER_STEPS) time = 0;
  playButton.textContent = on ? "Stop" : "Play";
  playButton.setAttribute("aria-pressed", String(on));
  stale.panels = true;
}

// What is drawn.

/** The timestep where the slider stands; the last has hardly any noise left. */
const timestep = (): number => timesteps[Math.min(Math.round(time), SAMPLER_STEPS - 1)];

/** Points between two states of the reverse process. */
function betweenStates(states: readonly Float64Array[]): Float64Array {
  const at = Math.min(Math.floor(time), states.length - 2);
  const [from, to] = [states[at], states[at + 1]];
  return from.map((value, n) => value + (time - at) * (to[n] - value));
}

/** Draws points where the slider stands, under their score field if it is asked for. */
function drawPoints(panel: Panel, learner: Target | Contestant, standardizer: Standardizer): void {
  if (fieldBox.checked) panel.field(learner.scoresAt(fieldPoints(panel.frame, standardizer), timestep()), standardizer);
  panel.points(betweenStates(learner.states), standardizer);
}

function drawData(): void {
  const panel = panels.data;
  panel.begin();
  if (isDrawing()) panel.brush(drawing.points, BRUSH);
  if (target !== null && !penDown) drawPoints(panel, target, target.standardizer);
  else if (drawing.size === 0) panel.words("Draw here");
  if (isDrawing() && usesKeys) panel.pen(pen);
  const title = state.data === "drawing" ? `${whole(drawing.size)} of at most ${whole(MOST_POINTS)} points` : TOYS[state.data].title;
  const shown = [time >= SAMPLER_STEPS ? "" : "noised", fieldBox.checked ? "exact score" : ""].filter((word) => word !== "").join(", ");
  const note = usesKeys ? "arrow keys, Space" : target === null ? "" : shown;
  const keys = "Arrow keys move the pen, Space puts a point, Backspace undoes.";
  const label = isDrawing() ? `Drawing, ${title}. ${keys}` : `${title}: ${SHOWN} points${note === "" ? "" : `, ${note}`}`;
  panel.say(note, target === null ? title : `${title}\nenergy distance of real points ${digits(target.reachable, 2)}`, label);
}

function drawSide(side: Side): void {
  const panel = panels[side];
  const contestant = contestants[side];
  panel.begin();
  const parameters = `${whole(numParametersOf(settingsOf(side)))} parameters`;
  const samples = contestant?.samples ?? null;
  if (target === null || contestant === undefined || samples === null) {
    if (target !== null) panel.points(noise, target.standardizer, 0.25);
    panel.say(contestant === undefined ? "noise, not trained yet" : "starting", parameters, `${NAMES[side]}, not trained yet`);
    return;
  }
  drawPoints(panel, contestant, target.standardizer);
  const step = contestant.losses.at(-1)?.[0] ?? 0;
  const note = step < contestant.steps ? `step ${whole(step)}` : time >= SAMPLER_STEPS ? "samples" : "from noise";
  const distance = target.distanceTo(samples);
  const facts = `${parameters}\nenergy distance ${digits(distance, 2)}`;
  panel.say(note, facts, `${NAMES[side]}: ${SHOWN} points made of noise, ${note}. ${facts}`);
  panel.canvas.dataset["distance"] = String(distance);
}

function drawTime(): void {
  const t = timestep();
  const value = String(Math.round(time));
  if (timeSlider.value !== value) timeSlider.value = value;
  const text = time >= SAMPLER_STEPS ? "t = 0, no noise left" : `t = ${t + 1} of ${NUM_TIMESTEPS}, noise σ = ${SIGMA[t].toFixed(2)}`;
  if (level.textContent !== text) level.textContent = text;
  timeSlider.setAttribute("aria-valuetext", text);
}

function drawLosses(): void {
  stale.chart = false;
  const curves = SIDES.map((side) => ({ name: NAMES[side], colour: side, points: contestants[side]?.losses ?? [] }));
  drawChart(chart, curves, target?.floor ?? null, Math.max(state.steps, contestants.kan?.steps ?? 0));
}

function drawEdges(): void {
  stale.edges = false;
  const kan = contestants.kan;
  if (kan?.samples) edges.show(kan.denoiser, betweenStates(kan.states).subarray(0, 400), timestep());
  else edges.clear();
}

let edgesDrawn = 0;
let lastFrame = 0;

function frame(now: number): void {
  const elapsed = Math.min(0.1, (now - lastFrame) / 1000);
  lastFrame = now;
  if (playing) {
    if (time < SAMPLER_STEPS) time = Math.min(SAMPLER_STEPS, time + (elapsed * SAMPLER_STEPS) / PLAY_SECONDS);
    else if ((rested += elapsed) > REST_SECONDS) {
      rested = 0;
      time = 0;
    }
    stale.panels = stale.edges = true;
  }
  if (stale.panels) {
    stale.panels = false;
    drawData();
    SIDES.forEach(drawSide);
    drawTime();
  }
  if (stale.chart) drawLosses();
  if (stale.edges && now - edgesDrawn > EDGES_EVERY) {
    edgesDrawn = now;
    drawEdges();
  }
  requestAnimationFrame(frame);
}

// What people do.

const INVITATION = "Draw in the left square, then train.";

function setData(name: ToyName | "drawing"): void {
  find(`input[name="data"][value="${name}"]`, HTMLInputElement).checked = true;
  forget({ data: name });
  say(name === "drawing" && drawing.size === 0 ? INVITATION : "");
}

function afterStroke(): void {
  say(drawing.size < MOST_POINTS ? "" : `A drawing holds ${whole(MOST_POINTS)} points; further ones are left out.`);
  if (everyContestant().length > 0) forget();
  stale.panels = true;
}

/** Changes the drawing, and takes it as it then is for the data. */
function edit(change: () => void): void {
  change();
  afterStroke();
  forget();
}

function listenToPen(): void {
  const { canvas } = panels.data;
  canvas.addEventListener("pointerdown", (event) => {
    if (!isDrawing() || event.button !== 0) return;
    canvas.setPointerCapture(event.pointerId);
    penDown = true;
    usesKeys = false;
    drawing.begin(panels.data.toData(event.clientX, event.clientY));
    afterStroke();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!penDown) return;
    for (const { clientX, clientY } of event.getCoalescedEvents?.() ?? [event]) drawing.extend(panels.data.toData(clientX, clientY));
    afterStroke();
  });
  const lift = (): void => {
    if (!penDown) return;
    penDown = false;
    time = SAMPLER_STEPS;
    forget();
  };
  canvas.addEventListener("pointerup", lift);
  canvas.addEventListener("pointercancel", lift);
  canvas.addEventListener("blur", () => {
    usesKeys = false;
    stale.panels = true;
  });
  canvas.addEventListener("keydown", (event) => {
    if (!isDrawing()) return;
    const size = event.shiftKey ? 0.2 : 0.05;
    const move = ARROWS[event.key];
    const within = (value: number): number => Math.min(Math.max(value, -REACH), REACH);
    if (move !== undefined) {
      pen = [within(pen[0] + size * move[0]), within(pen[1] - size * move[1])];
    } else if (event.key === " " || event.key === "Enter") {
      edit(() => drawing.begin(pen));
    } else if (event.key === "Backspace" || event.key === "Delete") {
      edit(() => drawing.undo());
    } else return;
    event.preventDefault();
    usesKeys = true;
    stale.panels = true;
  });
}

async function openFile(file: File): Promise<void> {
  try {
    if (file.size > LARGEST_FILE) throw new Refusal("it has more than 50 MB; keep fewer of its rows");
    const points = readPoints(await file.text());
    if (points.length < FEWEST_POINTS) {
      const rows = points.length === 1 ? "one row" : `${points.length} rows`;
      throw new Refusal(`it has ${rows} of two numbers, and ${FEWEST_POINTS} are needed`);
    }
    drawing.replace(fitted(points));
    setData("drawing");
    const count = whole(points.length);
    const kept = points.length > MOST_POINTS ? `${whole(MOST_POINTS)} of its ${count} points, drawn at random` : `its ${count} points`;
    say(`Opened ${file.name}: ${kept}, scaled to fit the square.`);
  } catch (error) {
    const reason = error instanceof Refusal ? error.message : String(error);
    say(`${file.name} cannot be opened: ${reason}. What is on the page is as it was.`);
  }
}

function savePoints(side: Side): void {
  const points = contestants[side]?.samples ?? null;
  if (points === null || target === null) return;
  const { mean, scale } = target.standardizer;
  const rows = Array.from({ length: SHOWN }, (_, n) => `${mean[0] + scale[0] * points[2 * n]},${mean[1] + scale[1] * points[2 * n + 1]}`);
  const name = `${side}-${state.data}.csv`;
  download(name, "text/csv", `x,y\n${rows.join("\n")}\n`);
  say(`Saved ${name}: ${SHOWN} points.`);
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

function fillChoices(): void {
  const names = ["drawing", ...(Object.keys(TOYS) as ToyName[])] as const;
  find("#tiles", HTMLFieldSetElement).append(...names.map((name) => makeTile(name, state.data === name, () => setData(name))));
  timeSlider.max = String(SAMPLER_STEPS);
  for (const steps of STEPS) {
    stepsSelect.append(html("option", { value: String(steps), textContent: whole(steps), selected: steps === state.steps }));
  }
  for (const hidden of SIZES) {
    const textContent = ["2", ...hidden, "2"].join("–");
    sizeSelect.append(html("option", { textContent, selected: hidden.join() === state.hidden.join() }));
  }
}

function listen(): void {
  listenToPen();
  onClick("#train", () => (isTraining() ? pause() : train()));
  onClick("#restart", () => {
    forget({ seed: state.seed + 1 });
    say("What was learned is forgotten; the next training starts from other weights.");
  });
  onClick("#play", () => setPlaying(!playing));
  undoButton.onclick = () => edit(() => drawing.undo());
  clearButton.onclick = () => edit(() => drawing.clear());
  onClick("#open", () => fileInput.click());
  onClick("#link", () => void copyLink());
  for (const side of SIDES) saveButtons[side].onclick = () => savePoints(side);
  stepsSelect.addEventListener("change", () => {
    keepLink({ steps: STEPS[stepsSelect.selectedIndex] });
    stale.chart = true;
  });
  sizeSelect.addEventListener("change", () => forget({ hidden: SIZES[sizeSelect.selectedIndex] }));
  timeSlider.addEventListener("input", () => {
    setPlaying(false);
    time = Number(timeSlider.value);
    stale.panels = stale.edges = true;
  });
  timeSlider.addEventListener("change", () => keepLink());
  fieldBox.addEventListener("change", () => (stale.panels = true));
  fileInput.addEventListener("change", () => {
    const file = fileInput.files?.[0];
    fileInput.value = "";
    if (file !== undefined) void openFile(file);
  });
  new ResizeObserver(redrawAll).observe(find("main", HTMLElement));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => (stale.panels = true));
}

function start(): void {
  const { trained } = state;
  fillChoices();
  if (isDrawing()) drawing.replace(state.points);
  edges.chosen = state.edge;
  followed = state.edge !== null;
  listen();
  forget();
  requestAnimationFrame(frame);
  if (trained && target !== null) train();
  else say(target === null ? INVITATION : "Train, and both networks learn these points within seconds; or draw your own.");
}

start();
