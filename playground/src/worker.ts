/** Trains one denoiser and tells now and then how far it is. */

import { fixedDraws, lossOn } from "./judging";
import { type FromWorker, makeDensity, type ToWorker } from "./messages";
import { Denoiser } from "./model/denoiser";
import { COSINE, Process } from "./model/process";
import { Random } from "./model/random";
import { reverse } from "./model/sampling";
import { drawBatch, Training } from "./model/training";

const TELL_EVERY = 150;
const STATES_EVERY = 450;
const SLICE = 40;

let paused = false;
let wake: (() => void) | null = null;

const tell = (message: FromWorker): void => postMessage(message);

/** Lets waiting messages in, and waits while training is paused. */
async function breathe(): Promise<void> {
  await new Promise((done) => setTimeout(done, 0));
  while (paused) await new Promise<void>((done) => (wake = done));
}

async function train(order: Extract<ToWorker, { type: "start" }>): Promise<void> {
  const process = new Process({ ...COSINE, num_timesteps: order.settings.num_train_timesteps });
  const density = makeDensity(order.data);
  const draws = fixedDraws(process, density);
  const denoiser = new Denoiser(order.settings);
  denoiser.reset(new Random(order.seed));
  const shown = new Denoiser(order.settings);
  const training = new Training(denoiser, order.training);
  const batches = new Random(order.seed + 1_000_003); // the same for both networks
  const { steps } = order.training;
  let seconds = 0;
  let told = -Infinity;
  let sampled = -Infinity;

  const report = (): void => {
    const now = performance.now();
    const done = training.step === steps;
    const withStates = done || now - sampled >= STATES_EVERY;
    shown.parameters.set(training.average);
    const predict = (points: Float64Array, t: number): Float64Array =>
      shown.forward(points, new Int32Array(points.length / 2).fill(t));
    tell({
      type: "progress",
      step: training.step,
      steps,
      seconds,
      loss: lossOn(shown, draws),
      parameters: training.average.slice(),
      states: withStates ? reverse(process, predict, order.start, order.samplerSteps) : null,
    });
    told = performance.now();
    if (withStates) sampled = told;
  };

  report();
  while (training.step < steps) {
    const begun = performance.now();
    while (training.step < steps && performance.now() - begun < SLICE) {
      training.take(drawBatch(process, density.draw, order.training.batchSize, batches));
    }
    seconds += (performance.now() - begun) / 1000;
    if (training.step === steps || performance.now() - told >= TELL_EVERY) report();
    await breathe();
  }
}

onmessage = ({ data }: MessageEvent<ToWorker>): void => {
  if (data.type === "start") {
    train(data).catch((error: unknown) => tell({ type: "failed", reason: String(error) }));
    return;
  }
  paused = data.type === "pause";
  if (!paused) wake?.();
};
