/** One of the two networks on the page: it learns in a worker of its own. */

import { Denoiser } from "./model/denoiser";
import { ALPHA, SIGMA } from "./model/process";
import type { Order, Report } from "./worker";

export class Contestant {
  readonly denoiser: Denoiser;
  readonly steps: number;
  /** States of the reverse process from noise to points; none before the first report. */
  states: readonly Float64Array[] = [];
  /** Steps of training with the losses after them. */
  readonly losses: (readonly [number, number])[] = [];
  seconds = 0;
  private worker: Worker | null;
  private isPaused = false;
  private isWaiting = false;

  /**
   * Starts training.
   *
   * @param onReport Is called after each report.
   * @param onEnd Is called after the last report, or with what went wrong.
   */
  constructor(name: string, order: Order, onReport: () => void, onEnd: (failure: string | null) => void) {
    this.denoiser = new Denoiser(order.settings);
    this.steps = order.steps;
    this.worker = new Worker(new URL("./worker.ts", import.meta.url), { type: "module", name });
    const end = (failure: string | null): void => {
      this.stop();
      onEnd(failure);
    };
    this.worker.onmessage = ({ data }: MessageEvent<Report>): void => {
      this.take(data);
      onReport();
      if (data.step === this.steps) end(null);
    };
    this.worker.onerror = (event): void => end(event.message || "the worker did not start");
    this.worker.postMessage(order);
  }

  private take(report: Report): void {
    this.denoiser.parameters.set(report.parameters);
    this.seconds = report.seconds;
    this.losses.push([report.step, report.loss]);
    this.states = report.states ?? this.states;
    this.isWaiting = true;
    this.pause(this.isPaused);
  }

  get isTraining(): boolean {
    return this.worker !== null;
  }

  /** The points that it makes of noise; null before the first report. */
  get samples(): Float64Array | null {
    return this.states.at(-1) ?? null;
  }

  pause(paused: boolean): void {
    this.isPaused = paused;
    if (paused || !this.isWaiting) return;
    this.isWaiting = false;
    this.worker?.postMessage(null);
  }

  /** Ends training where it is. */
  stop(): void {
    this.worker?.terminate();
    this.worker = null;
  }

  /** sigma times the score at a timestep: the negative predicted noise at points (rows, 2). */
  scoresAt(points: Float64Array, t: number): Float64Array {
    const velocity = this.denoiser.at(points, t);
    return points.map((x, n) => -(SIGMA[t] * x + ALPHA[t] * velocity[n]));
  }
}
