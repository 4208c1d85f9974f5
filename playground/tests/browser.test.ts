/**
 * A model that this page trained and saved, for the tests of the Python package: what its network
 * gives here, it must give there. `make playground-test FIXTURES=1` writes it again.
 */

import { readFileSync, writeFileSync } from "node:fs";
import { expect, test } from "vitest";
import { openModel } from "../src/format";
import { Random } from "../src/model/random";

const place = (name: string): URL => new URL(`./fixtures/${name}`, import.meta.url);

test("outputs of the saved model", () => {
  const { denoiser } = openModel(readFileSync(place("browser-model.json"), "utf8"));
  const random = new Random(1);
  const points = Array.from({ length: 20 }, () => [2 * random.normal(), 2 * random.normal()]);
  const timesteps = points.map(() => random.below(1000));
  const output = denoiser.forward(Float64Array.from(points.flat()), timesteps);
  const found = { points, timesteps, output: points.map((_, n) => [output[2 * n], output[2 * n + 1]]) };
  if (process.env["FIXTURES"] !== undefined) writeFileSync(place("browser.json"), `${JSON.stringify(found)}\n`);
  const kept = JSON.parse(readFileSync(place("browser.json"), "utf8")) as typeof found;
  expect(kept.points).toEqual(found.points);
  expect(kept.timesteps).toEqual(found.timesteps);
  kept.output.flat().forEach((value, n) => expect(output[n]).toBeCloseTo(value, 9));
});
