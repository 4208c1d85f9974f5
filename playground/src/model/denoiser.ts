/**
 * The denoisers of kan_diffusion.denoisers.kan and .mlp for points of the plane: (x_t, t) to a
 * prediction, by layers one after another. Where a denoiser is modulated, the timestep scales and
 * shifts the hidden units by a linear map of its features, and is no input.
 */

import { pointFeatures, timeFeatures, type TimeEncoding } from "./features";
import { type Extrapolation, type Layer, LinearLayer, SplineLayer } from "./layers";
import type { Random } from "./random";

interface SharedSettings {
  readonly data_dim: number;
  readonly hidden: readonly number[];
  readonly num_train_timesteps: number;
  readonly time_encoding: TimeEncoding;
  readonly num_time_frequencies: number;
  readonly num_classes?: 0; // of older files
  readonly num_input_frequencies: number;
  readonly residual: boolean;
  readonly modulated: boolean;
  readonly blocks: readonly [];
}

export interface KanSettings extends SharedSettings {
  readonly _class_name: "KANDenoiser";
  readonly bias: boolean;
  readonly basis: "bspline";
  readonly grid_size: number;
  readonly order: number;
  readonly grid_range: readonly [number, number];
  readonly extrapolation: Extrapolation;
  readonly base_activation: "silu" | "auto" | null;
  readonly edge_scale: false;
  readonly init: string;
  readonly scaled_inputs: boolean;
}

export interface MlpSettings extends SharedSettings {
  readonly _class_name: "MLPDenoiser";
  readonly activation: "silu" | "relu";
  readonly init: string;
}

/** Those that this page trains. */
export type DenoiserSettings = KanSettings | MlpSettings;

export interface GatedSettings {
  readonly _class_name: "GatedDenoiser";
  readonly data_dim: number;
  readonly hidden: readonly number[];
  readonly num_train_timesteps: number;
  readonly num_classes?: 0; // of older files
  readonly learned_inputs: boolean;
  readonly num_input_frequencies: number | null;
  readonly num_time_frequencies: number;
  readonly input_grid_size: number;
  readonly learned_functions: boolean;
  readonly num_functions: number;
  readonly function_rate: number; // of training in Python
  readonly grid_size: number;
  readonly order: number;
  readonly grid_range: readonly [number, number];
  readonly gated: boolean;
  readonly residual: boolean;
  readonly rank: number | null;
  readonly blocks: readonly [];
}

/** A layer whose edges are functions of one input each. */
export interface Curves {
  readonly inputs: number;
  readonly outputs: number;
  edge(input: number, output: number, x: number): number;
}

/** A network that this page shows. */
export interface Network {
  readonly settings: DenoiserSettings | GatedSettings;
  readonly numParameters: number;
  /** Names and shapes of the tensors of the state dict, as torch has them. */
  readonly shapes: ReadonlyMap<string, readonly number[]>;
  stateDict(): StateDict;
  /** Takes the tensors of a state dict, which has been checked to have these shapes. */
  loadStateDict(state: StateDict): void;
  /** Predictions (rows, 2) for points (rows, 2), each at its own whole timestep. */
  forward(points: Float64Array, timesteps: ArrayLike<number>): Float64Array;
  /** Its layers from the inputs on whose edges are curves. */
  readonly curves: readonly Curves[];
  /** What reached those layers in the last forward pass, (rows, inputs) each. */
  readonly lastInputs: readonly Float64Array[];
  /** The name of an input of a layer, counted from 0; the layer after the last has the outputs. */
  nameOf(layer: number, unit: number): string;
}

/** A tensor of a state dict: its shape and its numbers, row by row. */
export interface Tensor {
  readonly shape: readonly number[];
  readonly values: Float32Array;
}

export type StateDict = Record<string, Tensor>;

const SHARED = {
  data_dim: 2,
  num_train_timesteps: 1000,
  time_encoding: "fourier",
  num_time_frequencies: 4,
  num_input_frequencies: 0,
  residual: false,
  modulated: true,
  blocks: [],
} as const;

export function kanSettings(hidden: readonly number[]): KanSettings {
  return {
    _class_name: "KANDenoiser",
    ...SHARED,
    hidden,
    bias: true,
    basis: "bspline",
    grid_size: 8,
    order: 3,
    grid_range: [-3, 3],
    extrapolation: "linear",
    base_activation: "auto",
    edge_scale: false,
    init: "power-law",
    scaled_inputs: false,
  };
}

export function mlpSettings(hidden: readonly number[]): MlpSettings {
  return { _class_name: "MLPDenoiser", ...SHARED, hidden, activation: "silu", init: "torch" };
}

