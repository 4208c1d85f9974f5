/**
 * A layer with gradients by hand: its outputs are sums of functions of single inputs, times weights.
 * The functions are the input itself or its silu and, in a KAN, the cubic B-splines of a grid: without
 * splines it is a layer of an MLP, with silu and splines it is kan_diffusion.KANLinear. A weight lies
 * with the outputs side by side: a value of a function then moves all outputs in one sweep.
 */

/** The grid of the splines: intervals of equal width between two ends, beyond which they are linear. */
const GRID_SIZE = 8;
const [LOW, HIGH] = [-3, 3];
const STEP = (HIGH - LOW) / GRID_SIZE;
export const NUM_SPLINES = GRID_SIZE + 3;

export interface LayerKind {
  /** Function of an input before all splines. */
  readonly base: "identity" | "silu";
  readonly splines: boolean;
}

/** Functions of an input, and those that are not zero at one point: the base, then four splines. */
const numFunctions = ({ splines }: LayerKind): number => 1 + (splines ? NUM_SPLINES : 0);
const numActive = ({ splines }: LayerKind): number => (splines ? 5 : 1);

/** Functions that are summed up at a time, in registers. */
const BLOCK = 4;

/** Active functions at points: their values and slopes, and where their weights begin. */
class Functions {
  readonly values: Float64Array;
  readonly slopes: Float64Array;
  readonly starts: Int32Array;

  constructor(readonly size: number) {
    this.values = new Float64Array(size);
    this.slopes = new Float64Array(size);
    this.starts = new Int32Array(size);
  }
}

export class Layer {
  /** Weights of the bases (inputs, outputs), then of the splines (inputs, NUM_SPLINES, outputs). */
  readonly weight: Float64Array;
  readonly bias: Float64Array;
  private readonly weightGradient: Float64Array;
  private readonly biasGradient: Float64Array;
  /** Functions of the inputs of the last forward pass, (rows, perRow), which the backward pass needs. */
  private last = new Functions(0);
  private readonly ofPoint: Functions;
  private readonly active: number;
  /** Functions of a row, with some that stay zero, so that they are whole blocks. */
  private readonly perRow: number;

  /** Takes its parameters, and their gradients, from the front of two vectors. */
  constructor(
    readonly inputs: number,
    readonly outputs: number,
    readonly kind: LayerKind,
    parameters: Float64Array,
    gradients: Float64Array,
  ) {
    const count = Layer.count(inputs, outputs, kind);
    const parts = (v: Float64Array): Float64Array[] => [v.subarray(0, count - outputs), v.subarray(count - outputs, count)];
    [this.weight, this.bias] = parts(parameters);
    [this.weightGradient, this.biasGradient] = parts(gradients);
    this.active = numActive(kind);
    this.perRow = BLOCK * Math.ceil((inputs * this.active) / BLOCK);
    this.ofPoint = new Functions(this.active);
  }

  /** Number of parameters. */
  static count(inputs: number, outputs: number, kind: LayerKind): number {
    return (inputs * numFunctions(kind) + 1) * outputs;
  }

  /** Writes the active functions of an input at x into an array from an index on. */
  private expand(input: number, x: number, { values, slopes, starts }: Functions, at: number): void {
    const gate = this.kind.base === "silu" ? 1 / (1 + Math.exp(-x)) : 1;
    values[at] = x * gate;
    slopes[at] = gate * (1 + x * (1 - gate));
    starts[at] = input * this.outputs;
    if (!this.kind.splines) return;
    const u = (x - LOW) / STEP;
    const inside = u < 0 ? 0 : u > GRID_SIZE ? GRID_SIZE : u;
    const first = Math.min(Math.floor(inside), GRID_SIZE - 1);
    const beyond = u - inside;
    const f = inside - first;
    const g = 1 - f;
    values[at + 1] = (g * g * g) / 6;
    values[at + 2] = ((3 * f - 6) * f * f + 4) / 6;
    values[at + 3] = (((3 - 3 * f) * f + 3) * f + 1) / 6;
    values[at + 4] = (f * f * f) / 6;
    slopes[at + 1] = (-g * g) / 2;
    slopes[at + 2] = (1.5 * f - 2) * f;
    slopes[at + 3] = (1 - 1.5 * f) * f + 0.5;
    slopes[at + 4] = (f * f) / 2;
    let start = (this.inputs + input * NUM_SPLINES + first) * this.outputs;
    for (let n = at + 1; n < at + 5; n++) {
      values[n] += beyond * slopes[n];
      slopes[n] *= 1 / STEP;
      starts[n] = start;
      start += this.outputs;
    }
  }

