/** One of the two networks on the page: it learns in a worker of its own. */

import { Denoiser } from "./model/denoiser";
import { ALPHA, SIGMA } from "./model/process";
import type { FromWorker, Order, ToWorker } from "./worker";

export class Contestant {
  readonly denoiser: Denoiser;
  readonly steps: number;
  /** States of the reverse process from noise to points; none before the first report. */
  states: readonly Float64Array[] = [];
  /** Steps of training with the losses after them. */
  readonly losses: (readonly [number, number])[] = [];
  seconds = 0;
  private worker: Worker | null;
  private field: { readonly t: number; readonly vectors: Float64Array } | null = null;

  /**
   * Starts training.
   *
   * @param onReport Is called after each report.
   * @param onEnd Is called after the last report, or with what went wrong.
   */
  constructor(name: string, order: Order, onReport: () => void, onEnd: (failure: string | null) => void) {
    this.denoiser = new Denoiser(order.settings);
    this.steps = order.training.steps;
    const worker = new Worker(new URL("./worker.ts", import.meta.url), { type: "module", name });
    this.worker = worker;
    const end = (failure: string | null): void => {
      this.stop();
      onEnd(failure);
    };
    worker.onmessage = ({ data }: MessageEvent<FromWorker>): void => {
      if (this.worker === null) return;
      if ("failure" in data) {
        end(data.failure);
        return;
      }
      this.denoiser.parameters.set(data.parameters);
      this.seconds = data.seconds;
      this.losses.push([data.step, data.loss]);
      this.states = data.states ?? this.states;
      this.field = null;
      onReport();
      if (data.step === this.steps) end(null);
    };
    worker.onerror = (event): void => end(event.message || "the worker did not start");
    worker.postMessage(order);
  }

  get isTraining(): boolean {
    return this.worker !== null;
  }

  /** The points that it makes of noise; null before the first report. */
  get samples(): Float64Array | null {
    return this.states.at(-1) ?? null;
  }

  pause(paused: boolean): void {
    this.worker?.postMessage({ paused } satisfies ToWorker);
  }

  /** Ends training where it is. */
  stop(): void {
    this.worker?.terminate();
    this.worker = null;
  }

  /** sigma times the score at a timestep: the negative predicted noise at points (rows, 2), the same ones every time. */
  scoresAt(points: Float64Array, t: number): Float64Array {
    if (this.field?.t !== t) {
      const velocity = this.denoiser.at(points, t);
      this.field = { t, vectors: points.map((x, n) => -(SIGMA[t] * x + ALPHA[t] * velocity[n])) };
    }
    return this.field.vectors;
  }
}
