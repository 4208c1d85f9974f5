/**
 * Layers with gradients by hand. A layer keeps its weights inputs first, outputs side by side: one
 * value of an input then moves all outputs in one sweep. Parameters of all layers of a network lie
 * in one vector, and so do their gradients.
 */

/** Coefficients of 1, f, ..., f^k of the k + 1 pieces of a uniform B-spline (kan_diffusion.kan.bases.spline). */
export function pieceCoefficients(order: number): number[][] {
  const factorial = (n: number): number => (n < 2 ? 1 : n * factorial(n - 1));
  const choose = (n: number, k: number): number => factorial(n) / (factorial(k) * factorial(n - k));
  return Array.from({ length: order + 1 }, (_, piece) =>
    Array.from({ length: order + 1 }, (_, degree) => {
      let sum = 0;
      for (let i = 0; i <= order - piece; i++) {
        sum += (i % 2 ? -1 : 1) * choose(order + 1, i) * (order - piece - i) ** (order - degree);
      }
      return (choose(order, degree) * sum) / factorial(order);
    }),
  );
}

export interface Layer {
  readonly inputs: number;
  readonly outputs: number;
  /** y (rows, outputs) of x (rows, inputs). */
  forward(x: Float64Array, rows: number): Float64Array;
  /** Gradients with respect to x, when asked for; those of the parameters are added up. */
  backward(x: Float64Array, gradient: Float64Array, rows: number, wantInput: boolean): Float64Array | null;
}

export type Extrapolation = "linear" | "clamp";

// Rows of weights four at a time: what is summed up stays in registers.

/** y[at..] += sum of v_n w[p + n count..] for four neighbouring rows of weights from p on. */
function forward4(y: Float64Array, at: number, w: Float64Array, p: number, count: number, v0: number, v1: number, v2: number, v3: number): void {
  const p1 = p + count;
  const p2 = p1 + count;
  const p3 = p2 + count;
  for (let o = 0; o < count; o++) y[at + o] += v0 * w[p + o] + v1 * w[p1 + o] + v2 * w[p2 + o] + v3 * w[p3 + o];
}

function forward1(y: Float64Array, at: number, w: Float64Array, p: number, count: number, v: number): void {
  for (let o = 0; o < count; o++) y[at + o] += v * w[p + o];
}

/** The four inner products of neighbouring rows of weights with a gradient, by the last backward4. */
const inner = new Float64Array(4);

