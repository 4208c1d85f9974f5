/**
 * A training step, as kan_diffusion.training has it: the gradient clipped to a norm of 1, Adam, a
 * learning rate that warms up and decays by a cosine, and a moving average of the parameters.
 */

import { Denoiser } from "./denoiser";
import type { Process } from "./process";
import type { Random } from "./random";

export interface TrainingSettings {
  readonly steps: number;
  readonly batchSize: number;
  readonly learningRate: number;
  readonly warmupSteps: number;
  readonly emaDecay: number;
}

/** Clean points, timesteps and noise of a batch, noised, with what should be predicted. */
export interface Batch {
  readonly noised: Float64Array;
  readonly timesteps: Int32Array;
  readonly target: Float64Array;
  readonly clean: Float64Array;
}

export function noise(process: Process, clean: Float64Array, timesteps: Int32Array, eps: Float64Array): Batch {
  const noised = new Float64Array(clean.length);
  const target = new Float64Array(clean.length);
  for (let row = 0; row < timesteps.length; row++) {
    const t = timesteps[row];
    const [p, q] = process.pair(t);
    for (let n = 2 * row; n < 2 * row + 2; n++) {
      noised[n] = process.alpha[t] * clean[n] + process.sigma[t] * eps[n];
      target[n] = p * eps[n] - q * clean[n];
    }
  }
  return { noised, timesteps, target, clean };
}

/** A batch of fresh draws. */
export function drawBatch(process: Process, draw: (random: Random) => readonly [number, number], size: number, random: Random): Batch {
  const clean = new Float64Array(2 * size);
  const timesteps = new Int32Array(size);
  for (let row = 0; row < size; row++) {
    [clean[2 * row], clean[2 * row + 1]] = draw(random);
    timesteps[row] = random.below(process.numTimesteps);
  }
  return noise(process, clean, timesteps, random.normals(2 * size));
}

/** A batch whose timesteps are spread evenly over the process: for judging. */
export function evenBatch(process: Process, draw: (random: Random) => readonly [number, number], size: number, random: Random): Batch {
  const clean = new Float64Array(2 * size);
  const timesteps = new Int32Array(size);
  for (let row = 0; row < size; row++) {
    [clean[2 * row], clean[2 * row + 1]] = draw(random);
    timesteps[row] = Math.floor(((row + 0.5) * process.numTimesteps) / size);
  }
  return noise(process, clean, timesteps, random.normals(2 * size));
}

/** Mean squared error of predictions, over all coordinates. */
export function meanSquare(prediction: Float64Array, target: Float64Array): number {
  let sum = 0;
  for (let n = 0; n < target.length; n++) sum += (prediction[n] - target[n]) ** 2;
  return sum / target.length;
}

/** The loss of a batch; the gradients of the parameters are left in the denoiser. */
export function lossAndGradients(denoiser: Denoiser, batch: Batch): number {
  const prediction = denoiser.forward(batch.noised, batch.timesteps);
  const loss = meanSquare(prediction, batch.target);
  const gradient = prediction; // overwritten
  for (let n = 0; n < gradient.length; n++) gradient[n] = (2 * (gradient[n] - batch.target[n])) / gradient.length;
  denoiser.gradients.fill(0);
  denoiser.backward(gradient);
  return loss;
}

const BETA_1 = 0.9;
const BETA_2 = 0.999;
const EPSILON = 1e-8;

export class Training {
  step = 0;
  /** The moving average of the parameters: what is kept. */
  readonly average: Float64Array;
  private readonly first: Float64Array;
  private readonly second: Float64Array;

  constructor(
    readonly denoiser: Denoiser,
    readonly settings: TrainingSettings,
  ) {
    const count = denoiser.parameters.length;
    this.average = denoiser.parameters.slice();
    this.first = new Float64Array(count);
    this.second = new Float64Array(count);
  }

  learningRate(step: number): number {
    const { steps, warmupSteps, learningRate } = this.settings;
    if (step < warmupSteps) return (learningRate * step) / Math.max(1, warmupSteps);
    const share = (step - warmupSteps) / Math.max(1, steps - warmupSteps);
    return (learningRate * (1 + Math.cos(Math.PI * Math.min(share, 1)))) / 2;
  }

  /** Takes one step and returns the loss before it. */
  take(batch: Batch): number {
    const { denoiser, first, second, average } = this;
    const { parameters, gradients } = denoiser;
    const loss = lossAndGradients(denoiser, batch);
    let norm = 0;
    for (let n = 0; n < gradients.length; n++) norm += gradients[n] ** 2;
    norm = Math.sqrt(norm);
    const clip = norm > 1 ? 1 / norm : 1;
    const rate = this.learningRate(this.step);
    const decay = this.step === 0 ? 0 : Math.min(this.settings.emaDecay, (1 + this.step) / (10 + this.step));
    this.step++;
    const unbias1 = 1 - BETA_1 ** this.step;
    const unbias2 = 1 - BETA_2 ** this.step;
    for (let n = 0; n < parameters.length; n++) {
      const g = gradients[n] * clip;
      first[n] = BETA_1 * first[n] + (1 - BETA_1) * g;
      second[n] = BETA_2 * second[n] + (1 - BETA_2) * g * g;
      parameters[n] -= (rate * (first[n] / unbias1)) / (Math.sqrt(second[n] / unbias2) + EPSILON);
      average[n] = decay * average[n] + (1 - decay) * parameters[n];
    }
    return loss;
  }
}
