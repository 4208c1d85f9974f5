/**
 * A training step, as kan_diffusion.training has it: the gradient clipped to a norm of 1, Adam, a
 * learning rate that warms up and decays by a cosine, and a moving average of the parameters.
 */

import type { Density } from "../data/densities";
import type { Denoiser } from "./denoiser";
import { ALPHA, NUM_TIMESTEPS, SIGMA } from "./process";
import { Random } from "./random";

/** Noised points, their timesteps, and what should be predicted. */
export interface Batch {
  readonly noised: Float64Array;
  readonly timesteps: Int32Array;
  readonly target: Float64Array;
}

/**
 * A batch of fresh draws.
 *
 * @param timestepOf The timestep of a row.
 */
export function drawBatch(density: Density, size: number, random: Random, timestepOf = (_row: number): number => random.below(NUM_TIMESTEPS)): Batch {
  const clean = new Float64Array(2 * size);
  const timesteps = new Int32Array(size);
  for (let row = 0; row < size; row++) {
    [clean[2 * row], clean[2 * row + 1]] = density.draw(random);
    timesteps[row] = timestepOf(row);
  }
  const eps = random.normals(2 * size);
  const noised = new Float64Array(2 * size);
  const target = new Float64Array(2 * size);
  for (let n = 0; n < clean.length; n++) {
    const t = timesteps[n >> 1];
    noised[n] = ALPHA[t] * clean[n] + SIGMA[t] * eps[n];
    target[n] = ALPHA[t] * eps[n] - SIGMA[t] * clean[n];
  }
  return { noised, timesteps, target };
}

const JUDGING_DRAWS = 1024;
const JUDGING_SEED = 20_240_901;

/** Fixed draws, spread evenly over the timesteps: losses and the floor are measured on the same ones. */
export const fixedDraws = (density: Density): Batch =>
  drawBatch(density, JUDGING_DRAWS, new Random(JUDGING_SEED), (row) => Math.floor(((row + 0.5) * NUM_TIMESTEPS) / JUDGING_DRAWS));

/** Mean squared error of predictions, over all coordinates. */
export function meanSquare(prediction: Float64Array, target: Float64Array): number {
  let sum = 0;
  for (let n = 0; n < target.length; n++) sum += (prediction[n] - target[n]) ** 2;
  return sum / target.length;
}

export const lossOn = (denoiser: Denoiser, draws: Batch): number =>
  meanSquare(denoiser.forward(draws.noised, draws.timesteps), draws.target);

/** The loss of the exact posterior mean of x_0, whose velocity is (alpha x_t - mean) / sigma. */
export function floorOn(density: Density, draws: Batch): number {
  const { noised, timesteps, target } = draws;
  const best = new Float64Array(target.length);
  timesteps.forEach((t, row) => {
    const mean = density.posteriorMean(noised.subarray(2 * row, 2 * row + 2), ALPHA[t], SIGMA[t]);
    for (let d = 0; d < 2; d++) best[2 * row + d] = (ALPHA[t] * noised[2 * row + d] - mean[d]) / SIGMA[t];
  });
  return meanSquare(best, target);
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

const BATCH_SIZE = 256;
const WARMUP_STEPS = 50;
const EMA_DECAY = 0.995;
const [BETA_1, BETA_2, EPSILON] = [0.9, 0.999, 1e-8];

export class Training {
  step = 0;
  /** The moving average of the parameters: what is kept. */
  readonly average: Float64Array;
  private readonly first: Float64Array;
  private readonly second: Float64Array;

  /** @param peak Largest learning rate. */
  constructor(
    private readonly denoiser: Denoiser,
    private readonly steps: number,
    private readonly peak: number,
  ) {
    this.average = denoiser.parameters.slice();
    this.first = new Float64Array(this.average.length);
    this.second = new Float64Array(this.average.length);
  }

  private learningRate(): number {
    const { step, steps, peak } = this;
    const warmup = Math.min(WARMUP_STEPS, steps / 10);
    if (step < warmup) return (peak * step) / warmup;
    return (peak * (1 + Math.cos((Math.PI * (step - warmup)) / (steps - warmup)))) / 2;
  }

  /** Takes one step on fresh draws. */
  take(density: Density, random: Random): void {
    const { denoiser, first, second, average } = this;
    const { parameters, gradients } = denoiser;
    lossAndGradients(denoiser, drawBatch(density, BATCH_SIZE, random));
    const norm = Math.sqrt(gradients.reduce((sum, g) => sum + g * g, 0));
    const clip = norm > 1 ? 1 / norm : 1;
    const rate = this.learningRate();
    const decay = this.step === 0 ? 0 : Math.min(EMA_DECAY, (1 + this.step) / (10 + this.step));
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
  }
}