interface Modulation {
  readonly layer: LinearLayer;
  readonly scaledInputs: number;
}

/** What a forward pass leaves for the backward pass. */
interface Trace {
  rows: number;
  raw: Float64Array;
  states: Float64Array[];
  outputs: Float64Array[];
  before: Float64Array[];
  time: Float64Array;
  modulations: Float64Array | null;
}

export class Denoiser implements Network {
  readonly parameters: Float64Array;
  readonly gradients: Float64Array;
  readonly layers: Layer[];
  private readonly modulation: Modulation | null;
  /** Features of all timesteps. */
  private readonly times: Float64Array;
  private readonly names: { name: string; shape: number[]; read: (values: ArrayLike<number>) => void; write: () => Float32Array }[] = [];
  private trace: Trace | null = null;

  constructor(readonly settings: DenoiserSettings) {
    const s = settings;
    this.times = timeFeatures(s.time_encoding, s.num_train_timesteps, s.num_time_frequencies);
    const numTime = this.times.length / s.num_train_timesteps;
    const numPoints = s.data_dim * (1 + 2 * s.num_input_frequencies);
    const widths = [numPoints + (s.modulated ? 0 : numTime), ...s.hidden, s.data_dim];
    const pairs = widths.slice(1).map((outputs, i) => [widths[i], outputs] as const);
    const total = s.hidden.reduce((sum, width) => sum + width, 0);
    const scaled = s._class_name === "KANDenoiser" && s.scaled_inputs ? widths[0] : 0;
    const numModulations = s.modulated ? 2 * total + scaled : 0;
    const spline = s._class_name === "KANDenoiser" ? s : null;
    const base = spline !== null && spline.base_activation !== null;
    const perInput = spline === null ? 1 : spline.grid_size + spline.order + Number(base);
    const hasBias = spline === null || spline.bias;
    let count = numModulations * (numTime + 1);
    for (const [inputs, outputs] of pairs) count += inputs * outputs * perInput + (hasBias ? outputs : 0);
    this.parameters = new Float64Array(count);
    this.gradients = new Float64Array(count);
    let used = 0;
    const take = (size: number): [Float64Array, Float64Array] => {
      const parts = [this.parameters, this.gradients].map((v) => v.subarray(used, used + size)) as [Float64Array, Float64Array];
      used += size;
      return parts;
    };
    const stacked = s.residual || s.modulated || scaled > 0;
    this.layers = pairs.map(([inputs, outputs], index) => {
      const [weight, weightGradient] = take(inputs * outputs * perInput);
      const [bias, biasGradient] = hasBias ? take(outputs) : [null, null];
      const place = spline !== null || stacked ? `network.layers.${index}` : `network.${2 * index}`;
      this.keep(`${place}.weight`, [outputs, inputs * perInput], weight, outputs);
      if (bias !== null) this.keep(`${place}.bias`, [outputs], bias, 1);
      if (spline === null) return new LinearLayer(inputs, outputs, weight, bias!, weightGradient, biasGradient!);
      const [low, high] = spline.grid_range;
      const origin = new Float64Array(inputs).fill(low);
      const step = new Float64Array(inputs).fill((high - low) / spline.grid_size);
      this.keep(`${place}.basis.grid_origin`, [inputs], origin, 1);
      this.keep(`${place}.basis.grid_step`, [inputs], step, 1);
      return new SplineLayer(
        inputs, outputs, spline.grid_size, spline.order, base, spline.extrapolation,
        weight, bias, weightGradient, biasGradient, origin, step,
      );
    });
    this.modulation = null;
    if (numModulations > 0) {
      const [weight, weightGradient] = take(numTime * numModulations);
      const [bias, biasGradient] = take(numModulations);
      this.keep("network.modulation.weight", [numModulations, numTime], weight, numModulations);
      this.keep("network.modulation.bias", [numModulations], bias, 1);
      this.modulation = {
        layer: new LinearLayer(numTime, numModulations, weight, bias, weightGradient, biasGradient),
        scaledInputs: scaled,
      };
    }
  }

  /** Registers a tensor of the state dict; a matrix (outputs, n) lies here as (n, outputs). */
  private keep(name: string, shape: number[], values: Float64Array, outputs: number): void {
    const rows = values.length / outputs;
    this.names.push({
      name,
      shape,
      read: (given) => {
        for (let o = 0; o < outputs; o++) for (let r = 0; r < rows; r++) values[r * outputs + o] = given[o * rows + r];
      },
      write: () => {
        const out = new Float32Array(values.length);
        for (let o = 0; o < outputs; o++) for (let r = 0; r < rows; r++) out[o * rows + r] = values[r * outputs + o];
        return out;
      },
    });
  }

