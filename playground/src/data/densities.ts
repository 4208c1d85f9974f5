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

export interface Density {
  readonly standardizer: Standardizer;
  /** A standardised point. */
  readonly draw: (random: Random) => readonly [number, number];
  /** E[x_0 given alpha x_0 + sigma eps = x] of standardised points x (rows, 2), into means. */
  posteriorMean(x: Float64Array, alpha: number, sigma: number, means?: Float64Array): Float64Array;
}

/** Mean and standard deviation of weighted points (count, 2) with noise of a variance about each. */
function standardizerOf(points: Float64Array, weights: ArrayLike<number>, variance: number): Standardizer {
  const total = Array.from(weights).reduce((sum, weight) => sum + weight, 0);
  const average = (value: (k: number) => number): number => {
    let sum = 0;
    for (let k = 0; k < weights.length; k++) sum += (weights[k] / total) * value(k);
    return sum;
  };
  const mean = [average((k) => points[2 * k]), average((k) => points[2 * k + 1])] as const;
  const scale = [0, 1].map((d) => Math.sqrt(variance + average((k) => (points[2 * k + d] - mean[d]) ** 2)));
  return { mean, scale: [scale[0], scale[1]] };
}

/** A mixture of Gaussians of one variance: curves by their quadrature, drawings by their points. */
export class PointMixture implements Density {
  readonly standardizer: Standardizer;
  private readonly x: Float64Array;
  private readonly y: Float64Array;
  private readonly logWeights: Float64Array;
  private readonly cumulative: Float64Array;
  private readonly variance: readonly [number, number];

  /** @param points (count, 2) in the data's own units; spread is the standard deviation about each. */
  constructor(points: Float64Array, weights: ArrayLike<number>, spread: number) {
    const count = weights.length;
    const total = Array.from(weights).reduce((sum, weight) => sum + weight, 0);
    const { mean, scale } = (this.standardizer = standardizerOf(points, weights, spread ** 2));
    this.variance = [(spread / scale[0]) ** 2, (spread / scale[1]) ** 2];
    this.x = new Float64Array(count);
    this.y = new Float64Array(count);
    this.logWeights = new Float64Array(count);
    this.cumulative = new Float64Array(count);
    let sum = 0;
    for (let k = 0; k < count; k++) {
      this.x[k] = (points[2 * k] - mean[0]) / scale[0];
      this.y[k] = (points[2 * k + 1] - mean[1]) / scale[1];
      this.logWeights[k] = Math.log(weights[k] / total);
      this.cumulative[k] = sum += weights[k] / total;
    }
  }

