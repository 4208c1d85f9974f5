/** Drawings, links and files: what goes in comes out, and what is wrong is said. */

import { describe, expect, test } from "vitest";
import { BRUSH, decodePoints, Drawing, encodePoints, fitted, MOST_POINTS, parseRows, REACH } from "../src/drawing";
import { openModel, Refusal, saveModel } from "../src/format";
import { floorOn, fixedDraws, lossOn } from "../src/judging";
import { fromHash, START, toHash } from "../src/link";
import { makeDensity } from "../src/messages";
import { Denoiser, kanSettings, matchingMlp, mlpSettings } from "../src/model/denoiser";
import { COSINE, Process } from "../src/model/process";
import { Random } from "../src/model/random";
import { drawBatch, lossAndGradients, Training } from "../src/model/training";
import { digits, ticks } from "../src/view/dom";

const process = new Process(COSINE);

describe("drawing", () => {
  test("a stroke has points at even distances, and a link carries them as they are", () => {
    const drawing = new Drawing();
    drawing.begin([-1, 0.3]);
    drawing.extend([1, 0.3]);
    expect(drawing.size).toBe(80);
    expect(decodePoints(encodePoints(drawing.points))).toEqual(drawing.points);
    drawing.undo();
    expect(drawing.size).toBe(0);
  });

  test("100,000 points are thinned to those it holds, each one of them", () => {
    const many = Array.from({ length: 100_000 }, (_, n) => [Math.cos(n), Math.sin(n)] as const);
    const drawing = new Drawing();
    drawing.replace(many);
    expect(drawing.size).toBe(MOST_POINTS);
    for (const [x, y] of drawing.points) expect(Math.abs(Math.hypot(x, y) - 1)).toBeLessThan(0.005);
    drawing.begin([0, 0]);
    drawing.extend([1, 1]);
    expect(drawing.size).toBe(MOST_POINTS);
  });

  test("rows of a file, with a header and other lines, are fitted into the window", () => {
    const rows = parseRows("x;y\n1000;2\n3000;3\nnothing\n2000;4\n");
    expect(rows).toEqual([[1000, 2], [3000, 3], [2000, 4]]);
    const ends = fitted(rows).map(([x]) => x);
    expect(Math.max(...ends)).toBeCloseTo(0.8 * REACH);
    expect(Math.min(...ends)).toBeCloseTo(-0.8 * REACH);
  });

  test("letters that are no points are refused", () => {
    expect(decodePoints("AAA")).toBeNull();
    expect(decodePoints("AA*A")).toBeNull();
    expect(decodePoints("____")).toBeNull();
    expect(decodePoints("A".repeat(4 * MOST_POINTS + 4))).toBeNull();
  });
});

test("a link keeps the state, and nonsense in it is as at the start", () => {
  const state = { ...START, data: "drawing", points: decodePoints("AAAAB_AB")!, steps: 8000, hidden: [5, 5], seed: 9, time: 3, trained: true, edge: [1, 2, 3] } as const;
  expect(fromHash(toHash(state))).toEqual(state);
  expect(fromHash("#data=x&steps=-1&kan=9&seed=a&time=1e9&edge=1-2&points=%")).toEqual(START);
});

