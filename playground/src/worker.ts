/** Trains one denoiser for a while whenever it is asked to, and reports what it has learned. */

import { type DataSpec, makeDensity } from "./data/toys";
import { Denoiser, type DenoiserSettings } from "./model/denoiser";
import { Random } from "./model/random";
import { reverse } from "./model/sampling";
import { fixedDraws, lossOn, Training } from "./model/training";

export interface Order {
  readonly settings: DenoiserSettings;
  readonly steps: number;
  readonly learningRate: number;
  readonly data: DataSpec;
  readonly seed: number;
  /** Standard normal noise (rows, 2) from which the shown points start. */
  readonly start: Float64Array;
  readonly samplerSteps: number;
}

export interface Report {
  readonly step: number;
  /** Seconds of training alone. */
  readonly seconds: number;
  /** Loss of the averaged parameters on the fixed draws. */
  readonly loss: number;
  /** The averaged parameters. */
  readonly parameters: Float64Array;
  /** States of the reverse process from the given noise; null where they were left out this time. */
  readonly states: readonly Float64Array[] | null;
}

/** Milliseconds of training between two reports; every third one has states. */
const STRETCH = 130;
const STATES_EVERY = 3;

function* train(order: Order): Generator<Report> {
  const density = makeDensity(order.data);
  const draws = fixedDraws(density);
  const denoiser = new Denoiser(order.settings);
  denoiser.reset(new Random(order.seed));
  const averaged = new Denoiser(order.settings);
  const training = new Training(denoiser, order.steps, order.learningRate);
  const batches = new Random(order.seed + 1_000_003); // the same for both networks
  const { steps } = order;
  let seconds = 0;
  for (let reports = 0; ; reports++) {
    averaged.parameters.set(training.average);
    const isDone = training.step === steps;
    yield {
      step: training.step,
      seconds,
      loss: lossOn(averaged, draws),
      parameters: training.average.slice(),
      states: isDone || reports % STATES_EVERY === 0 ? reverse(averaged, order.start, order.samplerSteps) : null,
    };
    if (isDone) return;
    const began = performance.now();
    while (training.step < steps && performance.now() - began < STRETCH) training.take(density, batches);
    seconds += (performance.now() - began) / 1000;
  }
}

let reports: Generator<Report> | null = null;

/** An order comes first; each later message, of null, asks to go on. */
onmessage = ({ data }: MessageEvent<Order | null>): void => {
  reports = data === null ? reports : train(data);
  const report = reports?.next();
  if (report?.done === false) postMessage(report.value);
};
