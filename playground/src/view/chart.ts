/** The losses of both networks against the exact floor, with labels beside the lines. */

import { digits, svg } from "./dom";
import { Plot } from "./plot";

export interface Curve {
  readonly name: string;
  readonly colour: string;
  /** Steps and losses. */
  readonly points: readonly (readonly [number, number])[];
}

const WIDE = 420;
const ROOM = { left: 60, right: 96, top: 12, bottom: 44 };
const LABEL = 17;

/** Moves labels apart, in their order, so that none covers another. */
function spread(heights: readonly number[], lowest: number): number[] {
  const order = heights.map((_, n) => n).sort((a, b) => heights[a] - heights[b]);
  const out = [...heights];
  for (let n = 1; n < order.length; n++) out[order[n]] = Math.max(out[order[n]], out[order[n - 1]] + LABEL);
  let limit = lowest;
  for (const n of order.reverse()) {
    out[n] = Math.min(out[n], limit);
    limit = out[n] - LABEL;
  }
  return out;
}

/** Ends of the axis of losses: the first steps fall from so high that nothing else would be seen. */
function lossRange(curves: readonly Curve[], floor: number | null, steps: number): readonly [number, number] {
  const losses = curves.flatMap(({ points }) => points.map(([, loss]) => loss));
  const later = curves.flatMap(({ points }) => points.filter(([step], n) => step >= 0.03 * steps || n === points.length - 1));
  const low = Math.min(floor ?? Infinity, ...losses);
  const high = Math.max(...later.map(([, loss]) => loss), (floor ?? 0) + 0.05);
  if (!Number.isFinite(low) || !Number.isFinite(high) || high <= low) return [0, 1];
  const top = Math.min(high, low + 1);
  return [low - 0.12 * (top - low), top];
}

export function drawChart(box: HTMLElement, curves: readonly Curve[], floor: number | null, steps: number): void {
  const width = Math.max(260, box.clientWidth);
  const height = width < WIDE ? 250 : 330;
  const trained = curves.filter(({ points }) => points.length > 0);
  const labels = trained.map(({ name, colour, points }) => ({ name, colour: `var(--${colour}-text)`, loss: points[points.length - 1][1] }));
  if (floor !== null) labels.push({ name: "floor", colour: "var(--ink)", loss: floor });
  const [low, high] = lossRange(trained, floor, steps);
  const plot = new Plot({
    ...ROOM, width, height,
    x: [0, steps],
    y: [low, high],
    ticks: [width < WIDE ? 2 : 4, 4],
    title: "training step",
    label: `Mean squared error by training step: ${labels.map(({ name, loss }) => `${name} ${digits(loss, 4)}`).join(", ")}`,
  });
  const middle = (ROOM.top + height - ROOM.bottom) / 2;
  plot.text(12, middle, "mean squared error").setAttribute("transform", `rotate(-90 12 ${middle})`);
  if (floor !== null) plot.line([[0, floor], [steps, floor]], { stroke: "var(--ink)", "stroke-dasharray": "5 4" });
  const shown = (loss: number): number => Math.min(loss, high);
  for (const { colour, points } of trained) {
    const line = points.map(([step, loss]): readonly [number, number] => [step, shown(loss)]);
    plot.line(line, { stroke: `var(--${colour})`, "stroke-width": 2, "stroke-linejoin": "round" });
    const [step, loss] = line[0];
    if (line.length === 1) plot.picture.append(svg("circle", { cx: plot.x(step), cy: plot.y(loss), r: 3, fill: `var(--${colour})` }));
  }
  const heights = labels.map(({ loss }) => plot.y(shown(loss)));
  spread(heights, height - ROOM.bottom - 6).forEach((at, n) => {
    const label = plot.text(width - ROOM.right + 8, at + 4, `${labels[n].name} ${digits(labels[n].loss, 3)}`, "start");
    label.classList.add("name");
    label.style.fill = labels[n].colour;
  });
  if (trained.length === 0) plot.text((ROOM.left + width - ROOM.right) / 2, middle, "Train to see both lines fall.");
  box.replaceChildren(plot.picture);
}
