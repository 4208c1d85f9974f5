/**
 * Densities of points of the plane whose noised versions are known exactly, as
 * kan_diffusion.data.densities has them: curves with Gaussian noise (by quadrature), drawings (a
 * Gaussian brush about each point) and uniform boxes. All are standardised: mean 0, spread 1.
 */

import type { Random } from "../model/random";

export interface Standardizer {
  readonly mean: readonly [number, number];
  readonly scale: readonly [number, number];
}

/** Where a density is e^-40 of its largest value, it ends for float64. */
const DIED_OUT = 40;

export abstract class Density {
  readonly standardizer: Standardizer;
  /** Middles of the components (count, 2), standardised, and logarithms of their weights. */
  protected readonly middles: Float64Array;
  private readonly logWeights: Float64Array;
  private readonly cumulative: Float64Array;

  /**
   * @param middles Means of the components (count, 2) in the data's own units.
   * @param variance Variance of each component, of both coordinates.
   */
  constructor(middles: Float64Array, weights: ArrayLike<number>, variance: number) {
    const total = Array.from(weights).reduce((sum, weight) => sum + weight, 0);
    const shares = Float64Array.from(weights, (weight) => weight / total);
    const moment = (value: (k: number) => number): number => shares.reduce((sum, share, k) => sum + share * value(k), 0);
    const mean = [moment((k) => middles[2 * k]), moment((k) => middles[2 * k + 1])] as const;
    const spread = (d: 0 | 1): number => Math.sqrt(variance + moment((k) => (middles[2 * k + d] - mean[d]) ** 2));
    const scale = [spread(0), spread(1)] as const;
    this.standardizer = { mean, scale };
    this.middles = middles.map((value, n) => (value - mean[n % 2]) / scale[n % 2]);
    this.logWeights = shares.map(Math.log);
    let sum = 0;
    this.cumulative = shares.map((share) => (sum += share));
  }

  /** A standardised point. */
  draw(random: Random): readonly [number, number] {
    const share = random.uniform() * this.cumulative[this.cumulative.length - 1];
    let low = 0;
    let high = this.cumulative.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.cumulative[middle] < share) low = middle + 1;
      else high = middle;
    }
    return [this.middles[2 * low] + this.offset(0, random), this.middles[2 * low + 1] + this.offset(1, random)];
  }

  /** E[x_0 given alpha x_0 + sigma eps = x] of standardised points x (rows, 2). */
  posteriorMean(x: Float64Array, alpha: number, sigma: number): Float64Array {
    const count = this.logWeights.length;
    const shares = new Float64Array(count);
    const means = new Float64Array(2 * count);
    return x.map((_, n) => {
      // Both coordinates of a row are computed at the first.
      if (n % 2 === 0) {
        shares.set(this.logWeights);
        this.condition(x[n], 0, alpha, sigma, shares, means);
        this.condition(x[n + 1], 1, alpha, sigma, shares, means);
        normalise(shares);
      }
      let mean = 0;
      for (let k = 0; k < count; k++) mean += shares[k] * means[2 * k + (n % 2)];
      return mean;
    });
  }

  /** A coordinate of a point relative to the middle of its component. */
  protected abstract offset(d: number, random: Random): number;

  /**
   * Adds to each component's logarithm that of its noised density at one coordinate, up to a constant,
   * and writes the mean of x_0 within the component.
   */
  protected abstract condition(x: number, d: number, alpha: number, sigma: number, logs: Float64Array, means: Float64Array): void;
}

/** Turns logarithms into shares that add up to one. */
function normalise(values: Float64Array): void {
  let largest = -Infinity;
  for (const value of values) if (value > largest) largest = value;
  let total = 0;
  for (let k = 0; k < values.length; k++) {
    values[k] = values[k] < largest - DIED_OUT ? 0 : Math.exp(values[k] - largest);
    total += values[k];
  }
  for (let k = 0; k < values.length; k++) values[k] /= total;
}

/** A mixture of Gaussians of one variance: curves by their quadrature, drawings by their points. */
export class PointMixture extends Density {
  constructor(
    points: Float64Array,
    weights: ArrayLike<number>,
    private readonly spread: number,
  ) {
    super(points, weights, spread ** 2);
  }

  protected override offset(d: number, random: Random): number {
    return (this.spread / this.standardizer.scale[d]) * random.normal();
  }

  protected override condition(x: number, d: number, alpha: number, sigma: number, logs: Float64Array, means: Float64Array): void {
    const variance = (this.spread / this.standardizer.scale[d]) ** 2;
    const noised = alpha ** 2 * variance + sigma ** 2;
    for (let k = 0; k < logs.length; k++) {
      const middle = this.middles[2 * k + d];
      const difference = x - alpha * middle;
      logs[k] -= difference ** 2 / (2 * noised);
      means[2 * k + d] = middle + (alpha * variance * difference) / noised;
    }
  }
}

/** Uniform on squares of one width: the checkerboard. */
export class UniformBoxes extends Density {
  constructor(
    middles: Float64Array,
    private readonly width: number,
  ) {
    super(middles, new Float64Array(middles.length / 2).fill(1), width ** 2 / 12);
  }

