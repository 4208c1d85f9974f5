/**
 * A denoiser of points of the plane, (x_t, t) to v, as kan_diffusion.denoisers.NetworkDenoiser builds
 * it with `modulated`: layers one after another, whose hidden units the timestep scales and shifts,
 * by a linear map of its features.
 */

import { Layer, type LayerKind, NUM_SPLINES } from "./layer";
import { NUM_TIMESTEPS } from "./process";
import type { Random } from "./random";

export interface DenoiserSettings {
  readonly kind: "kan" | "mlp";
  /** Widths of the hidden layers. */
  readonly hidden: readonly number[];
}

const LINEAR: LayerKind = { base: "identity", splines: false };
const NUM_FREQUENCIES = 4;
const NUM_TIME = 2 * NUM_FREQUENCIES;

/** Cosines, then sines, of every timestep (NUM_TIMESTEPS, NUM_TIME). */
const TIME_FEATURES = Float64Array.from({ length: NUM_TIMESTEPS * NUM_TIME }, (_, n) => {
  const [t, m] = [Math.floor(n / NUM_TIME), n % NUM_TIME];
  const angle = (2 ** ((m % NUM_FREQUENCIES) - 1) * Math.PI * (t + 1)) / NUM_TIMESTEPS;
  return m < NUM_FREQUENCIES ? Math.cos(angle) : Math.sin(angle);
});

/** Inputs and outputs of every layer, with its kind; last comes the map of the timestep. */
function shapesOf({ kind, hidden }: DenoiserSettings): (readonly [number, number, LayerKind])[] {
  const widths = [2, ...hidden, 2];
  const layers = widths.slice(1).map((outputs, n): readonly [number, number, LayerKind] => {
    const isFirst = n === 0;
    return [widths[n], outputs, { base: kind === "kan" || !isFirst ? "silu" : "identity", splines: kind === "kan" }];
  });
  const units = hidden.reduce((sum, width) => sum + width, 0);
  return [...layers, [NUM_TIME, 2 * units, LINEAR]];
}

export const numParametersOf = (settings: DenoiserSettings): number =>
  shapesOf(settings).reduce((sum, shape) => sum + Layer.count(...shape), 0);

export class Denoiser {
  /** Parameters of the layers one after another, then those of the map of the timestep. */
  readonly parameters: Float64Array;
  readonly gradients: Float64Array;
  readonly layers: readonly Layer[];
  /** What reached the layers in the last forward pass, (rows, inputs) each. */
  readonly lastInputs: Float64Array[] = [];
  private readonly modulation: Layer;
  /** What the last forward pass computed: outputs of the hidden layers, and scales and shifts. */
  private readonly lastOutputs: Float64Array[] = [];
  private modulations: Float64Array = new Float64Array(0);

  constructor(readonly settings: DenoiserSettings) {
    const count = numParametersOf(settings);
    this.parameters = new Float64Array(count);
    this.gradients = new Float64Array(count);
    let used = 0;
    const all = shapesOf(settings).map((shape) => {
      const layer = new Layer(...shape, this.parameters.subarray(used), this.gradients.subarray(used));
      used += Layer.count(...shape);
      return layer;
    });
    this.modulation = all[all.length - 1];
    this.layers = all.slice(0, -1);
  }

  /** Draws fresh parameters, as the Python class does (by other random numbers). */
  reset(random: Random): void {
    this.parameters.fill(0);
    const fill = (values: Float64Array, draw: () => number): void => values.forEach((_, n) => (values[n] = draw()));
    for (const { inputs, outputs, kind, weight, bias } of this.layers) {
      if (kind.splines) {
        // Power law (Rigas et al. 2025).
        const size = inputs * (NUM_SPLINES + 1);
        fill(weight.subarray(0, inputs * outputs), () => size ** -0.25 * random.normal());
        fill(weight.subarray(inputs * outputs), () => size ** -1.75 * random.normal());
      } else {
        for (const values of [weight, bias]) fill(values, () => (2 * random.uniform() - 1) / Math.sqrt(inputs));
      }
    }
  }

  /** Predictions (rows, 2) for points (rows, 2), each at its own timestep. */
  forward(points: Float64Array, timesteps: ArrayLike<number>): Float64Array {
    const rows = timesteps.length;
    const time = new Float64Array(rows * NUM_TIME);
    for (let n = 0; n < time.length; n++) {
      time[n] = TIME_FEATURES[timesteps[Math.floor(n / NUM_TIME)] * NUM_TIME + (n % NUM_TIME)];
    }
    const all = (this.modulations = this.modulation.forward(time));
    const units = this.modulation.outputs / 2;
    let state: Float64Array = points;
    let unit = 0;
    this.layers.forEach((layer, index) => {
      this.lastInputs[index] = state;
      const output = layer.forward(state);
      const width = layer.outputs;
      if (index === this.layers.length - 1) {
        state = output;
        return;
      }
      this.lastOutputs[index] = output;
      state = new Float64Array(output.length);
      for (let row = 0; row < rows; row++) {
        const scales = 2 * units * row + unit;
        for (let o = 0; o < width; o++) {
          const n = row * width + o;
          state[n] = output[n] * (1 + all[scales + o]) + all[scales + units + o];
        }
      }
      unit += width;
    });
    return state;
  }

  /** Predictions for points (rows, 2) at one timestep. */
  at(points: Float64Array, timestep: number): Float64Array {
    return this.forward(points, new Int32Array(points.length / 2).fill(timestep));
  }

  /** Adds to the gradients of the parameters those of the last forward pass. */
  backward(gradient: Float64Array): void {
    const { modulations: all } = this;
    const units = this.modulation.outputs / 2;
    const toModulation = new Float64Array(all.length);
    const last = this.layers.length - 1;
    let back = this.layers[last].backward(gradient);
    let unit = units;
    for (let index = last - 1; index >= 0; index--) {
      const output = this.lastOutputs[index];
      const width = this.layers[index].outputs;
      unit -= width;
      for (let n = 0; n < output.length; n++) {
        const scale = 2 * units * Math.floor(n / width) + unit + (n % width);
        toModulation[scale] = back[n] * output[n];
        toModulation[scale + units] = back[n];
        back[n] *= 1 + all[scale];
      }
      back = this.layers[index].backward(back);
    }
    this.modulation.backward(toModulation);
  }
}

/** Widths of hidden layers of an MLP that has as many parameters as wanted, as near as they come. */
export function matchingMlp(wanted: number, depth: number): number[] {
  const count = (hidden: number[]): number => numParametersOf({ kind: "mlp", hidden });
  let width = 1;
  while (count(Array<number>(depth).fill(width + 1)) <= wanted) width++;
  let best = Array<number>(depth).fill(width);
  for (let more = 1; more <= depth; more++) {
    const wider = Array.from({ length: depth }, (_, i) => width + Number(i >= depth - more));
    if (Math.abs(count(wider) - wanted) < Math.abs(count(best) - wanted)) best = wider;
  }
  return best;
}
