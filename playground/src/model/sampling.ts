/** The deterministic reverse process (DDIM; for flow matching Euler's method). */

import type { Process } from "./process";

/** Predictions (rows, 2) for points (rows, 2) at one timestep. */
export type Predict = (points: Float64Array, timestep: number) => Float64Array;

/** Timesteps of the states that reverse returns: each but the last, which has no noise. */
export function reverseTimesteps(process: Process, steps: number): number[] {
  return process.timesteps(steps);
}

/**
 * States (steps + 1 of (rows, 2)) from noise to points.
 *
 * @param start Standard normal noise (rows, 2).
 */
export function reverse(process: Process, predict: Predict, start: Float64Array, steps: number): Float64Array[] {
  const timesteps = reverseTimesteps(process, steps);
  const states = [start];
  let x = start;
  timesteps.forEach((t, index) => {
    const prediction = predict(x, t);
    const [ca, cb] = process.cleanCoefficients(t);
    const [na, nb] = process.noiseCoefficients(t);
    const last = index + 1 === timesteps.length;
    const alpha = last ? 1 : process.alpha[timesteps[index + 1]];
    const sigma = last ? 0 : process.sigma[timesteps[index + 1]];
    const next = new Float64Array(x.length);
    for (let n = 0; n < x.length; n++) {
      const clean = ca * prediction[n] + cb * x[n];
      const eps = na * prediction[n] + nb * x[n];
      next[n] = alpha * clean + sigma * eps;
    }
    states.push(next);
    x = next;
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