  readonly draw = (random: Random): readonly [number, number] => {
    const place = random.uniform() * this.cumulative[this.cumulative.length - 1];
    let low = 0;
    let high = this.cumulative.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.cumulative[middle] < place) low = middle + 1;
      else high = middle;
    }
    return [
      this.x[low] + Math.sqrt(this.variance[0]) * random.normal(),
      this.y[low] + Math.sqrt(this.variance[1]) * random.normal(),
    ];
  };

  posteriorMean(x: Float64Array, alpha: number, sigma: number, means = new Float64Array(x.length)): Float64Array {
    const count = this.x.length;
    const vx = alpha ** 2 * this.variance[0] + sigma ** 2;
    const vy = alpha ** 2 * this.variance[1] + sigma ** 2;
    const logits = new Float64Array(count);
    for (let row = 0; row < x.length; row += 2) {
      let largest = -Infinity;
      for (let k = 0; k < count; k++) {
        const dx = x[row] - alpha * this.x[k];
        const dy = x[row + 1] - alpha * this.y[k];
        const logit = this.logWeights[k] - (dx * dx) / (2 * vx) - (dy * dy) / (2 * vy);
        logits[k] = logit;
        if (logit > largest) largest = logit;
      }
      let total = 0;
      let mx = 0;
      let my = 0;
      for (let k = 0; k < count; k++) {
        if (logits[k] < largest - 40) continue; // below the last bit of the sum
        const share = Math.exp(logits[k] - largest);
        total += share;
        mx += share * this.x[k];
        my += share * this.y[k];
      }
      mx /= total;
      my /= total;
      means[row] = mx + (alpha * this.variance[0] * (x[row] - alpha * mx)) / vx;
      means[row + 1] = my + (alpha * this.variance[1] * (x[row + 1] - alpha * my)) / vy;
    }
    return means;
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

export interface CurveSegment {
  readonly curve: (u: number) => readonly [number, number];
  readonly lower: number;
  readonly upper: number;
  readonly weight?: number;
}

const NODES = 16;
const PANEL_LENGTH = 5;
const MIN_PANELS = 8;

/** Points c(u) on curves, u uniform on each segment, plus noise; the integral over u by quadrature. */
export function curveDensity(segments: readonly CurveSegment[], noise: number): PointMixture {
  const total = segments.reduce((sum, { weight = 1 }) => sum + weight, 0);
  const [nodes, nodeWeights] = gaussLegendre(NODES);
  const points: number[] = [];
  const weights: number[] = [];
  for (const { curve, lower, upper, weight = 1 } of segments) {
    const steps = 4096;
    const places = Array.from({ length: steps + 1 }, (_, i) => lower + ((upper - lower) * i) / steps);
    const lengths = [0];
    for (let i = 1; i <= steps; i++) {
      const [a, b] = [curve(places[i - 1]), curve(places[i])];
      lengths.push(lengths[i - 1] + Math.hypot(b[0] - a[0], b[1] - a[1]));
    }
    const length = lengths[steps];
    const panels = Math.max(MIN_PANELS, Math.ceil(length / (PANEL_LENGTH * noise)));
    const ends: number[] = [];
    let at = 0;
    for (let panel = 0; panel <= panels; panel++) {
      const wanted = (length * panel) / panels;
      while (at < steps - 1 && lengths[at + 1] < wanted) at++;
      const share = Math.min(1, (wanted - lengths[at]) / (lengths[at + 1] - lengths[at]));
      ends.push(places[at] + share * (places[at + 1] - places[at]));
    }
    for (let panel = 0; panel < panels; panel++) {
      const width = ends[panel + 1] - ends[panel];
      for (let n = 0; n < NODES; n++) {
        points.push(...curve(ends[panel] + (width * (nodes[n] + 1)) / 2));
        weights.push((((width * nodeWeights[n]) / 2) * (weight / total)) / (upper - lower));
      }
    }
  }
  return new PointMixture(Float64Array.from(points), weights, noise);
}

const [BOX_NODES, BOX_WEIGHTS] = gaussLegendre(40);
/** Where a density is e^-40 of its largest value, it ends for float64. */
const DIED_OUT = 40;

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

/** Uniform on boxes of equal size: the checkerboard. */
export class UniformBoxes implements Density {
  readonly standardizer: Standardizer;
  private readonly middles: readonly (readonly [number, number])[];
  private readonly half: readonly [number, number];

  constructor(middles: readonly (readonly [number, number])[], width: number) {
    const points = Float64Array.from(middles.flat());
    const { mean, scale } = (this.standardizer = standardizerOf(points, middles.map(() => 1), width ** 2 / 12));
    this.middles = middles.map(([x, y]) => [(x - mean[0]) / scale[0], (y - mean[1]) / scale[1]]);
    this.half = [width / 2 / scale[0], width / 2 / scale[1]];
  }

  readonly draw = (random: Random): readonly [number, number] => {
    const [x, y] = this.middles[random.below(this.middles.length)];
    return [x + this.half[0] * (2 * random.uniform() - 1), y + this.half[1] * (2 * random.uniform() - 1)];
  };

  posteriorMean(x: Float64Array, alpha: number, sigma: number, means = new Float64Array(x.length)): Float64Array {
    const logits = new Float64Array(this.middles.length);
    const within = new Float64Array(2 * this.middles.length);
    for (let row = 0; row < x.length; row += 2) {
      let largest = -Infinity;
      this.middles.forEach((middle, k) => {
        logits[k] = 0;
        for (let d = 0; d < 2; d++) {
          const centre = (x[row + d] - alpha * middle[d]) / sigma;
          const [logAverage, place] = truncatedNormal(centre, (alpha / sigma) * this.half[d]);
          logits[k] += logAverage;
          within[2 * k + d] = middle[d] - this.half[d] * place; // noise that points up: x_0 lies below
        }
        largest = Math.max(largest, logits[k]);
      });
      let total = 0;
      means[row] = means[row + 1] = 0;
      for (let k = 0; k < logits.length; k++) {
        const share = Math.exp(logits[k] - largest);
        total += share;
        means[row] += share * within[2 * k];
        means[row + 1] += share * within[2 * k + 1];
      }
      means[row] /= total;
      means[row + 1] /= total;
    }
    return means;
  }
}
