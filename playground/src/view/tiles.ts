/** The choices of data, each with a small picture. */

import { type ToyName, TOYS } from "../data/toys";
import { Random } from "../model/random";
import { colour, html } from "./dom";

const SIZE = 108;
const DOTS = 260;

export function makeTile(name: ToyName | "drawing", checked: boolean, onChoose: () => void): HTMLElement {
  const radio = html("input", { type: "radio", name: "data", value: name, checked });
  const canvas = html("canvas", { width: SIZE, height: SIZE });
  canvas.setAttribute("aria-hidden", "true");
  radio.addEventListener("change", onChoose);
  const context = canvas.getContext("2d");
  const paint = (): void => {
    if (context === null) return;
    context.clearRect(0, 0, SIZE, SIZE);
    if (name === "drawing") paintStroke(context);
    else paintToy(context, name);
  };
  paint();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
  return html("label", { className: "tile" }, radio, canvas, html("span", { textContent: name === "drawing" ? "Draw" : TOYS[name].title }));
}

function paintStroke(context: CanvasRenderingContext2D): void {
  context.strokeStyle = colour("ink");
  context.lineWidth = 5;
  context.lineCap = "round";
  context.beginPath();
  context.moveTo(22, 80);
  context.bezierCurveTo(34, 10, 56, 20, 52, 56);
  context.bezierCurveTo(48, 96, 74, 92, 86, 38);
  context.stroke();
}

function paintToy(context: CanvasRenderingContext2D, name: ToyName): void {
  const density = TOYS[name].make();
  const random = new Random(3);
  context.fillStyle = colour("data");
  for (let n = 0; n < DOTS; n++) {
    const [x, y] = density.draw(random);
    context.fillRect(SIZE / 2 + 23 * x - 1, SIZE / 2 - 23 * y - 1, 2.6, 2.6);
  }
}
