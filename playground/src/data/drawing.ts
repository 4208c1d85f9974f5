/** A drawing: points on a grid of 1,024 by 1,024, as a link carries them. */

import { Random } from "../model/random";
import type { Point } from "./csv";

/** The drawing's window goes from -REACH to REACH, in its own units. */
export const REACH = 1.5;
/** Standard deviation of the brush, the Gaussian about each drawn point. */
export const BRUSH = 0.04;
export const MOST_POINTS = 2000;
export const FEWEST_POINTS = 10;

const LAST = 1023;
const SPACING = 0.025;

/** A coordinate's number on the grid, and the other way round. */
const indexOf = (value: number): number => Math.round(((Math.min(Math.max(value, -REACH), REACH) + REACH) / (2 * REACH)) * LAST);
const valueOf = (index: number): number => (index / LAST) * 2 * REACH - REACH;
const snap = (value: number): number => valueOf(indexOf(value));

export class Drawing {
  private strokes: Point[][] = [];

  get points(): Point[] {
    return this.strokes.flat();
  }

  get size(): number {
    return this.strokes.reduce((sum, stroke) => sum + stroke.length, 0);
  }

  /** Begins a stroke at a point. */
  begin(point: Point): void {
    this.strokes.push([]);
    this.add(point);
  }

  /** Goes on to a point, with others at even distances on the way. */
  extend(point: Point): void {
    const last = this.strokes.at(-1)?.at(-1);
    if (last === undefined) {
      this.begin(point);
      return;
    }
    const [dx, dy] = [point[0] - last[0], point[1] - last[1]];
    const parts = Math.floor(Math.hypot(dx, dy) / SPACING);
    for (let n = 1; n <= parts; n++) this.add([last[0] + (dx * n) / parts, last[1] + (dy * n) / parts]);
  }

  private add([x, y]: Point): void {
    if (this.size < MOST_POINTS) this.strokes.at(-1)?.push([snap(x), snap(y)]);
  }

  undo(): void {
    this.strokes.pop();
  }

  clear(): void {
    this.strokes = [];
  }

  /** Takes other points instead of its own, thinned at random to as many as it holds. */
  replace(points: readonly Point[]): void {
    this.strokes = [thinned(points).map(([x, y]): Point => [snap(x), snap(y)])];
  }
}

function thinned(points: readonly Point[]): readonly Point[] {
  if (points.length <= MOST_POINTS) return points;
  const random = new Random(1);
  const left = [...points];
  return Array.from({ length: MOST_POINTS }, (_, n) => {
    const other = n + random.below(left.length - n);
    [left[n], left[other]] = [left[other], left[n]];
    return left[n];
  });
}

/** Moves points of any units into the drawing's window, both axes by one factor. */
export function fitted(points: readonly Point[]): Point[] {
  const ends = [0, 1].map((d) => points.reduce(([low, high], point) => [Math.min(low, point[d]), Math.max(high, point[d])], [Infinity, -Infinity]));
  const factor = (1.6 * REACH) / (Math.max(...ends.map(([low, high]) => high - low)) || 1);
  const [x, y] = ends.map(([low, high]) => (low + high) / 2);
  return points.map((point): Point => [(point[0] - x) * factor, (point[1] - y) * factor]);
}

/** Points as letters of a link, two for each coordinate. */
export const encodePoints = (points: readonly Point[]): string =>
  points.flat().map((value) => indexOf(value).toString(36).padStart(2, "0")).join("");

/** The points of a link; null where its letters are no points. */
export function decodePoints(text: string): Point[] | null {
  if (!/^([0-9a-z]{4})*$/.test(text) || text.length > 4 * MOST_POINTS) return null;
  const values = (text.match(/../g) ?? []).map((letters) => parseInt(letters, 36));
  if (values.some((value) => value > LAST)) return null;
  return Array.from({ length: values.length / 2 }, (_, n): Point => [valueOf(values[2 * n]), valueOf(values[2 * n + 1])]);
}
