/** Drawings, links and training: what goes in comes out, and what is wrong is left out. */

import { readdirSync, readFileSync, statSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { decodePoints, Drawing, encodePoints, fitted, MOST_POINTS, REACH } from "../src/data/drawing";
import { TOYS } from "../src/data/toys";
import { fromHash, SIZES, START, toHash } from "../src/link";
import { Denoiser, type DenoiserSettings, matchingMlp, numParametersOf } from "../src/model/denoiser";
import { Random } from "../src/model/random";
import { fixedDraws, floorOn, lossOn, Training } from "../src/model/training";
import { digits, ticks } from "../src/view/dom";

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

  test("points of any units are fitted into the window", () => {
    const ends = fitted([[1000, 2], [3000, 3], [2000, 4]]).map(([x]) => x);
    expect(Math.max(...ends)).toBeCloseTo(0.8 * REACH);
    expect(Math.min(...ends)).toBeCloseTo(-0.8 * REACH);
  });

  test("letters that are no points are refused", () => {
    expect(decodePoints("000")).toBeNull();
    expect(decodePoints("00*0")).toBeNull();
    expect(decodePoints("zz00")).toBeNull();
    expect(decodePoints("0".repeat(4 * MOST_POINTS + 4))).toBeNull();
  });
});

test("a link keeps the state, and nonsense in it is as at the start", () => {
  const state = { ...START, data: "drawing", points: decodePoints("0000f1a9")!, steps: 8000, hidden: [5, 5], seed: 9, time: 3, trained: true, edge: [1, 2, 3] } as const;
  expect(fromHash(toHash(state))).toEqual(state);
  expect(fromHash("#data=x&steps=-1&kan=9&seed=a&time=1e9&edge=1-2&points=%")).toEqual(START);
});

describe("training", () => {
  const density = TOYS.moons.make();
  const kinds: DenoiserSettings[] = [{ kind: "kan", hidden: [5, 5] }, { kind: "mlp", hidden: [10, 10] }];

  test.each(kinds)("of a $kind lowers the loss towards the floor and not below it", (settings) => {
    const draws = fixedDraws(density);
    const floor = floorOn(density, draws);
    const denoiser = new Denoiser(settings);
    denoiser.reset(new Random(1));
    const before = lossOn(denoiser, draws);
    const training = new Training(denoiser, 150, 0.02);
    const random = new Random(2);
    for (let n = 0; n < 150; n++) training.take(density, random);
    denoiser.parameters.set(training.average);
    const after = lossOn(denoiser, draws);
    expect(after).toBeLessThan(floor + 0.6 * (before - floor));
    expect(after).toBeGreaterThan(floor);
  });

  test("an edge, its unit's weights and the layer agree", () => {
    const [layer] = new Denoiser({ kind: "kan", hidden: [4] }).layers;
    layer.weight.set(new Random(5).normals(layer.weight.length));
    for (const x of [-5, -3, -0.1, 0.75, 3, 4]) {
      const output = layer.forward(Float64Array.of(x, 0.2));
      for (let o = 0; o < 4; o++) expect(layer.edge(0, o, x) + layer.edge(1, o, 0.2)).toBeCloseTo(output[o], 9);
    }
  });

  test.each(SIZES)("sizes of both networks differ by less than two per cent beside %j", (...hidden) => {
    const wanted = numParametersOf({ kind: "kan", hidden });
    const count = numParametersOf({ kind: "mlp", hidden: matchingMlp(wanted, hidden.length + 1) });
    expect(Math.abs(count / wanted - 1)).toBeLessThan(0.02);
  });
});

test("ticks are round numbers within the ends", () => {
  expect(ticks(0, 2000, 4)).toEqual([0, 500, 1000, 1500, 2000]);
  expect(ticks(-0.13, 0.31, 5)).toEqual([-0.1, 0, 0.1, 0.2, 0.3]);
  expect(digits(-0.5, 2)).toBe("−0.50");
});

test("all files together have less than 85 kB", () => {
  const sizes = readdirSync("dist").map((name) => statSync(`dist/${name}`).size);
  expect(sizes.reduce((sum, size) => sum + size, 0)).toBeLessThan(85_000);
});

describe("texts are read by contrasts of 4.5 or more (WCAG 2)", () => {
  const pairs = [...readFileSync("src/style.css", "utf8").matchAll(/--([a-z-]+): (#[0-9a-f]{6});/g)].map(([, name, colour]) => [name, colour]);
  const [light, dark] = [pairs.slice(0, pairs.length / 2), pairs.slice(pairs.length / 2)].map((half) => Object.fromEntries(half));
  const luminance = (colour: string): number =>
    [0.2126, 0.7152, 0.0722].reduce((sum, weight, n) => {
      const value = parseInt(colour.slice(1 + 2 * n, 3 + 2 * n), 16) / 255;
      return sum + weight * (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
    }, 0);

  test.each([["light", light], ["dark", dark]])("in the %s", (_, palette) => {
    for (const text of ["ink", "muted", "kan-text", "mlp-text"]) {
      for (const ground of ["paper", "raised"]) {
        const [low, high] = [luminance(palette[text]), luminance(palette[ground])].sort((a, b) => a - b);
        expect((high + 0.05) / (low + 0.05), `${text} on ${ground}`).toBeGreaterThanOrEqual(4.5);
      }
    }
  });
});
