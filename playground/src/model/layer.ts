/**
 * A layer with gradients by hand. Its output is a linear map of a function of its inputs, plus, in a
 * KAN, a cubic B-spline on every edge: without splines it is a layer of an MLP, with silu and splines
 * it is kan_diffusion.KANLinear. A weight lies inputs first, outputs side by side: one value of an
 * input then moves all outputs in one sweep.
 */

/** The grid of the splines: intervals of equal width between two ends, beyond which they are linear. */
const GRID_SIZE = 8;
const [LOW, HIGH] = [-3, 3];
const STEP = (HIGH - LOW) / GRID_SIZE;
/** Cubic splines, of which four are not zero at any point. */
export const NUM_SPLINES = GRID_SIZE + 3;
const ACTIVE = 4;

export interface LayerKind {
  /** Function of an input before the linear map. */
  readonly base: "identity" | "silu";
  readonly splines: boolean;
}

// Rows of weights four at a time: what is summed up stays in registers.

/** y[at..] += sum of v[n] w[p + n count..] for four neighbouring rows of weights from p on. */
function forward4(y: Float64Array, at: number, w: Float64Array, p: number, count: number, v: Float64Array, n: number): void {
  const p1 = p + count;
  const p2 = p1 + count;
  const p3 = p2 + count;
  const v0 = v[n];
  const v1 = v[n + 1];
  const v2 = v[n + 2];
  const v3 = v[n + 3];
  for (let o = 0; o < count; o++) y[at + o] += v0 * w[p + o] + v1 * w[p1 + o] + v2 * w[p2 + o] + v3 * w[p3 + o];
}

function forward1(y: Float64Array, at: number, w: Float64Array, p: number, count: number, value: number): void {
  for (let o = 0; o < count; o++) y[at + o] += value * w[p + o];
}

/** The four inner products of rows of weights with a gradient, by the last backward4. */
const inner = new Float64Array(ACTIVE);

/** Adds v[n] times a gradient to four neighbouring rows of gradients of weights, and fills inner. */
function backward4(g: Float64Array, at: number, w: Float64Array, wg: Float64Array, p: number, count: number, v: Float64Array, n: number): void {
  const p1 = p + count;
  const p2 = p1 + count;
  const p3 = p2 + count;
  const v0 = v[n];
  const v1 = v[n + 1];
  const v2 = v[n + 2];
  const v3 = v[n + 3];
  let s0 = 0;
  let s1 = 0;
  let s2 = 0;
  let s3 = 0;
  for (let o = 0; o < count; o++) {
    const value = g[at + o];
    wg[p + o] += v0 * value;
    wg[p1 + o] += v1 * value;
    wg[p2 + o] += v2 * value;
    wg[p3 + o] += v3 * value;
    s0 += value * w[p + o];
    s1 += value * w[p1 + o];
    s2 += value * w[p2 + o];
    s3 += value * w[p3 + o];
  }
  inner[0] = s0;
  inner[1] = s1;
  inner[2] = s2;
  inner[3] = s3;
}

function backward1(g: Float64Array, at: number, w: Float64Array, wg: Float64Array, p: number, count: number, v: number): number {
  let sum = 0;
  for (let o = 0; o < count; o++) {
    const value = g[at + o];
    wg[p + o] += v * value;
    sum += value * w[p + o];
  }
  return sum;
}

/** Values and slopes at x of the four splines that are not zero there, from an index on; returns the number of the first. */
function splinesAt(x: number, values: Float64Array, slopes: Float64Array, at: number): number {
  const u = (x - LOW) / STEP;
  const inside = u < 0 ? 0 : u > GRID_SIZE ? GRID_SIZE : u;
  const first = Math.min(Math.floor(inside), GRID_SIZE - 1);
  const beyond = u - inside;
  const f = inside - first;
  const g = 1 - f;
  values[at] = (g * g * g) / 6;
  values[at + 1] = ((3 * f - 6) * f * f + 4) / 6;
  values[at + 2] = (((3 - 3 * f) * f + 3) * f + 1) / 6;
  values[at + 3] = (f * f * f) / 6;
  slopes[at] = (-g * g) / 2;
  slopes[at + 1] = (1.5 * f - 2) * f;
  slopes[at + 2] = (1 - 1.5 * f) * f + 0.5;
  slopes[at + 3] = (f * f) / 2;
  for (let n = at; n < at + ACTIVE; n++) {
    values[n] += beyond * slopes[n];
    slopes[n] /= STEP;
  }
  return first;
}

/** Room for one point of one edge. */
const edgeValues = new Float64Array(ACTIVE);
const edgeSlopes = new Float64Array(ACTIVE);

export class Layer {
  /** Weight of the linear map (inputs, outputs), of the splines (inputs, NUM_SPLINES, outputs), and bias. */
  readonly weight: Float64Array;
  readonly splineWeight: Float64Array;
  readonly bias: Float64Array;
  private readonly weightGradient: Float64Array;
  private readonly splineGradient: Float64Array;
  private readonly biasGradient: Float64Array;
  // What the last forward pass left for the backward pass: the base's values and slopes (rows,
  // inputs), those of the splines (rows, inputs, 4) and the numbers of the first of these.
  private base = new Float64Array(0);
  private baseSlopes = new Float64Array(0);
  private values = new Float64Array(0);
  private slopes = new Float64Array(0);
  private firsts = new Int32Array(0);