  get numParameters(): number {
    return this.parameters.length;
  }

  get curves(): readonly Curves[] {
    return this.layers.filter((layer) => layer instanceof SplineLayer);
  }

  nameOf(layer: number, unit: number): string {
    if (layer === 0) return unit < 2 ? "xy"[unit] : `time ${unit - 1}`;
    if (layer === this.layers.length) return unit === 0 ? "the x output" : "the y output";
    return `unit ${unit + 1} of layer ${layer}`;
  }

  get shapes(): ReadonlyMap<string, readonly number[]> {
    return new Map(this.names.map(({ name, shape }) => [name, shape]));
  }

  stateDict(): StateDict {
    return Object.fromEntries(this.names.map(({ name, shape, write }) => [name, { shape, values: write() }]));
  }

  loadStateDict(state: StateDict): void {
    for (const { name, read } of this.names) read(state[name].values);
  }

  /** Gradients by the names of the parameters, in torch's layout. */
  gradientDict(): StateDict {
    const own = this.parameters.slice();
    this.parameters.set(this.gradients);
    const state = this.stateDict();
    this.parameters.set(own);
    return Object.fromEntries(Object.entries(state).filter(([name]) => !name.includes("grid_")));
  }

  /** Draws fresh parameters, as the Python classes do (by other random numbers). */
  reset(random: Random): void {
    this.parameters.fill(0);
    for (const layer of this.layers) {
      if (layer instanceof SplineLayer) {
        const { inputs, outputs, width, numSplines, hasBase, weight } = layer;
        const size = inputs * (numSplines + 1);
        const sigma = Math.sqrt(2 / (inputs + outputs));
        for (let n = 0; n < weight.length; n++) {
          const isBase = hasBase && Math.floor(n / outputs) % width === 0;
          // Power law (Rigas et al. 2025); without a base branch as Glorot and Bengio.
          const std = !hasBase ? sigma : isBase ? size ** -0.25 : size ** -1.75;
          weight[n] = std * random.normal();
        }
      } else if (layer instanceof LinearLayer) {
        const bound = 1 / Math.sqrt(layer.inputs);
        for (const values of [layer.weight, layer.bias]) {
          for (let n = 0; n < values.length; n++) values[n] = bound * (2 * random.uniform() - 1);
        }
      }
    }
  }

  private activate(values: Float64Array): Float64Array {
    if (this.settings._class_name === "KANDenoiser") return values;
    const out = new Float64Array(values.length);
    if (this.settings.activation === "relu") for (let n = 0; n < out.length; n++) out[n] = Math.max(values[n], 0);
    else for (let n = 0; n < out.length; n++) out[n] = values[n] / (1 + Math.exp(-values[n]));
    return out;
  }

  private activateBackward(before: Float64Array, gradient: Float64Array): void {
    if (this.settings._class_name === "KANDenoiser") return;
    if (this.settings.activation === "relu") {
      for (let n = 0; n < gradient.length; n++) if (before[n] <= 0) gradient[n] = 0;
      return;
    }
    for (let n = 0; n < gradient.length; n++) {
      const gate = 1 / (1 + Math.exp(-before[n]));
      gradient[n] *= gate * (1 + before[n] * (1 - gate));
    }
  }

