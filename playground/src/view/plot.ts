/** A drawing with axes, as SVG. */

import { svg, ticks } from "./dom";

export interface PlotSettings {
  readonly width: number;
  readonly height: number;
  /** Room on every side, in pixels. */
  readonly left: number;
  readonly right: number;
  readonly top: number;
  readonly bottom: number;
  /** Ends of the axes. */
  readonly x: readonly [number, number];
  readonly y: readonly [number, number];
  /** About as many ticks as wanted. */
  readonly ticks: readonly [x: number, y: number];
  readonly title: string;
  readonly label: string;
}

const tickText = (value: number): string => value.toLocaleString("en").replace("-", "−");

export class Plot {
  readonly picture: SVGElement;

  constructor(private readonly settings: PlotSettings) {
    const { width, height, left, right, bottom } = settings;
    this.picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": settings.label });
    for (const value of ticks(...settings.y, settings.ticks[1])) {
      const y = this.y(value);
      this.picture.append(svg("line", { class: "axis", x1: left, x2: width - right, y1: y, y2: y }));
      this.text(left - 8, y + 4, tickText(value), "end");
    }
    for (const value of ticks(...settings.x, settings.ticks[0])) this.text(this.x(value), height - bottom + 18, tickText(value));
    this.text((left + width - right) / 2, height - 6, settings.title);
  }

  x(value: number): number {
    const { width, left, right, x } = this.settings;
    return left + ((width - left - right) * (value - x[0])) / (x[1] - x[0]);
  }

  y(value: number): number {
    const { height, top, bottom, y } = this.settings;
    return top + ((height - top - bottom) * (y[1] - value)) / (y[1] - y[0]);
  }

  text(x: number, y: number, text: string, anchor: "start" | "middle" | "end" = "middle"): SVGElement {
    const element = svg("text", { x, y, "text-anchor": anchor }, text);
    this.picture.append(element);
    return element;
  }

  /** A line through points in the units of the axes. */
  line(points: readonly (readonly [number, number])[], attributes: Readonly<Record<string, string | number>> = {}): void {
    this.picture.append(svg("path", { d: pathOf(points.map(([x, y]) => [this.x(x), this.y(y)])), fill: "none", ...attributes }));
  }
}

/** The path through points in pixels. */
export const pathOf = (points: readonly (readonly [number, number])[]): string =>
  points.map(([x, y], n) => `${n === 0 ? "M" : "L"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
