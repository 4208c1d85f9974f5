/** A square picture of the plane: points, and arrows of a score field. */

import type { Standardizer } from "../data/densities";
import { colour, find, html } from "./dom";

/** Arrows of the field along a side. */
export const FIELD = 17;

/** The part of the plane that is shown, in the data's units. */
export interface Frame {
  readonly centre: readonly [number, number];
  readonly reach: number;
}

/** The frame of standardised points: nearly all noise is in it. */
export function frameOf({ mean, scale }: Standardizer): Frame {
  return { centre: mean, reach: 2.6 * Math.max(scale[0], scale[1]) };
}

/** Points of the arrows of a frame, standardised (FIELD * FIELD, 2). */
export function fieldPoints(frame: Frame, { mean, scale }: Standardizer): Float64Array {
  return Float64Array.from({ length: 2 * FIELD * FIELD }, (_, n) => {
    const d = n % 2;
    const index = d === 0 ? (n >> 1) % FIELD : Math.floor(n / (2 * FIELD));
    return (frame.centre[d] + frame.reach * ((2 * index + 1) / FIELD - 1) - mean[d]) / scale[d];
  });
}

export class Panel {
  readonly canvas = html("canvas", { role: "img" });
  frame: Frame = { centre: [0, 0], reach: 1 };
  private readonly note = html("span", { className: "note" });
  private readonly facts = html("p", { className: "facts" });
  private readonly context = this.canvas.getContext("2d")!;
  private size = 0;

  /** Adds a picture with its title, and the buttons below it, to the page. */
  constructor(
    private readonly tone: "data" | "kan" | "mlp",
    title: string,
    ...buttons: HTMLButtonElement[]
  ) {
    const caption = html("figcaption", {}, html("h2", { className: tone, textContent: title }), this.note);
    const below = html("div", { className: "below" }, this.facts, ...buttons);
    find(".panels", HTMLElement).append(html("figure", { id: tone }, caption, this.canvas, below));
  }

  say(note: string, facts: string, label: string): void {
    if (this.note.textContent !== note) this.note.textContent = note;
    if (this.facts.textContent !== facts) this.facts.textContent = facts;
    if (this.canvas.getAttribute("aria-label") !== label) this.canvas.setAttribute("aria-label", label);
  }

  /** Empties the picture, in the size that it has on the screen. */
  begin(): void {
    const ratio = window.devicePixelRatio || 1;
    const size = this.canvas.clientWidth;
    if (size !== this.size || this.canvas.width !== Math.round(size * ratio)) {
      this.canvas.width = this.canvas.height = Math.round(size * ratio);
      this.size = size;
    }
    this.context.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.context.clearRect(0, 0, size, size);
  }

  private toScreen(x: number, y: number): readonly [number, number] {
    const { centre, reach } = this.frame;
    return [((x - centre[0]) / reach + 1) * (this.size / 2), (1 - (y - centre[1]) / reach) * (this.size / 2)];
  }

  /** The point in the data's units under a point of the window. */
  toData(clientX: number, clientY: number): readonly [number, number] {
    const box = this.canvas.getBoundingClientRect();
    const { centre, reach } = this.frame;
    return [
      centre[0] + reach * ((2 * (clientX - box.left)) / box.width - 1),
      centre[1] + reach * (1 - (2 * (clientY - box.top)) / box.height),
    ];
  }

  /** Points (rows, 2), standardised. */
  points(values: ArrayLike<number>, { mean, scale }: Standardizer, opacity = 0.6): void {
    const radius = Math.max(1.2, this.size / 230);
    this.context.fillStyle = colour(this.tone);
    this.context.globalAlpha = opacity;
    for (let n = 0; n < values.length; n += 2) {
      const [x, y] = this.toScreen(mean[0] + scale[0] * values[n], mean[1] + scale[1] * values[n + 1]);
      if (x < -9 || y < -9 || x > this.size + 9 || y > this.size + 9) continue;
      this.context.beginPath();
      this.context.arc(x, y, radius, 0, 2 * Math.PI);
      this.context.fill();
    }
    this.context.globalAlpha = 1;
  }

  /** The brush about drawn points, in the data's units. */
  brush(points: readonly (readonly [number, number])[], spread: number): void {
    this.context.fillStyle = colour("ink");
    this.context.globalAlpha = 0.12;
    const radius = (2 * spread * this.size) / (2 * this.frame.reach);
    this.context.beginPath();
    for (const point of points) {
      const [x, y] = this.toScreen(...point);
      this.context.moveTo(x + radius, y);
      this.context.arc(x, y, radius, 0, 2 * Math.PI);
    }
    this.context.fill();
    this.context.globalAlpha = 1;
  }

  /** The pen that the keyboard moves. */
  pen([px, py]: readonly [number, number]): void {
    const [x, y] = this.toScreen(px, py);
    this.context.strokeStyle = colour("ink");
    this.context.lineWidth = 1.5;
    this.context.beginPath();
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      this.context.moveTo(x + 4 * dx, y + 4 * dy);
      this.context.lineTo(x + 12 * dx, y + 12 * dy);
    }
    this.context.stroke();
  }

  /**
   * Arrows at the points of the field.
   *
   * @param vectors sigma times the score, (FIELD * FIELD, 2), standardised.
   */
  field(vectors: Float64Array, { scale }: Standardizer): void {
    const every = this.size < 240 ? 2 : 1; // small pictures have room for fewer arrows
    const cell = this.size / FIELD;
    const widest = Math.max(scale[0], scale[1]);
    const { context } = this;
    context.strokeStyle = colour(this.tone === "data" ? "muted" : this.tone);
    context.lineWidth = 1;
    context.globalAlpha = 0.6;
    context.beginPath();
    for (let row = every - 1; row < FIELD; row += every) {
      for (let column = every - 1; column < FIELD; column += every) {
        const n = 2 * (row * FIELD + column);
        const [vx, vy] = [(vectors[n] * scale[0]) / widest, (-vectors[n + 1] * scale[1]) / widest];
        const norm = Math.hypot(vx, vy);
        if (!(norm > 0.02)) continue;
        // As long as a cell at most: strong scores would cover their neighbours.
        const length = every * cell * 0.92 * Math.tanh(norm / 1.6);
        const [ux, uy] = [vx / norm, vy / norm];
        const [x, y] = [(column + 0.5) * cell + (ux * length) / 2, this.size - (row + 0.5) * cell + (uy * length) / 2];
        const head = Math.min(4, length * 0.4);
        context.moveTo(x - ux * length, y - uy * length);
        context.lineTo(x, y);
        context.moveTo(x - head * (ux + uy / 2), y - head * (uy - ux / 2));
        context.lineTo(x, y);
        context.lineTo(x - head * (ux - uy / 2), y - head * (uy + ux / 2));
      }
    }
    context.stroke();
    context.globalAlpha = 1;
  }

  /** Words in the middle of an empty picture. */
  words(text: string): void {
    this.context.fillStyle = colour("muted");
    this.context.font = '15px system-ui, "DejaVu Sans", sans-serif';
    this.context.textAlign = "center";
    this.context.fillText(text, this.size / 2, this.size / 2 + 5);
  }
}