  forward(points: Float64Array, timesteps: ArrayLike<number>): Float64Array {
    const s = this.settings;
    const rows = points.length / s.data_dim;
    const numTime = this.times.length / s.num_train_timesteps;
    const time = new Float64Array(rows * numTime);
    for (let row = 0; row < rows; row++) {
      const from = timesteps[row] * numTime;
      for (let n = 0; n < numTime; n++) time[row * numTime + n] = this.times[from + n];
    }
    const features = pointFeatures(points, rows, s.data_dim, s.num_input_frequencies);
    const numPoints = features.length / rows;
    let state = features;
    if (!s.modulated) {
      const width = numPoints + numTime;
      state = new Float64Array(rows * width);
      for (let row = 0; row < rows; row++) {
        for (let i = 0; i < numPoints; i++) state[row * width + i] = features[row * numPoints + i];
        for (let i = 0; i < numTime; i++) state[row * width + numPoints + i] = time[row * numTime + i];
      }
    }
    const trace: Trace = { rows, raw: state, states: [], outputs: [], before: [], time, modulations: null };
    this.trace = trace;
    let scaleAt = 0;
    let shiftAt = 0;
    let numModulations = 0;
    let all: Float64Array | null = null;
    if (this.modulation !== null) {
      const { layer, scaledInputs } = this.modulation;
      all = trace.modulations = layer.forward(time, rows);
      numModulations = layer.outputs;
      shiftAt = (numModulations - scaledInputs) / 2;
      if (scaledInputs > 0) {
        const scaled = new Float64Array(state.length);
        for (let row = 0; row < rows; row++) {
          const from = row * numModulations + 2 * shiftAt;
          for (let i = 0; i < scaledInputs; i++) scaled[row * scaledInputs + i] = state[row * scaledInputs + i] * (1 + all[from + i]);
        }
        state = scaled;
      }
    }
    for (let index = 0; index < s.hidden.length; index++) {
      const layer = this.layers[index];
      const width = layer.outputs;
      const output = layer.forward(state, rows);
      trace.states.push(state);
      trace.outputs.push(output);
      let mixed = output;
      if (all !== null) {
        mixed = new Float64Array(output.length);
        for (let row = 0; row < rows; row++) {
          const from = row * numModulations;
          for (let o = 0; o < width; o++) {
            const n = row * width + o;
            mixed[n] = all[from + shiftAt + o] + output[n] * (1 + all[from + scaleAt + o]);
          }
        }
        scaleAt += width;
        shiftAt += width;
      }
      trace.before.push(mixed);
      let next = this.activate(mixed);
      if (s.residual && index > 0) {
        if (next === mixed) next = mixed.slice();
        const common = Math.min(width, layer.inputs);
        for (let row = 0; row < rows; row++) {
          for (let o = 0; o < common; o++) next[row * width + o] += state[row * layer.inputs + o];
        }
      }
      state = next;
    }
    trace.states.push(state);
    return this.layers[s.hidden.length].forward(state, rows);
  }

  /** Adds to the gradients of the parameters those of the last forward pass. */
  backward(gradient: Float64Array): void {
    const trace = this.trace;
    if (trace === null) throw new Error("backward needs a forward pass first");
    const s = this.settings;
    const { rows, states, outputs, before, time, modulations } = trace;
    const numModulations = this.modulation?.layer.outputs ?? 0;
    const scaledInputs = this.modulation?.scaledInputs ?? 0;
    const toModulation = modulations === null ? null : new Float64Array(modulations.length);
    const total = (numModulations - scaledInputs) / 2;
    let offset = total;
    const needsFirst = scaledInputs > 0;
    const last = s.hidden.length;
    let back = this.layers[last].backward(states[last], gradient, rows, last > 0 || needsFirst);
    for (let index = last - 1; index >= 0; index--) {
      const layer = this.layers[index];
      const width = layer.outputs;
      offset -= width;
      const skip = s.residual && index > 0 ? back!.slice() : null;
      const g = back!;
      this.activateBackward(before[index], g);
      if (modulations !== null && toModulation !== null) {
        for (let row = 0; row < rows; row++) {
          const from = row * numModulations + offset;
          for (let o = 0; o < width; o++) {
            const n = row * width + o;
            toModulation[from + o] = g[n] * outputs[index][n];
            toModulation[from + total + o] = g[n];
            g[n] *= 1 + modulations[from + o];
          }
        }
      }
      back = layer.backward(states[index], g, rows, index > 0 || needsFirst);
      if (skip !== null && back !== null) {
        const common = Math.min(width, layer.inputs);
        for (let row = 0; row < rows; row++) {
          for (let o = 0; o < common; o++) back[row * layer.inputs + o] += skip[row * width + o];
        }
      }
    }
    if (toModulation === null || this.modulation === null) return;
    if (needsFirst && back !== null) {
      for (let row = 0; row < rows; row++) {
        for (let i = 0; i < scaledInputs; i++) {
          toModulation[row * numModulations + 2 * total + i] = back[row * scaledInputs + i] * trace.raw[row * scaledInputs + i];
        }
      }
    }
    this.modulation.layer.backward(time, toModulation, rows, false);
  }

  get lastInputs(): readonly Float64Array[] {
    return this.trace?.states ?? [];
  }
}

/** Widths of hidden layers of an MLP that has as many parameters as wanted, as near as they come. */
export function matchingMlp(wanted: number, depth: number): number[] {
  const count = (hidden: number[]): number => new Denoiser(mlpSettings(hidden)).parameters.length;
  let width = 1;
  while (count(Array<number>(depth).fill(width + 1)) <= wanted) width++;
  let best = Array<number>(depth).fill(width);
  for (let more = 1; more <= depth; more++) {
    const wider = Array.from({ length: depth }, (_, i) => width + Number(i >= depth - more));
    if (Math.abs(count(wider) - wanted) < Math.abs(count(best) - wanted)) best = wider;
  }
  return best;
}
