/**
 * Noising processes, as kan_diffusion.processes has them: x_t = alpha_t x_0 + sigma_t eps for
 * t = 0, ..., T - 1, and a prediction type (p, q), with the target p eps - q x_0.
 */

export type Schedule = "squaredcos_cap_v2" | "linear" | "constant" | "flow";
export type PredictionType = "epsilon" | "v_prediction" | "sample" | "flow";

export interface ProcessSettings {
  readonly name: string;
  readonly num_timesteps: number;
  readonly schedule: Schedule;
  readonly beta_start: number;
  readonly beta_end: number;
  readonly prediction_type: PredictionType;
  readonly loss: "mse" | "huber";
}

export const SCHEDULES: readonly Schedule[] = ["squaredcos_cap_v2", "linear", "constant", "flow"];
export const PREDICTIONS: readonly PredictionType[] = ["epsilon", "v_prediction", "sample", "flow"];

export const COSINE: ProcessSettings = {
  name: "cosine",
  num_timesteps: 1000,
  schedule: "squaredcos_cap_v2",
  beta_start: 1e-4,
  beta_end: 2e-2,
  prediction_type: "v_prediction",
  loss: "mse",
};

function betas(settings: ProcessSettings): number[] {
  const { num_timesteps: count, beta_start: first, beta_end: last } = settings;
  if (settings.schedule === "constant") return Array<number>(count).fill(first);
  if (settings.schedule === "linear") {
    return Array.from({ length: count }, (_, t) => first + ((last - first) * t) / (count - 1));
  }
  const signal = (share: number): number => Math.cos((((share + 0.008) / 1.008) * Math.PI) / 2) ** 2;
  return Array.from({ length: count }, (_, t) => Math.min(1 - signal((t + 1) / count) / signal(t / count), 0.999));
}

export class Process {
  readonly numTimesteps: number;
  /** Signal and noise level of every timestep. */
  readonly alpha: Float64Array;
  readonly sigma: Float64Array;

  constructor(readonly settings: ProcessSettings) {
    const count = (this.numTimesteps = settings.num_timesteps);
    this.alpha = new Float64Array(count);
    this.sigma = new Float64Array(count);
    if (settings.schedule === "flow") {
      for (let t = 0; t < count; t++) {
        this.sigma[t] = (t + 1) / count;
        this.alpha[t] = 1 - this.sigma[t];
      }
      return;
    }
    let signal = 1;
    betas(settings).forEach((beta, t) => {
      signal *= Math.fround(1 - Math.fround(beta)); // diffusers' schedules are of float32
      const rounded = Math.fround(signal);
      this.alpha[t] = Math.sqrt(rounded);
      this.sigma[t] = Math.sqrt(1 - rounded);
    });
  }

  /** The pair (p, q) of the prediction type at a timestep. */
  pair(t: number): readonly [number, number] {
    switch (this.settings.prediction_type) {
      case "epsilon":
        return [1, 0];
      case "v_prediction":
        return [this.alpha[t], this.sigma[t]];
      case "sample":
        return [0, -1];
      case "flow":
        return [1, 1];
    }
  }

  /** Predicted noise: a * prediction + b * noised. */
  noiseCoefficients(t: number): readonly [number, number] {
    const [p, q] = this.pair(t);
    const whole = p * this.alpha[t] + q * this.sigma[t];
    return [this.alpha[t] / whole, q / whole];
  }

  /** Predicted clean points: a * prediction + b * noised. */
  cleanCoefficients(t: number): readonly [number, number] {
    const [p, q] = this.pair(t);
    const whole = p * this.alpha[t] + q * this.sigma[t];
    return [-this.sigma[t] / whole, p / whole];
  }

  /** The prediction that belongs to a mean of x_0: a * mean + b * noised. */
  meanCoefficients(t: number): readonly [number, number] {
    const [p, q] = this.pair(t);
    return [-q - (p * this.alpha[t]) / this.sigma[t], p / this.sigma[t]];
  }

  /** Timesteps of a sampler of so many steps, the noisiest first ("trailing", as in diffusers). */
  timesteps(steps: number): number[] {
    const width = this.numTimesteps / steps;
    return Array.from({ length: steps }, (_, i) => Math.max(0, Math.round(this.numTimesteps - i * width) - 1));
  }
}
