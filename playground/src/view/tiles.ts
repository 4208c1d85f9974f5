/** The choices of data, each with a small picture. */

import type { Point } from "../data/csv";
import { type ToyName, TOYS } from "../data/toys";
import { Random } from "../model/random";
import { colour, html } from "./dom";

const SIZE = 108;
const DOTS = 260;
const SPREAD = 23; // pixels of a standard deviation

/** A wave, as somebody may draw it. */
const wave = (n: number): Point => [(3.4 * n) / DOTS - 1.7, 1.2 * Math.sin((9 * n) / DOTS - 1.5)];

export function makeTile(name: ToyName | "drawing", checked: boolean, onChoose: () => void): HTMLElement {
  const radio = html("input", { type: "radio", name: "data", value: name, checked });
  const canvas = html("canvas", { width: SIZE, height: SIZE, ariaHidden: "true" });
  radio.addEventListener("change", onChoose);
  const random = new Random(3);
  const density = name === "drawing" ? null : TOYS[name].make();
  const points = Array.from({ length: DOTS }, (_, n) => density?.draw(random) ?? wave(n));
  const paint = (): void => {
    const context = canvas.getContext("2d")!;
    context.clearRect(0, 0, SIZE, SIZE);
    context.fillStyle = colour(density === null ? "ink" : "data");
    const size = density === null ? 5 : 2.6;
    for (const [x, y] of points) context.fillRect(SIZE / 2 + SPREAD * x - size / 2, SIZE / 2 - SPREAD * y - size / 2, size, size);
  };
  paint();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
  return html("label", { className: "tile" }, radio, canvas, html("span", { textContent: name === "drawing" ? "Draw" : TOYS[name].title }));
}