  /** y (rows, outputs) of x (rows, inputs). */
  forward(x: Float64Array): Float64Array {
    const { inputs, outputs, weight, bias, active, perRow } = this;
    const rows = x.length / inputs;
    if (this.last.size < rows * perRow) this.last = new Functions(rows * perRow);
    const { values, starts } = this.last;
    const y = new Float64Array(rows * outputs);
    for (let row = 0; row < rows; row++) {
      const first = row * perRow;
      const at = row * outputs;
      for (let i = 0; i < inputs; i++) this.expand(i, x[row * inputs + i], this.last, first + i * active);
      for (let o = 0; o < outputs; o++) y[at + o] = bias[o];
      for (let n = first; n < first + perRow; n += BLOCK) {
        const [v0, v1, v2, v3] = [values[n], values[n + 1], values[n + 2], values[n + 3]];
        const [w0, w1, w2, w3] = [starts[n], starts[n + 1], starts[n + 2], starts[n + 3]];
        for (let o = 0; o < outputs; o++) {
          y[at + o] += v0 * weight[w0 + o] + v1 * weight[w1 + o] + v2 * weight[w2 + o] + v3 * weight[w3 + o];
        }
      }
    }
    return y;
  }

  /** Gradients with respect to the inputs of the last forward pass; those of the parameters are added up. */
  backward(gradient: Float64Array): Float64Array {
    const { inputs, outputs, weight, weightGradient, biasGradient, active, perRow } = this;
    const { values, slopes, starts } = this.last;
    const rows = gradient.length / outputs;
    const back = new Float64Array(rows * inputs);
    const products = new Float64Array(perRow);
    for (let row = 0; row < rows; row++) {
      const first = row * perRow;
      const at = row * outputs;
      for (let o = 0; o < outputs; o++) biasGradient[o] += gradient[at + o];
      for (let k = 0; k < perRow; k += BLOCK) {
        const n = first + k;
        const [v0, v1, v2, v3] = [values[n], values[n + 1], values[n + 2], values[n + 3]];
        const [w0, w1, w2, w3] = [starts[n], starts[n + 1], starts[n + 2], starts[n + 3]];
        let [p0, p1, p2, p3] = [0, 0, 0, 0];
        for (let o = 0; o < outputs; o++) {
          const g = gradient[at + o];
          p0 += g * weight[w0 + o];
          p1 += g * weight[w1 + o];
          p2 += g * weight[w2 + o];
          p3 += g * weight[w3 + o];
          weightGradient[w0 + o] += g * v0;
          weightGradient[w1 + o] += g * v1;
          weightGradient[w2 + o] += g * v2;
          weightGradient[w3 + o] += g * v3;
        }
        [products[k], products[k + 1], products[k + 2], products[k + 3]] = [p0, p1, p2, p3];
      }
      for (let i = 0, k = 0; i < inputs; i++) {
        let sum = 0;
        for (const end = k + active; k < end; k++) sum += products[k] * slopes[first + k];
        back[row * inputs + i] = sum;
      }
    }
    return back;
  }

  /** The function of an edge at x. */
  edge(input: number, output: number, x: number): number {
    this.expand(input, x, this.ofPoint, 0);
    const { values, starts } = this.ofPoint;
    return values.reduce((sum, value, n) => sum + value * this.weight[starts[n] + output], 0);
  }
}
