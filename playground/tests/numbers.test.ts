/** The numbers of this page are those of the Python package: fixtures.py wrote what it computes. */

import { expect, test } from "vitest";
import { isToy, TOYS } from "../src/data/toys";
import { Denoiser, type DenoiserSettings } from "../src/model/denoiser";
import { ALPHA, SIGMA } from "../src/model/process";
import { energyDistance, reverse } from "../src/model/sampling";
import { lossAndGradients } from "../src/model/training";
import { denoisers, process, sampling, toys } from "./fixtures.json";

const TOLERANCE = 1e-5;

function expectNear(actual: ArrayLike<number>, expected: readonly number[], tolerance = TOLERANCE): void {
  expect(actual.length).toBe(expected.length);
  const scale = Math.max(1, ...expected.map(Math.abs));
  expected.forEach((value, n) => expect(Math.abs(actual[n] - value)).toBeLessThan(tolerance * scale));
}

function denoiserOf(fixture: { settings: object; parameters: readonly number[] }): Denoiser {
  const denoiser = new Denoiser(fixture.settings as DenoiserSettings);
  expect(denoiser.parameters.length).toBe(fixture.parameters.length);
  denoiser.parameters.set(fixture.parameters);
  return denoiser;
}

test.each(denoisers)("outputs, loss and gradients of a $settings.kind", (fixture) => {
  const denoiser = denoiserOf(fixture);
  const noised = Float64Array.from(fixture.points);
  const timesteps = Int32Array.from(fixture.timesteps);
  expectNear(denoiser.forward(noised, timesteps), fixture.output);
  expect(lossAndGradients(denoiser, { noised, timesteps, target: Float64Array.from(fixture.target) })).toBeCloseTo(fixture.loss, 5);
  expectNear(denoiser.gradients, fixture.gradients);
});

test("levels of the process", () => {
  expectNear(process.timesteps.map((t) => ALPHA[t]), process.alpha);
  expectNear(process.timesteps.map((t) => SIGMA[t]), process.sigma);
});

test.each(Object.entries(toys))("posterior mean of %s", (name, fixture) => {
  if (!isToy(name)) throw new Error(`${name} is no toy`);
  const density = TOYS[name].make();
  expectNear(density.standardizer.mean, fixture.mean, 1e-9);
  expectNear(density.standardizer.scale, fixture.scale, 1e-9);
  for (const { alpha, sigma, points, means } of fixture.levels) {
    expectNear(density.posteriorMean(Float64Array.from(points), alpha, sigma), means, 1e-7);
  }
});

test("the reverse process follows diffusers' DDIM", () => {
  const numSteps = sampling.states.length;
  const states = reverse(denoiserOf(sampling), Float64Array.from(sampling.start), numSteps);
  expect(states.length).toBe(numSteps + 1);
  // The last state of diffusers keeps the noise of timestep 0; here it has none.
  sampling.states.slice(0, -1).forEach((expected, n) => expectNear(states[n + 1], expected, 1e-4));
});

test("energy distance", () => {
  expect(energyDistance(Float64Array.from(sampling.x), Float64Array.from(sampling.y))).toBeCloseTo(sampling.energy_distance, 9);
});
