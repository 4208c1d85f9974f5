/** The numbers of this page are those of the Python package: fixtures.py wrote what it computes. */

import { describe, expect, test } from "vitest";
import { isToy, TOYS } from "../src/data/toys";
import { openModel, saveModel } from "../src/format";
import { Denoiser } from "../src/model/denoiser";
import { Process, type ProcessSettings } from "../src/model/process";
import { energyDistance, reverse } from "../src/model/sampling";
import { meanSquare } from "../src/model/training";
import denoisers from "./fixtures/denoisers.json";
import processes from "./fixtures/processes.json";
import sampling from "./fixtures/sampling.json";
import toys from "./fixtures/toys.json";

const TOLERANCE = 1e-5;

function expectNear(found: ArrayLike<number>, wanted: readonly number[], tolerance = TOLERANCE): void {
  expect(found.length).toBe(wanted.length);
  const scale = Math.max(1, ...wanted.map(Math.abs));
  wanted.forEach((value, n) => expect(Math.abs(found[n] - value)).toBeLessThan(tolerance * scale));
}

describe.each(denoisers)("$name", (fixture) => {
  const { denoiser } = openModel(JSON.stringify(fixture.saved));
  const points = Float64Array.from(fixture.points);
  const target = Float64Array.from(fixture.target);

  test("outputs and loss", () => {
    const output = denoiser.forward(points, fixture.timesteps);
    expectNear(output, fixture.output);
    expect(meanSquare(output, target)).toBeCloseTo(fixture.loss, 5);
  });

  test.runIf(denoiser instanceof Denoiser)("gradients of the loss", () => {
    if (!(denoiser instanceof Denoiser)) return; // this page trains no gated ones
    const output = denoiser.forward(points, fixture.timesteps);
    denoiser.gradients.fill(0);
    denoiser.backward(output.map((value, n) => (2 * (value - target[n])) / output.length));
    const found = denoiser.gradientDict();
    expect(Object.keys(found).sort()).toEqual(Object.keys(fixture.gradients).sort());
    for (const [name, wanted] of Object.entries(fixture.gradients)) expectNear(found[name].values, wanted);
  });

  test("what Python wrote is written again as it was", () => {
    const model = openModel(JSON.stringify(fixture.saved));
    expect(JSON.parse(saveModel(model))).toEqual(fixture.saved);
  });
});

test.each(processes)("levels of $settings.name", (fixture) => {
  const process = new Process(fixture.settings as ProcessSettings);
  fixture.timesteps.forEach((t, n) => {
    expectNear([process.alpha[t], process.sigma[t]], [fixture.alpha[n], fixture.sigma[n]]);
    expectNear(process.noiseCoefficients(t), [fixture.a[n], fixture.b[n]]);
  });
});

test.each(processes)("clean points, noise and prediction of $settings.name agree", (fixture) => {
  const process = new Process(fixture.settings as ProcessSettings);
  for (const t of fixture.timesteps) {
    const [clean, eps] = [0.7, -1.3];
    const [p, q] = process.pair(t);
    const noised = process.alpha[t] * clean + process.sigma[t] * eps;
    const prediction = p * eps - q * clean;
    const mix = ([a, b]: readonly [number, number], value: number): number => a * value + b * noised;
    expect(mix(process.cleanCoefficients(t), prediction)).toBeCloseTo(clean, 6);
    expect(mix(process.noiseCoefficients(t), prediction)).toBeCloseTo(eps, 6);
    expect(mix(process.meanCoefficients(t), clean)).toBeCloseTo(prediction, 6);
  }
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
  const { denoiser, process } = openModel(JSON.stringify(sampling.saved));
  const states = reverse(
    new Process(process),
    (points, t) => denoiser.forward(points, new Int32Array(points.length / 2).fill(t)),
    Float64Array.from(sampling.start),
    sampling.steps,
  );
  expect(states.length).toBe(sampling.states.length + 1);
  sampling.states.slice(0, -1).forEach((wanted, n) => expectNear(states[n + 1], wanted, 1e-4));
});

test("energy distance", () => {
  expect(energyDistance(Float64Array.from(sampling.x), Float64Array.from(sampling.y))).toBeCloseTo(sampling.energy_distance, 9);
});
