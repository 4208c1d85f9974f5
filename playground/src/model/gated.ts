/**
 * The denoiser of kan_diffusion.denoisers.gated for points of the plane, forwards alone: a grouped
 * KAN, or its twin with fixed functions. This page does not train it; it opens models of Python.
 */

import type { Curves, GatedSettings, Network, StateDict, Tensor } from "./denoiser";
import { pointFeatures, timeFeatures } from "./features";
import { pieceCoefficients, splineAt } from "./layers";

/** Grid of learned features, which the fraction of time is stretched over, too. */
const INPUT_RANGE = [-4, 4] as const;
const ORDER_OF_INPUTS = 3;
/** Frequencies of two coordinates and the timestep where nothing is said. */
const FREQUENCIES = 3;

type Values = Float64Array;

export class GatedDenoiser implements Network {
  readonly shapes: ReadonlyMap<string, readonly number[]>;
  readonly numParameters: number;
  private readonly tensors = new Map<string, Values>();
  private readonly times: Values;
  private readonly frequencies: number;
  lastInputs: readonly Values[] = [];

  constructor(readonly settings: GatedSettings) {
    const s = settings;
    const sides = 1 + Number(s.gated);
    this.frequencies = s.num_input_frequencies ?? FREQUENCIES;
    this.times = timeFeatures(s.learned_inputs ? "raw" : "fourier", s.num_train_timesteps, s.num_time_frequencies);
    const numTime = this.times.length / s.num_train_timesteps;
    const numFunctions = 1 + 2 * this.frequencies;
    const shapes = new Map<string, readonly number[]>();
    const grid = (place: string, groups: number): void => {
      shapes.set(`${place}.basis.grid_origin`, [groups]).set(`${place}.basis.grid_step`, [groups]);
    };
    const first = sides * s.hidden[0];
    if (s.learned_inputs) {
      shapes.set("network.first.coefficients", [numFunctions, 3, s.input_grid_size + ORDER_OF_INPUTS]);
      shapes.set("network.first.weight", [first, 3 * numFunctions]).set("network.first.bias", [first]);
      grid("network.first", 3);
      if (s.rank !== null) {
        shapes.set("network.code.coefficients", [s.rank, 1, s.input_grid_size + ORDER_OF_INPUTS]);
        grid("network.code", 1);
      }
    } else {
      const inputs = 2 * (1 + 2 * this.frequencies) + numTime;
      shapes.set("network.first.weight", [first, inputs]).set("network.first.bias", [first]);
      if (s.rank !== null) shapes.set("network.code.weight", [s.rank, numTime]);
    }
    s.hidden.forEach((units, index) => {
      const place = `network.layers.${index}`;
      const outputs = index + 1 === s.hidden.length ? 2 : sides * s.hidden[index + 1];
      shapes.set(`${place}.weight`, [outputs, units]).set(`${place}.bias`, [outputs]);
      if (s.rank !== null) shapes.set(`${place}.modulation`, [s.rank + 1, 2, units]);
      if (s.learned_functions) {
        const groups = Math.min(units, s.num_functions);
        shapes.set(`${place}.functions.coefficients`, [1, groups, s.grid_size + s.order]);
        grid(`${place}.functions`, groups);
      }
    });
    this.shapes = shapes;
    let count = 0;
    for (const [name, shape] of shapes) {
      const size = shape.reduce((a, b) => a * b, 1);
      this.tensors.set(name, new Float64Array(size));
      if (!name.includes(".grid_")) count += size;
    }
    this.numParameters = count;
  }

  stateDict(): StateDict {
    const entries = [...this.tensors].map(([name, values]): [string, Tensor] => [name, { shape: this.shapes.get(name)!, values: Float32Array.from(values) }]);
    return Object.fromEntries(entries);
  }

  loadStateDict(state: StateDict): void {
    for (const [name, values] of this.tensors) values.set(state[name].values);
  }

  /** The learned function of a place of the network: number r of a group, at x. */
  private learned(place: string, order: number, gridSize: number): (r: number, group: number, x: number) => number {
    const coefficients = this.tensors.get(`${place}.coefficients`)!;
    const origin = this.tensors.get(`${place}.basis.grid_origin`)!;
    const step = this.tensors.get(`${place}.basis.grid_step`)!;
    const pieces = Float64Array.from(pieceCoefficients(order).flat());
    const width = gridSize + order;
    return (r, group, x) => {
      const start = (r * origin.length + group) * width;
      return splineAt(pieces, order, gridSize, "linear", (x - origin[group]) / step[group], coefficients, start, 1);
    };
  }

