/** Toy densities, in the numbers of kan_diffusion.data.toys. */

import type { Point } from "./csv";
import { type CurveSegment, curveDensity, type Density, PointMixture, UniformBoxes } from "./densities";

const circle =
  (radius: number, centre: Point = [0, 0]) =>
  (angle: number): Point => [centre[0] + radius * Math.cos(angle), centre[1] + radius * Math.sin(angle)];

const polar = (radius: number, angle: number): Point => [radius * Math.cos(angle), radius * Math.sin(angle)];

const range = <T>(count: number, make: (index: number) => T): T[] => Array.from({ length: count }, (_, i) => make(i));

const { PI } = Math;

function checkerboard(): UniformBoxes {
  const middles = range(16, (n): Point => [Math.floor(n / 4), n % 4])
    .filter(([i, j]) => (i + j) % 2 === 0)
    .map(([i, j]): Point => [-3 + 2 * i, -3 + 2 * j]);
  return new UniformBoxes(middles, 2);
}

function eightGaussians(): PointMixture {
  const centres = range(8, (n) => circle(4)((2 * PI * n) / 8)).flat();
  return new PointMixture(Float64Array.from(centres), Array<number>(8).fill(1), 0.5);
}

export interface Toy {
  readonly title: string;
  readonly make: () => Density;
}

const curves = (noise: number, ...segments: CurveSegment[]) => (): Density => curveDensity(segments, noise);

export const TOYS = {
  "swiss-roll": {
    title: "Swiss roll",
    make: curves(0.2, { curve: (t) => polar(t, t), lower: 1.5 * PI, upper: 4.5 * PI }),
  },
  moons: {
    title: "Moons",
    make: curves(
      0.1,
      { curve: circle(1), lower: 0, upper: PI },
      { curve: circle(1, [1, 0.5]), lower: PI, upper: 2 * PI },
    ),
  },
  circles: {
    title: "Circles",
    make: curves(
      0.08,
      { curve: circle(1), lower: 0, upper: 2 * PI },
      { curve: circle(0.5), lower: 0, upper: 2 * PI },
    ),
  },
  "s-curve": {
    title: "S curve",
    make: curves(
      0.1,
      { curve: (t) => [Math.sin(t), 1 - Math.cos(t)], lower: -1.5 * PI, upper: 0 },
      { curve: (t) => [Math.sin(t), Math.cos(t) - 1], lower: 0, upper: 1.5 * PI },
    ),
  },
  checkerboard: { title: "Checker\u00adboard", make: checkerboard },
  pinwheel: {
    title: "Pinwheel",
    make: curves(
      0.08,
      ...range(5, (arm): CurveSegment => ({
        curve: (r) => polar(r, (2 * PI * arm) / 5 + 0.25 * Math.exp(r)),
        lower: 0.3,
        upper: 2,
      })),
    ),
  },
  "two-spirals": {
    title: "Two spirals",
    make: curves(
      0.25,
      ...[0, PI].map((turn): CurveSegment => ({
        curve: (u) => polar(Math.sqrt(u), Math.sqrt(u) + turn),
        lower: (PI / 2) ** 2,
        upper: (3 * PI) ** 2,
      })),
    ),
  },
  rings: {
    title: "Rings",
    make: curves(
      0.12,
      ...[1, 2, 3, 4].map((radius): CurveSegment => ({ curve: circle(radius), lower: 0, upper: 2 * PI, weight: radius })),
    ),
  },
  "eight-gaussians": { title: "Eight Gauss\u00adians", make: eightGaussians },
} as const satisfies Record<string, Toy>;

export type ToyName = keyof typeof TOYS;

/** A toy by name, or points (count, 2) with a Gaussian brush of a standard deviation about each. */
export type DataSpec = { readonly toy: ToyName } | { readonly points: Float64Array; readonly spread: number };

export function makeDensity(data: DataSpec): Density {
  if ("toy" in data) return TOYS[data.toy].make();
  return new PointMixture(data.points, new Float64Array(data.points.length / 2).fill(1), data.spread);
}

export const isToy = (name: string): name is ToyName => Object.hasOwn(TOYS, name);
