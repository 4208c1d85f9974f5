/** What the page and its workers say to each other. */

import type { Density } from "./data/densities";
import { PointMixture } from "./data/densities";
import { isToy, TOYS } from "./data/toys";
import type { DenoiserSettings } from "./model/denoiser";
import type { TrainingSettings } from "./model/training";

/** A toy by name, or points with a Gaussian brush of a standard deviation about each. */
export type DataSpec =
  | { readonly toy: string }
  | { readonly points: Float64Array; readonly spread: number };

export function makeDensity(data: DataSpec): Density {
  if ("toy" in data) {
    if (!isToy(data.toy)) throw new Error(`there is no toy ${data.toy}`);
    return TOYS[data.toy].make();
  }
  return new PointMixture(data.points, new Float64Array(data.points.length / 2).fill(1), data.spread);
}

export type ToWorker =
  | {
      readonly type: "start";
      readonly settings: DenoiserSettings;
      readonly training: TrainingSettings;
      readonly data: DataSpec;
      readonly seed: number;
      /** Standard normal noise (rows, 2) from which the shown points start. */
      readonly start: Float64Array;
      readonly samplerSteps: number;
    }
  | { readonly type: "pause" }
  | { readonly type: "resume" };

export interface Progress {
  readonly step: number;
  readonly steps: number;
  readonly seconds: number;
  /** Loss of the averaged parameters on the fixed draws. */
  readonly loss: number;
  /** The averaged parameters. */
  readonly parameters: Float64Array;
  /** States of the reverse process from the given noise; null where they were left out this time. */
  readonly states: readonly Float64Array[] | null;
}

export type FromWorker = ({ readonly type: "progress" } & Progress) | { readonly type: "failed"; readonly reason: string };
