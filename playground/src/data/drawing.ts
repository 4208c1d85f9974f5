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

const snap = (value: number): number => {
  const share = Math.round(((Math.min(Math.max(value, -REACH), REACH) + REACH) / (2 * REACH)) * LAST);
  return (share / LAST) * 2 * REACH - REACH;
};

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
  for (let n = 0; n < MOST_POINTS; n++) {
    const other = n + random.below(left.length - n);
    [left[n], left[other]] = [left[other], left[n]];
  }
  return left.slice(0, MOST_POINTS);
}

/** Moves points of any units into the drawing's window, both axes by one factor. */
export function fitted(points: readonly Point[]): Point[] {
  const ends = [0, 1].map((d) => {
    let low = Infinity;
    let high = -Infinity;
    for (const point of points) {
      low = Math.min(low, point[d]);
      high = Math.max(high, point[d]);
    }
    return [low, high] as const;
  });
  const widest = Math.max(...ends.map(([low, high]) => high - low)) || 1;
  const factor = (1.6 * REACH) / widest;
  const middle = ends.map(([low, high]) => (low + high) / 2);
  return points.map(([x, y]): Point => [(x - middle[0]) * factor, (y - middle[1]) * factor]);
}

const LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/** Points as letters of a link: 24 bits a point. */
export function encodePoints(points: readonly Point[]): string {
  const index = (value: number): number => Math.round(((value + REACH) / (2 * REACH)) * LAST);
  return points
    .map(([x, y]) => {
      const bits = (index(x) << 12) | index(y);
      return [18, 12, 6, 0].map((shift) => LETTERS[(bits >> shift) & 63]).join("");
    })
    .join("");
}

/** The points of a link; null where its letters are no points. */
export function decodePoints(text: string): Point[] | null {
  if (text.length % 4 !== 0 || text.length > 4 * MOST_POINTS) return null;
  const points: Point[] = [];
  for (let at = 0; at < text.length; at += 4) {
    let bits = 0;
    for (const letter of text.slice(at, at + 4)) {
      const value = LETTERS.indexOf(letter);
      if (value < 0) return null;
      bits = (bits << 6) | value;
    }
    const [x, y] = [bits >> 12, bits & 4095];
    if (x > LAST || y > LAST) return null;
    points.push([(x / LAST) * 2 * REACH - REACH, (y / LAST) * 2 * REACH - REACH]);
  }
  return points;
}