  forward(given: Values, timesteps: ArrayLike<number>): Values {
    const s = this.settings;
    const points = given.map((value) => Math.min(Math.max(value, INPUT_RANGE[0]), INPUT_RANGE[1]));
    const rows = points.length / 2;
    const numTime = this.times.length / s.num_train_timesteps;
    const time = (row: number, n: number): number => this.times[timesteps[row] * numTime + n];
    const width = (1 + Number(s.gated)) * s.hidden[0];
    const weight = this.tensors.get("network.first.weight")!;
    const bias = this.tensors.get("network.first.bias")!;
    let numInputs: number;
    let expanded: Values;
    const code = new Float64Array(rows * (s.rank ?? 0));
    if (s.learned_inputs) {
      const [low, high] = INPUT_RANGE;
      const first = this.learned("network.first", ORDER_OF_INPUTS, s.input_grid_size);
      const numFunctions = 1 + 2 * this.frequencies;
      numInputs = 3 * numFunctions;
      expanded = new Float64Array(rows * numInputs);
      const inputs = new Float64Array(rows * 3);
      for (let row = 0; row < rows; row++) {
        const stretched = low + (high - low) * time(row, 0);
        inputs.set([points[2 * row], points[2 * row + 1], stretched], 3 * row);
        for (let i = 0; i < 3; i++) {
          for (let r = 0; r < numFunctions; r++) expanded[row * numInputs + i * numFunctions + r] = first(r, i, inputs[3 * row + i]);
        }
      }
      if (s.rank !== null) {
        const numbers = this.learned("network.code", ORDER_OF_INPUTS, s.input_grid_size);
        for (let row = 0; row < rows; row++) for (let j = 0; j < s.rank; j++) code[row * s.rank + j] = numbers(j, 0, inputs[3 * row + 2]);
      }
      this.lastInputs = [inputs];
    } else {
      const features = pointFeatures(points, rows, 2, this.frequencies);
      const numPoints = features.length / rows;
      numInputs = numPoints + numTime;
      expanded = new Float64Array(rows * numInputs);
      for (let row = 0; row < rows; row++) {
        for (let i = 0; i < numPoints; i++) expanded[row * numInputs + i] = features[row * numPoints + i];
        for (let i = 0; i < numTime; i++) expanded[row * numInputs + numPoints + i] = time(row, i);
      }
      const mixing = this.tensors.get("network.code.weight");
      if (s.rank !== null && mixing !== undefined) {
        for (let row = 0; row < rows; row++) {
          for (let j = 0; j < s.rank; j++) for (let n = 0; n < numTime; n++) code[row * s.rank + j] += mixing[j * numTime + n] * time(row, n);
        }
      }
    }
    let output = product(expanded, rows, weight, bias, numInputs, width);
    let carried: Values | null = null;
    s.hidden.forEach((units, index) => {
      [output, carried] = this.layer(index, units, output, carried, code, rows);
      if (!s.residual) carried = null;
    });
    return output;
  }

  /** The output and the state of a gated layer. */
  private layer(index: number, units: number, given: Values, carried: Values | null, code: Values, rows: number): [Values, Values] {
    const s = this.settings;
    const place = `network.layers.${index}`;
    const sides = 1 + Number(s.gated);
    const rank = s.rank ?? 0;
    const modulation = this.tensors.get(`${place}.modulation`);
    const state = new Float64Array(rows * units);
    const gated = new Float64Array(rows * units);
    const learned = s.learned_functions ? this.learned(`${place}.functions`, s.order, s.grid_size) : null;
    const wide = carried === null ? 0 : carried.length / rows;
    for (let row = 0; row < rows; row++) {
      for (let u = 0; u < units; u++) {
        let z = given[row * sides * units + u];
        if (modulation !== undefined) {
          let scale = modulation[(2 * rank) * units + u];
          let shift = modulation[(2 * rank + 1) * units + u];
          for (let j = 0; j < rank; j++) {
            scale += code[row * rank + j] * modulation[2 * j * units + u];
            shift += code[row * rank + j] * modulation[(2 * j + 1) * units + u];
          }
          z = shift + z * (1 + scale);
        }
        if (carried !== null && u < wide) z += carried[row * wide + u];
        const n = row * units + u;
        state[n] = z;
        gated[n] = learned === null ? z / (1 + Math.exp(-z)) : learned(0, u % s.num_functions, z);
        if (s.gated) gated[n] *= given[row * sides * units + units + u];
      }
    }
    const weight = this.tensors.get(`${place}.weight`)!;
    const bias = this.tensors.get(`${place}.bias`)!;
    return [product(gated, rows, weight, bias, units, bias.length), state];
  }

  /** The edges of the first layer; those of gated layers are no functions of one input. */
  get curves(): readonly Curves[] {
    const s = this.settings;
    if (!s.learned_inputs) return [];
    const first = this.learned("network.first", ORDER_OF_INPUTS, s.input_grid_size);
    const weight = this.tensors.get("network.first.weight")!;
    const numFunctions = 1 + 2 * this.frequencies;
    const edge = (input: number, output: number, x: number): number => {
      let sum = 0;
      for (let r = 0; r < numFunctions; r++) sum += weight[(output * 3 + input) * numFunctions + r] * first(r, input, x);
      return sum;
    };
    return [{ inputs: 3, outputs: (1 + Number(s.gated)) * s.hidden[0], edge }];
  }

  nameOf(layer: number, unit: number): string {
    if (layer === 0) return ["x", "y", "time"][unit];
    return unit < this.settings.hidden[0] ? `unit ${unit + 1}` : `the gate of unit ${unit + 1 - this.settings.hidden[0]}`;
  }
}

/** y = W x + b with W (outputs, inputs). */
function product(x: Values, rows: number, weight: Values, bias: Values, inputs: number, outputs: number): Values {
  const y = new Float64Array(rows * outputs);
  for (let row = 0; row < rows; row++) {
    for (let o = 0; o < outputs; o++) {
      let sum = bias[o];
      for (let i = 0; i < inputs; i++) sum += weight[o * inputs + i] * x[row * inputs + i];
      y[row * outputs + o] = sum;
    }
  }
  return y;
}
