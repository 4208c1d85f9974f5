/** What is learned: a density, with real points and the values to reach. */

import type { Density, Standardizer } from "./data/densities";
import { type DataSpec, makeDensity } from "./data/toys";
import { ALPHA, SIGMA } from "./model/process";
import { Random } from "./model/random";
import { energyDistance, meanDistance } from "./model/sampling";
import { fixedDraws, floorOn } from "./model/training";

const REFERENCE = 2000;
const REAL_DRAWS = 8;

export class Target {
  readonly standardizer: Standardizer;
  /** Points of the data with ever less of the noise, standardised, as a network's states of the reverse process. */
  readonly states: readonly Float64Array[];
  /** Mean squared error of the exact posterior mean. */
  readonly floor: number;
  /** Mean energy distance of as many real points as are shown: the value to reach. */
  readonly reachable: number;
  private readonly density: Density;
  private readonly reference: Float64Array;
  private readonly within: number;
  private readonly distances = new WeakMap<Float64Array, number>();
  private readonly fields = new Map<number, Float64Array>();

  /**
   * @param noise What is added to the points that are shown (rows, 2).
   * @param timesteps Those of the sampler.
   */
  constructor(data: DataSpec, noise: Float64Array, timesteps: readonly number[]) {
    const count = noise.length / 2;
    const density = (this.density = makeDensity(data));
    const random = new Random(11);
    const draw = (size: number): Float64Array => Float64Array.from(Array.from({ length: size }, () => density.draw(random)).flat());
    this.standardizer = density.standardizer;
    const clean = draw(count);
    this.states = [...timesteps.map((t) => clean.map((x, n) => ALPHA[t] * x + SIGMA[t] * noise[n])), clean];
    this.reference = draw(REFERENCE);
    this.within = meanDistance(this.reference, this.reference);
    const real = Array.from({ length: REAL_DRAWS }, () => this.distanceTo(draw(count)));
    this.reachable = real.reduce((sum, value) => sum + value, 0) / REAL_DRAWS;
    this.floor = floorOn(density, fixedDraws(density));
  }

  /** Energy distance of points (rows, 2) from real ones; that of the same array is computed once. */
  distanceTo(points: Float64Array): number {
    const distance = this.distances.get(points) ?? energyDistance(points, this.reference, this.within);
    this.distances.set(points, distance);
    return distance;
  }

  /** sigma times the exact score at a timestep: the negative noise of the posterior mean, at the same points every time. */
  scoresAt(points: Float64Array, t: number): Float64Array {
    let vectors = this.fields.get(t);
    if (vectors === undefined) {
      const means = this.density.posteriorMean(points, ALPHA[t], SIGMA[t]);
      vectors = means.map((mean, n) => (ALPHA[t] * mean - points[n]) / SIGMA[t]);
      this.fields.set(t, vectors);
    }
    return vectors;
  }
}