  protected override offset(d: number, random: Random): number {
    return (this.width / this.standardizer.scale[d]) * (random.uniform() - 0.5);
  }

  protected override condition(x: number, d: number, alpha: number, sigma: number, logs: Float64Array, means: Float64Array): void {
    const half = this.width / this.standardizer.scale[d] / 2;
    for (let k = 0; k < logs.length; k++) {
      const middle = this.middles[2 * k + d];
      const [log, place] = truncatedNormal((x - alpha * middle) / sigma, (alpha / sigma) * half);
      logs[k] += log;
      means[2 * k + d] = middle - half * place; // noise that points up: x_0 lies below
    }
  }
}

/** Nodes and weights of the Gauss-Legendre rule on [-1, 1], by Newton's method. */
export function gaussLegendre(count: number): readonly [Float64Array, Float64Array] {
  const nodes = new Float64Array(count);
  const weights = new Float64Array(count);
  for (let i = 0; i < count; i++) {
    let x = Math.cos((Math.PI * (i + 0.75)) / (count + 0.5));
    let slope = 0;
    for (let round = 0; round < 100; round++) {
      let before = 1;
      let value = x;
      for (let n = 2; n <= count; n++) [before, value] = [value, ((2 * n - 1) * x * value - (n - 1) * before) / n];
      slope = (count * (x * value - before)) / (x * x - 1);
      const step = value / slope;
      x -= step;
      if (Math.abs(step) < 1e-15) break;
    }
    nodes[count - 1 - i] = x;
    weights[count - 1 - i] = 2 / ((1 - x * x) * slope * slope);
  }
  return [nodes, weights];
}

/** A curve c(u), the ends of u, and the weight of the segment among others (1). */
export type CurveSegment = readonly [curve: (u: number) => readonly [number, number], lower: number, upper: number, weight?: number];

const NODES = 16;
/** Length of a panel of the quadrature at most, in standard deviations of the noise. */
const PANEL_LENGTH = 5;
const MIN_PANELS = 8;
const PIECES = 4096;

/** Points c(u) on curves, u uniform on each segment, plus noise; the integral over u by quadrature. */
export function curveDensity(segments: readonly CurveSegment[], noise: number): PointMixture {
  const [nodes, nodeWeights] = gaussLegendre(NODES);
  const points: number[] = [];
  const weights: number[] = [];
  for (const [curve, lower, upper, weight = 1] of segments) {
    const ends = panelEnds(curve, lower, upper, PANEL_LENGTH * noise);
    for (let panel = 1; panel < ends.length; panel++) {
      const width = ends[panel] - ends[panel - 1];
      nodes.forEach((node, n) => {
        points.push(...curve(ends[panel - 1] + (width * (node + 1)) / 2));
        weights.push((weight * width * nodeWeights[n]) / (upper - lower));
      });
    }
  }
  return new PointMixture(Float64Array.from(points), weights, noise);
}

/** Values of u between which a curve has equal lengths, so long at most. */
function panelEnds(curve: CurveSegment[0], lower: number, upper: number, longest: number): number[] {
  const at = (piece: number): number => lower + ((upper - lower) * piece) / PIECES;
  const lengths = [0];
  for (let n = 1; n <= PIECES; n++) {
    const [a, b] = [curve(at(n - 1)), curve(at(n))];
    lengths.push(lengths[n - 1] + Math.hypot(b[0] - a[0], b[1] - a[1]));
  }
  const length = lengths[PIECES];
  const count = Math.max(MIN_PANELS, Math.ceil(length / longest));
  let piece = 0;
  return Array.from({ length: count + 1 }, (_, panel) => {
    const wanted = (length * panel) / count;
    while (piece < PIECES - 1 && lengths[piece + 1] < wanted) piece++;
    return at(piece + Math.min(1, (wanted - lengths[piece]) / (lengths[piece + 1] - lengths[piece])));
  });
}

const [BOX_NODES, BOX_WEIGHTS] = gaussLegendre(40);
/**
 * A standard normal Z between centre - half and centre + half: the logarithm of its average density
 * there up to a constant, and (E[Z] - centre) / half. By quadrature where the density has not died out.
 */
function truncatedNormal(centre: number, half: number): readonly [number, number] {
  const nearest = Math.min(Math.max(0, centre - half), centre + half);
  const reach = Math.sqrt(nearest ** 2 + 2 * DIED_OUT);
  const low = Math.max(-reach, centre - half);
  const width = Math.min(reach, centre + half) - low;
  let total = 0;
  let first = 0;
  for (let n = 0; n < BOX_NODES.length; n++) {
    const z = low + (width * (BOX_NODES[n] + 1)) / 2;
    const term = Math.exp((nearest ** 2 - z ** 2) / 2) * BOX_WEIGHTS[n];
    total += term;
    first += term * (z - centre);
  }
  return [Math.log((total * width) / half) - nearest ** 2 / 2, first / total / half];
}