describe("training", () => {
  const density = makeDensity({ toy: "moons" });

  test("lowers the loss towards the floor and not below it", () => {
    const draws = fixedDraws(process, density);
    const floor = floorOn(process, density, draws);
    for (const settings of [kanSettings([5, 5]), mlpSettings([10, 10])]) {
      const denoiser = new Denoiser(settings);
      denoiser.reset(new Random(1));
      const before = lossOn(denoiser, draws);
      const training = new Training(denoiser, { steps: 150, batchSize: 128, learningRate: 0.02, warmupSteps: 10, emaDecay: 0.99 });
      const random = new Random(2);
      for (let n = 0; n < 150; n++) training.take(drawBatch(process, density.draw, 128, random));
      denoiser.parameters.set(training.average);
      const after = lossOn(denoiser, draws);
      expect(after).toBeLessThan(floor + 0.6 * (before - floor));
      expect(after).toBeGreaterThan(floor);
    }
  });

  test("gradients are those of differences", () => {
    const denoiser = new Denoiser({ ...kanSettings([4, 3]), residual: true, scaled_inputs: true });
    denoiser.parameters.set(new Random(3).normals(denoiser.parameters.length).map((v) => 0.3 * v));
    const batch = drawBatch(process, density.draw, 16, new Random(4));
    lossAndGradients(denoiser, batch);
    const gradients = denoiser.gradients.slice();
    for (let n = 0; n < gradients.length; n += 7) {
      const value = denoiser.parameters[n];
      const at = (shift: number): number => {
        denoiser.parameters[n] = value + shift;
        return lossAndGradients(denoiser, batch);
      };
      const difference = (at(1e-5) - at(-1e-5)) / 2e-5;
      denoiser.parameters[n] = value;
      expect(gradients[n]).toBeCloseTo(difference, 6);
    }
  });

  test("sizes of both networks differ by less than two per cent", () => {
    for (const hidden of [[5, 5], [8, 8], [8, 8, 8]]) {
      const wanted = new Denoiser(kanSettings(hidden)).parameters.length;
      const found = new Denoiser(mlpSettings(matchingMlp(wanted, hidden.length + 1))).parameters.length;
      expect(Math.abs(found / wanted - 1)).toBeLessThan(0.02);
    }
  });
});

describe("a saved model", () => {
  const denoiser = new Denoiser(kanSettings([5, 5]));
  denoiser.reset(new Random(5));
  const model = {
    denoiser,
    process: COSINE,
    standardizer: { mean: [0, 1], scale: [1, 2] },
    columns: ["x", "y"],
    data: { toy: null, points: [[0, 0.5]], spread: BRUSH },
  } as const;

  test("is the same when it is opened", () => {
    const again = openModel(saveModel(model));
    expect(saveModel(again)).toBe(saveModel(model));
    expect(again.data).toEqual(model.data);
  });

  test.each([
    [{ version: 2 }, /version 2 .* version 1/],
    [{ format: "x" }, /not a model of this playground/],
    [{ process: { ...COSINE, num_timesteps: 10 } }, /count timesteps differently/],
    [{ process: { ...COSINE, schedule: "other" } }, /does not know its noising process/],
    [{ standardizer: { mean: [0, 0], scale: [0, 1] } }, /standardisation/],
    [{ denoiser: { ...kanSettings([5, 5]), basis: "rbf" } }, /basis = "rbf"/],
    [{ denoiser: { ...kanSettings([5, 5]), hidden: [400, 400] } }, /too large/],
    [{ denoiser: { ...kanSettings([5, 5]), more: 1 } }, /does not know its setting more/],
    [{ denoiser: { ...kanSettings([5, 5]), _class_name: "FormulaDenoiser" } }, /FormulaDenoiser/],
    [{ denoiser: kanSettings([5, 6]) }, /not those of its network/],
    [{ weights: {} }, /not those of its network/],
    [{ data: { points: [[0, "a"]] } }, /data are damaged/],
  ])("is refused with %j", (damage, reason) => {
    const text = JSON.stringify({ ...JSON.parse(saveModel(model)), ...damage });
    expect(() => openModel(text)).toThrow(Refusal);
    expect(() => openModel(text)).toThrow(reason);
  });

  test("is refused when numbers are damaged or no numbers", () => {
    const content = JSON.parse(saveModel(model));
    for (const numbers of ["*", "AAAA", "AADAfwAAwH8AAMB/AADAfwAAwH8="]) {
      content.weights["network.layers.0.bias"].float32 = numbers;
      expect(() => openModel(JSON.stringify(content))).toThrow(/network.layers.0.bias are damaged/);
    }
  });
});

test("ticks are round numbers within the ends", () => {
  expect(ticks(0, 2000, 4)).toEqual([0, 500, 1000, 1500, 2000]);
  expect(ticks(-0.13, 0.31, 5)).toEqual([-0.1, 0, 0.1, 0.2, 0.3]);
  expect(digits(-0.5, 2)).toBe("−0.50");
});
