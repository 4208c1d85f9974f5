/** Toy densities, in the numbers of kan_diffusion.data.toys. */

import type { Point } from "./csv";
import { type CurveSegment, curveDensity, type Density, PointMixture, UniformBoxes } from "./densities";

const { PI } = Math;
const TURN = 2 * PI;

const polar = (radius: number, angle: number): Point => [radius * Math.cos(angle), radius * Math.sin(angle)];

const circle =
  (radius: number, x = 0, y = 0) =>
  (angle: number): Point => [x + radius * Math.cos(angle), y + radius * Math.sin(angle)];

const range = <T>(count: number, make: (index: number) => T): T[] => Array.from({ length: count }, (_, i) => make(i));

const spiral = (turn: number): CurveSegment => [(u) => polar(Math.sqrt(u), Math.sqrt(u) + turn), (PI / 2) ** 2, (3 * PI) ** 2];
const blade = (arm: number): CurveSegment => [(r) => polar(r, (TURN * arm) / 5 + 0.25 * Math.exp(r)), 0.3, 2];
const upperBow: CurveSegment = [(t) => [Math.sin(t), 1 - Math.cos(t)], -1.5 * PI, 0];
const lowerBow: CurveSegment = [(t) => [Math.sin(t), Math.cos(t) - 1], 0, 1.5 * PI];
const squares = range(16, (n): Point => [Math.floor(n / 4), n % 4])
  .filter(([i, j]) => (i + j) % 2 === 0)
  .map(([i, j]): Point => [2 * i - 3, 2 * j - 3]);
const eight = range(8, (n) => polar(4, (TURN * n) / 8));

const curves = (noise: number, ...segments: CurveSegment[]) => (): Density => curveDensity(segments, noise);
const flat = (points: readonly Point[]): Float64Array => Float64Array.from(points.flat());

export const TOYS = {
  "swiss-roll": { title: "Swiss roll", make: curves(0.2, [(t) => polar(t, t), 1.5 * PI, 4.5 * PI]) },
  moons: { title: "Moons", make: curves(0.1, [circle(1), 0, PI], [circle(1, 1, 0.5), PI, TURN]) },
  circles: { title: "Circles", make: curves(0.08, [circle(1), 0, TURN], [circle(0.5), 0, TURN]) },
  "s-curve": { title: "S curve", make: curves(0.1, upperBow, lowerBow) },
  checkerboard: { title: "Checker\u00adboard", make: () => new UniformBoxes(flat(squares), 2) },
  pinwheel: { title: "Pinwheel", make: curves(0.08, ...range(5, blade)) },
  "two-spirals": { title: "Two spirals", make: curves(0.25, spiral(0), spiral(PI)) },
  rings: { title: "Rings", make: curves(0.12, ...[1, 2, 3, 4].map((radius): CurveSegment => [circle(radius), 0, TURN, radius])) },
  "eight-gaussians": { title: "Eight Gauss\u00adians", make: () => new PointMixture(flat(eight), new Float64Array(8).fill(1), 0.5) },
} as const satisfies Record<string, { title: string; make: () => Density }>;

export type ToyName = keyof typeof TOYS;

/** A toy by name, or points (count, 2) with a Gaussian brush of a standard deviation about each. */
export type DataSpec = { readonly toy: ToyName } | { readonly points: Float64Array; readonly spread: number };

export function makeDensity(data: DataSpec): Density {
  if ("toy" in data) return TOYS[data.toy].make();
  return new PointMixture(data.points, new Float64Array(data.points.length / 2).fill(1), data.spread);
}

export const isToy = (name: string): name is ToyName => Object.hasOwn(TOYS, name);