  /** Takes its parameters, and their gradients, from the front of two vectors. */
  constructor(
    readonly inputs: number,
    readonly outputs: number,
    readonly kind: LayerKind,
    parameters: Float64Array,
    gradients: Float64Array,
  ) {
    const ends = [inputs * outputs, Layer.count(inputs, outputs, kind) - outputs, Layer.count(inputs, outputs, kind)];
    const parts = (v: Float64Array): Float64Array[] => ends.map((end, n) => v.subarray(ends[n - 1] ?? 0, end));
    [this.weight, this.splineWeight, this.bias] = parts(parameters);
    [this.weightGradient, this.splineGradient, this.biasGradient] = parts(gradients);
  }

  /** Number of parameters. */
  static count(inputs: number, outputs: number, kind: LayerKind): number {
    return inputs * outputs * (1 + (kind.splines ? NUM_SPLINES : 0)) + outputs;
  }

  private expand(x: Float64Array): void {
    const { kind } = this;
    if (this.base.length < x.length) {
      this.base = new Float64Array(x.length);
      this.baseSlopes = new Float64Array(x.length);
      this.firsts = new Int32Array(x.length);
      this.values = new Float64Array(kind.splines ? ACTIVE * x.length : 0);
      this.slopes = new Float64Array(this.values.length);
    }
    const { base, baseSlopes, values, slopes, firsts } = this;
    for (let n = 0; n < x.length; n++) {
      const gate = kind.base === "silu" ? 1 / (1 + Math.exp(-x[n])) : 1;
      base[n] = x[n] * gate;
      baseSlopes[n] = gate * (1 + x[n] * (1 - gate));
      if (kind.splines) firsts[n] = splinesAt(x[n], values, slopes, ACTIVE * n);
    }
  }

  /** y (rows, outputs) of x (rows, inputs). */
  forward(x: Float64Array): Float64Array {
    this.expand(x);
    const { inputs, outputs, kind, weight, splineWeight, bias, base, values, firsts } = this;
    const rows = x.length / inputs;
    const y = new Float64Array(rows * outputs);
    for (let row = 0; row < rows; row++) {
      const to = row * outputs;
      const from = row * inputs;
      for (let o = 0; o < outputs; o++) y[to + o] = bias[o];
      let i = 0;
      for (; i + 3 < inputs; i += 4) forward4(y, to, weight, i * outputs, outputs, base, from + i);
      for (; i < inputs; i++) forward1(y, to, weight, i * outputs, outputs, base[from + i]);
      if (!kind.splines) continue;
      for (i = 0; i < inputs; i++) {
        const n = from + i;
        forward4(y, to, splineWeight, (i * NUM_SPLINES + firsts[n]) * outputs, outputs, values, ACTIVE * n);
      }
    }
    return y;
  }

  /** Gradients with respect to the inputs of the last forward pass; those of the parameters are added up. */
  backward(gradient: Float64Array): Float64Array {
    const { inputs, outputs, kind, weight, weightGradient, splineWeight, splineGradient, biasGradient } = this;
    const { base, baseSlopes, values, slopes, firsts } = this;
    const rows = gradient.length / outputs;
    const back = new Float64Array(rows * inputs);
    for (let row = 0; row < rows; row++) {
      const from = row * outputs;
      const to = row * inputs;
      for (let o = 0; o < outputs; o++) biasGradient[o] += gradient[from + o];
      let i = 0;
      for (; i + 3 < inputs; i += 4) {
        backward4(gradient, from, weight, weightGradient, i * outputs, outputs, base, to + i);
        for (let n = 0; n < 4; n++) back[to + i + n] = inner[n] * baseSlopes[to + i + n];
      }
      for (; i < inputs; i++) {
        const product = backward1(gradient, from, weight, weightGradient, i * outputs, outputs, base[to + i]);
        back[to + i] = product * baseSlopes[to + i];
      }
      if (!kind.splines) continue;
      for (i = 0; i < inputs; i++) {
        const n = to + i;
        const at = ACTIVE * n;
        backward4(gradient, from, splineWeight, splineGradient, (i * NUM_SPLINES + firsts[n]) * outputs, outputs, values, at);
        for (let k = 0; k < ACTIVE; k++) back[n] += inner[k] * slopes[at + k];
      }
    }
    return back;
  }

  /** The function of an edge of a KAN at x. */
  edge(input: number, output: number, x: number): number {
    const { outputs, weight, splineWeight } = this;
    let sum = (weight[input * outputs + output] * x) / (1 + Math.exp(-x));
    const first = splinesAt(x, edgeValues, edgeSlopes, 0);
    for (let k = 0; k < ACTIVE; k++) sum += splineWeight[(input * NUM_SPLINES + first + k) * outputs + output] * edgeValues[k];
    return sum;
  }
}
