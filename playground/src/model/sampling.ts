/** The deterministic reverse process (DDIM, Song et al. 2021), and distances between samples. */

import type { Denoiser } from "./denoiser";
import { ALPHA, SIGMA, samplerTimesteps } from "./process";

/**
 * States (steps + 1 of (rows, 2)) from noise to points.
 *
 * @param start Standard normal noise (rows, 2).
 */
export function reverse(denoiser: Denoiser, start: Float64Array, steps: number): Float64Array[] {
  const timesteps = samplerTimesteps(steps);
  const states = [start];
  timesteps.forEach((t, index) => {
    const x = states[index];
    const velocity = denoiser.at(x, t);
    const next = timesteps[index + 1];
    const [alpha, sigma] = next === undefined ? [1, 0] : [ALPHA[next], SIGMA[next]];
    states.push(
      x.map((value, n) => {
        const clean = ALPHA[t] * value - SIGMA[t] * velocity[n];
        const eps = SIGMA[t] * value + ALPHA[t] * velocity[n];
        return alpha * clean + sigma * eps;
      }),
    );
  });
  return states;
}

/** Mean distance between points of the plane, E|x - y|. */
export function meanDistance(x: Float64Array, y: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < x.length; i += 2) {
    for (let j = 0; j < y.length; j += 2) {
      const dx = x[i] - y[j];
      const dy = x[i + 1] - y[j + 1];
      sum += Math.sqrt(dx * dx + dy * dy);
    }
  }
  return sum / ((x.length / 2) * (y.length / 2));
}

/**
 * Energy distance 2 E|x - y| - E|x - x'| - E|y - y'| of two sets of points (V-statistic).
 *
 * @param within E|y - y'|, where it is known.
 */
export function energyDistance(x: Float64Array, y: Float64Array, within = meanDistance(y, y)): number {
  return Math.max(0, 2 * meanDistance(x, y) - meanDistance(x, x) - within);
}
