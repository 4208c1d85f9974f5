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

/** Energy distance 2 E|x - y| - E|x - x'| - E|y - y'| of two sets of points of the plane (V-statistic). */
export function energyDistance(x: Float64Array, y: Float64Array): number {
  const mean = (a: Float64Array, b: Float64Array): number => {
    let sum = 0;
    for (let i = 0; i < a.length; i += 2) {
      for (let j = 0; j < b.length; j += 2) sum += Math.hypot(a[i] - b[j], a[i + 1] - b[j + 1]);
    }
    return sum / ((a.length / 2) * (b.length / 2));
  };
  return Math.max(0, 2 * mean(x, y) - mean(x, x) - mean(y, y));
}
