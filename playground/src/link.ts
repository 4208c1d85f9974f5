/** The state that a link keeps, in the address after '#'. */

import type { Point } from "./data/csv";
import { decodePoints, encodePoints } from "./data/drawing";
import { isToy, type ToyName } from "./data/toys";

export interface State {
  readonly data: ToyName | "drawing";
  readonly points: readonly Point[];
  readonly steps: number;
  readonly hidden: readonly number[];
  readonly seed: number;
  /** Where the time slider stands: states of the reverse process, from noise on. */
  readonly time: number;
  readonly trained: boolean;
  /** Layer, input and output of the chosen edge. */
  readonly edge: readonly [number, number, number] | null;
}

export const STEPS = [500, 2000, 8000] as const;
export const SIZES: readonly (readonly number[])[] = [[5, 5], [8, 8], [8, 8, 8]];
export const SAMPLER_STEPS = 40;

export const START: State = {
  data: "swiss-roll",
  points: [],
  steps: 2000,
  hidden: [8, 8],
  seed: 1,
  time: SAMPLER_STEPS,
  trained: false,
  edge: null,
};

const whole = (text: string | null, low: number, high: number): number | null => {
  const value = text !== null && /^\d+$/.test(text) ? Number(text) : NaN;
  return value >= low && value <= high ? value : null;
};

export function toHash(state: State): string {
  const parts = new URLSearchParams({
    data: state.data,
    steps: String(state.steps),
    kan: state.hidden.join("-"),
    seed: String(state.seed),
    time: String(Math.round(state.time)),
  });
  if (state.trained) parts.set("trained", "1");
  if (state.edge !== null) parts.set("edge", state.edge.join("-"));
  if (state.data === "drawing") parts.set("points", encodePoints(state.points));
  return `#${parts.toString()}`;
}

/** The state of a link; what it does not say, or says wrongly, is as at the start. */
export function fromHash(hash: string): State {
  const parts = new URLSearchParams(hash.replace(/^#/, ""));
  const data = parts.get("data") ?? "";
  const hidden = SIZES.find((size) => size.join("-") === parts.get("kan"));
  const edge = (parts.get("edge") ?? "").split("-").map((part) => whole(part, 0, 100));
  return {
    data: data === "drawing" || isToy(data) ? data : START.data,
    points: decodePoints(parts.get("points") ?? "") ?? [],
    steps: STEPS.find((steps) => String(steps) === parts.get("steps")) ?? START.steps,
    hidden: hidden ?? START.hidden,
    seed: whole(parts.get("seed"), 0, 1_000_000) ?? START.seed,
    time: whole(parts.get("time"), 0, SAMPLER_STEPS) ?? START.time,
    trained: parts.get("trained") === "1",
    edge: edge.length === 3 && edge.every((part) => part !== null) ? (edge as [number, number, number]) : null,
  };
}
