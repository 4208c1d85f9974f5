/** Trains one denoiser, and reports now and then what it has learned. */

import { type DataSpec, makeDensity } from "./data/toys";
import { Denoiser, type DenoiserSettings } from "./model/denoiser";
import { Random } from "./model/random";
import { reverse } from "./model/sampling";
import { drawBatch, fixedDraws, lossOn, Training, type TrainingSettings } from "./model/training";

export interface Order {
  readonly settings: DenoiserSettings;
  readonly training: TrainingSettings;
  readonly data: DataSpec;
  readonly seed: number;
  /** Standard normal noise (rows, 2) from which the shown points start. */
  readonly start: Float64Array;
  readonly samplerSteps: number;
}

/** An order comes first, then whether training is paused. */
export type ToWorker = Order | { readonly paused: boolean };

export interface Progress {
  readonly step: number;
  readonly seconds: number;
  /** Loss of the averaged parameters on the fixed draws. */
  readonly loss: number;
  /** The averaged parameters. */
  readonly parameters: Float64Array;
  /** States of the reverse process from the given noise; null where they were left out this time. */
  readonly states: readonly Float64Array[] | null;
}

export type FromWorker = Progress | { readonly failure: string };

/** Milliseconds between reports, between those with states, and of a stretch of training. */
const REPORT_EVERY = 150;
const STATES_EVERY = 450;
const STRETCH = 40;

let paused = false;
let wake: (() => void) | null = null;

/** Lets waiting messages in, and waits while training is paused. */
async function breathe(): Promise<void> {
  await new Promise((done) => setTimeout(done, 0));
  while (paused) await new Promise<void>((done) => (wake = done));
}

async function train(order: Order): Promise<void> {
  const density = makeDensity(order.data);
  const draws = fixedDraws(density);
  const denoiser = new Denoiser(order.settings);
  denoiser.reset(new Random(order.seed));
  const averaged = new Denoiser(order.settings);
  const training = new Training(denoiser, order.training);
  const batches = new Random(order.seed + 1_000_003); // the same for both networks
  const { steps, batchSize } = order.training;
  let seconds = 0;
  let reported = -Infinity;
  let sampled = -Infinity;

  const report = (): void => {
    const withStates = training.step === steps || performance.now() - sampled >= STATES_EVERY;
    averaged.parameters.set(training.average);
    const progress: Progress = {
      step: training.step,
      seconds,
      loss: lossOn(averaged, draws),
      parameters: training.average.slice(),
      states: withStates ? reverse(averaged, order.start, order.samplerSteps) : null,
    };
    postMessage(progress);
    reported = performance.now();
    if (withStates) sampled = reported;
  };

  report();
  while (training.step < steps) {
    const began = performance.now();
    while (training.step < steps && performance.now() - began < STRETCH) {
      training.take(drawBatch(density, batchSize, batches));
    }
    seconds += (performance.now() - began) / 1000;
    if (training.step === steps || performance.now() - reported >= REPORT_EVERY) report();
    await breathe();
  }
}

onmessage = ({ data }: MessageEvent<ToWorker>): void => {
  if ("paused" in data) {
    paused = data.paused;
    if (!paused) wake?.();
    return;
  }
  train(data).catch((error: unknown) => postMessage({ failure: String(error) } satisfies FromWorker));
};
