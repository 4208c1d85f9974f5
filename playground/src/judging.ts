/** The fixed draws that losses and the floor are measured on, so that their differences say most. */

import type { Density } from "./data/densities";
import type { Network } from "./model/denoiser";
import type { Process } from "./model/process";
import { Random } from "./model/random";
import { type Batch, evenBatch, meanSquare } from "./model/training";

const DRAWS = 1024;
const SEED = 20_240_901;

export const fixedDraws = (process: Process, density: Density): Batch =>
  evenBatch(process, density.draw, DRAWS, new Random(SEED));

export const lossOn = (denoiser: Network, draws: Batch): number =>
  meanSquare(denoiser.forward(draws.noised, draws.timesteps), draws.target);

/** The loss of the exact posterior mean on the draws. */
export function floorOn(process: Process, density: Density, draws: Batch): number {
  const best = new Float64Array(draws.target.length);
  for (let row = 0; row < draws.timesteps.length; row++) {
    const t = draws.timesteps[row];
    const at = draws.noised.subarray(2 * row, 2 * row + 2);
    const mean = density.posteriorMean(at, process.alpha[t], process.sigma[t]);
    const [a, b] = process.meanCoefficients(t);
    best[2 * row] = a * mean[0] + b * at[0];
    best[2 * row + 1] = a * mean[1] + b * at[1];
  }
  return meanSquare(best, draws.target);
}