/** Adds v_n times a gradient to four neighbouring rows of gradients of weights, and fills inner. */
function backward4(g: Float64Array, at: number, w: Float64Array, wg: Float64Array, p: number, count: number, v0: number, v1: number, v2: number, v3: number): void {
  const p1 = p + count;
  const p2 = p1 + count;
  const p3 = p2 + count;
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

const silu = (x: number): number => x / (1 + Math.exp(-x));

/**
 * A spline at a place u of its grid.
 *
 * @param coefficients Its coefficients, the first at start, each stride further.
 */
export function splineAt(
  pieces: Float64Array,
  order: number,
  gridSize: number,
  extrapolation: Extrapolation,
  u: number,
  coefficients: Float64Array,
  start: number,
  stride: number,
): number {
  const inside = Math.min(Math.max(u, 0), gridSize);
  const cell = Math.min(Math.floor(inside), gridSize - 1);
  const f = inside - cell;
  const beyond = extrapolation === "linear" ? u - inside : 0;
  let sum = 0;
  for (let j = 0; j <= order; j++) {
    let value = 0;
    let slope = 0;
    for (let degree = order; degree >= 0; degree--) {
      slope = slope * f + value;
      value = value * f + pieces[j * (order + 1) + degree];
    }
    sum += coefficients[start + (cell + j) * stride] * (value + beyond * slope);
  }
  return sum;
}

/** A layer whose every edge is w silu(x) + a B-spline: kan_diffusion.KANLinear. */
export class SplineLayer implements Layer {
  /** Functions of an input: the base activation, if any, and the splines. */
  readonly width: number;
  readonly numSplines: number;
  private readonly pieces: Float64Array;
  private cells = new Int32Array(0);
  private values = new Float64Array(0);
  private slopes = new Float64Array(0);

  /**
   * @param weight Weights (inputs, width, outputs).
   * @param origin Left end of each input's grid; step its width of an interval.
   */
  constructor(
    readonly inputs: number,
    readonly outputs: number,
    readonly gridSize: number,
    readonly order: number,
    readonly hasBase: boolean,
    readonly extrapolation: Extrapolation,
    readonly weight: Float64Array,
    readonly bias: Float64Array | null,
    readonly weightGradient: Float64Array,
    readonly biasGradient: Float64Array | null,
    readonly origin: Float64Array,
    readonly step: Float64Array,
  ) {
    this.numSplines = gridSize + order;
    this.width = this.numSplines + Number(hasBase);
    this.pieces = Float64Array.from(pieceCoefficients(order).flat());
  }

  /** Fills values and slopes of the active functions of every input: the base, then k + 1 splines. */
  private expand(x: Float64Array, rows: number): void {
    const { inputs, order, gridSize, pieces } = this;
    const active = order + 2;
    const count = rows * inputs;
    if (this.cells.length < count) {
      this.cells = new Int32Array(count);
      this.values = new Float64Array(count * active);
      this.slopes = new Float64Array(count * active);
    }
    const { cells, values, slopes } = this;
    const linear = this.extrapolation === "linear";
    for (let n = 0; n < count; n++) {
      const i = n % inputs;
      const z = x[n];
      const at = n * active;
      if (this.hasBase) {
        const gate = 1 / (1 + Math.exp(-z));
        values[at] = z * gate;
        slopes[at] = gate * (1 + z * (1 - gate));
      }
      const u = (z - this.origin[i]) / this.step[i];
      const inside = u < 0 ? 0 : u > gridSize ? gridSize : u;
      const cell = Math.min(Math.floor(inside), gridSize - 1);
      const f = inside - cell;
      const beyond = u - inside;
      cells[n] = cell;
      for (let j = 0; j <= order; j++) {
        let value = 0;
        let slope = 0;
        for (let degree = order; degree >= 0; degree--) {
          slope = slope * f + value;
          value = value * f + pieces[j * (order + 1) + degree];
        }
        values[at + 1 + j] = linear ? value + beyond * slope : value;
        slopes[at + 1 + j] = linear || beyond === 0 ? slope / this.step[i] : 0;
      }
    }
  }

  forward(x: Float64Array, rows: number): Float64Array {
    this.expand(x, rows);
    const { inputs, outputs, order, weight, cells, values } = this;
    const base = Number(this.hasBase);
    const y = new Float64Array(rows * outputs);
    for (let row = 0; row < rows; row++) {
      const to = row * outputs;
      if (this.bias !== null) for (let o = 0; o < outputs; o++) y[to + o] = this.bias[o];
      for (let i = 0; i < inputs; i++) {
        const n = row * inputs + i;
        const at = n * (order + 2);
        const start = i * this.width * outputs;
        if (base) forward1(y, to, weight, start, outputs, values[at]);
        const from = start + (base + cells[n]) * outputs;
        let j = 0;
        for (; j + 3 <= order; j += 4) {
          const v = at + 1 + j;
          forward4(y, to, weight, from + j * outputs, outputs, values[v], values[v + 1], values[v + 2], values[v + 3]);
        }
        for (; j <= order; j++) forward1(y, to, weight, from + j * outputs, outputs, values[at + 1 + j]);
      }
    }
    return y;
  }

  /** As the last forward pass left values and slopes, which must have been of the same x. */
  backward(_: Float64Array, gradient: Float64Array, rows: number, wantInput: boolean): Float64Array | null {
    const { inputs, outputs, order, weight, weightGradient, biasGradient, cells, values, slopes } = this;
    const base = Number(this.hasBase);
    const back = wantInput ? new Float64Array(rows * inputs) : null;
    for (let row = 0; row < rows; row++) {
      const from = row * outputs;
      if (biasGradient !== null) for (let o = 0; o < outputs; o++) biasGradient[o] += gradient[from + o];
      for (let i = 0; i < inputs; i++) {
        const n = row * inputs + i;
        const at = n * (order + 2);
        const start = i * this.width * outputs;
        let total = base ? slopes[at] * backward1(gradient, from, weight, weightGradient, start, outputs, values[at]) : 0;
        const first = start + (base + cells[n]) * outputs;
        let j = 0;
        for (; j + 3 <= order; j += 4) {
          const v = at + 1 + j;
          backward4(gradient, from, weight, weightGradient, first + j * outputs, outputs, values[v], values[v + 1], values[v + 2], values[v + 3]);
          total += slopes[v] * inner[0] + slopes[v + 1] * inner[1] + slopes[v + 2] * inner[2] + slopes[v + 3] * inner[3];
        }
        for (; j <= order; j++) {
          const v = at + 1 + j;
          total += slopes[v] * backward1(gradient, from, weight, weightGradient, first + j * outputs, outputs, values[v]);
        }
        if (back !== null) back[n] = total;
      }
    }
    return back;
  }

  /** The function of an edge at a place. */
  edge(input: number, output: number, x: number): number {
    const base = Number(this.hasBase);
    const place = (f: number): number => (input * this.width + f) * this.outputs + output;
    let sum = base ? this.weight[place(0)] * silu(x) : 0;
    const u = (x - this.origin[input]) / this.step[input];
    sum += splineAt(this.pieces, this.order, this.gridSize, this.extrapolation, u, this.weight, place(base), this.outputs);
    return sum;
  }
}

/** y = W x + b. */
export class LinearLayer implements Layer {
  /** @param weight Weights (inputs, outputs). */
  constructor(
    readonly inputs: number,
    readonly outputs: number,
    readonly weight: Float64Array,
    readonly bias: Float64Array,
    readonly weightGradient: Float64Array,
    readonly biasGradient: Float64Array,
  ) {}

  forward(x: Float64Array, rows: number): Float64Array {
    const { inputs, outputs, weight, bias } = this;
    const y = new Float64Array(rows * outputs);
    for (let row = 0; row < rows; row++) {
      const to = row * outputs;
      for (let o = 0; o < outputs; o++) y[to + o] = bias[o];
      const from = row * inputs;
      let i = 0;
      for (; i + 3 < inputs; i += 4) {
        forward4(y, to, weight, i * outputs, outputs, x[from + i], x[from + i + 1], x[from + i + 2], x[from + i + 3]);
      }
      for (; i < inputs; i++) forward1(y, to, weight, i * outputs, outputs, x[from + i]);
    }
    return y;
  }

  backward(x: Float64Array, gradient: Float64Array, rows: number, wantInput: boolean): Float64Array | null {
    const { inputs, outputs, weight, weightGradient, biasGradient } = this;
    const back = wantInput ? new Float64Array(rows * inputs) : null;
    for (let row = 0; row < rows; row++) {
      const from = row * outputs;
      for (let o = 0; o < outputs; o++) biasGradient[o] += gradient[from + o];
      const at = row * inputs;
      let i = 0;
      for (; i + 3 < inputs; i += 4) {
        backward4(gradient, from, weight, weightGradient, i * outputs, outputs, x[at + i], x[at + i + 1], x[at + i + 2], x[at + i + 3]);
        if (back !== null) for (let n = 0; n < 4; n++) back[at + i + n] = inner[n];
      }
      for (; i < inputs; i++) {
        const sum = backward1(gradient, from, weight, weightGradient, i * outputs, outputs, x[at + i]);
        if (back !== null) back[at + i] = sum;
      }
    }
    return back;
  }
}
