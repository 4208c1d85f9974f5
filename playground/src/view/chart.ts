/** The losses of both networks against the exact floor, with labels beside the lines. */

import { digits, html, svg, ticks } from "./dom";

export interface Curve {
  readonly name: string;
  readonly colour: string;
  /** Steps and losses. */
  readonly points: readonly (readonly [number, number])[];
}

const HEIGHTS = [250, 330];
const WIDE = 420;
const LEFT = 60;
const RIGHT = 96;
const TOP = 12;
const BOTTOM = 44;
const LABEL = 17;

/** Moves labels apart, in their order, so that none covers another. */
function spread(places: readonly number[], lowest: number): number[] {
  const order = places.map((_, n) => n).sort((a, b) => places[a] - places[b]);
  const out = [...places];
  for (let n = 1; n < order.length; n++) out[order[n]] = Math.max(out[order[n]], out[order[n - 1]] + LABEL);
  const over = order.length > 0 ? Math.max(0, out[order[order.length - 1]] - lowest) : 0;
  for (let n = order.length - 1, limit = Infinity; n >= 0; n--) {
    out[order[n]] = Math.min(out[order[n]] - (n === order.length - 1 ? over : 0), limit);
    limit = out[order[n]] - LABEL;
  }
  return out;
}

export function drawChart(place: HTMLElement, curves: readonly Curve[], floor: number | null, steps: number): void {
  const width = Math.max(260, place.clientWidth);
  const height = HEIGHTS[width < WIDE ? 0 : 1];
  const drawn = curves.filter(({ points }) => points.length > 0);
  if (drawn.length === 0 && floor === null) {
    place.replaceChildren(html("p", { className: "quiet", textContent: "Train to see both lines fall." }));
    return;
  }
  const losses = drawn.flatMap(({ points }) => points.map(([, loss]) => loss));
  const lowest = Math.min(floor ?? Infinity, ...losses);
  // The first steps fall from so high that nothing else would be seen.
  const later = drawn.flatMap(({ points }) => points.filter(([step], n) => step >= 0.03 * steps || n === points.length - 1).map(([, loss]) => loss));
  const highest = Math.max(...later, (floor ?? 0) + 0.05);
  const base = Number.isFinite(lowest) ? lowest : 0;
  const top = Number.isFinite(highest) && highest > base ? Math.min(highest, base + 1) : base + 1;
  const low = base - 0.12 * (top - base);
  const x = (step: number): number => LEFT + ((width - LEFT - RIGHT) * step) / steps;
  const y = (loss: number): number => TOP + ((height - TOP - BOTTOM) * (top - Math.min(loss, top))) / (top - low);
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img" });
  const ends = drawn.map(({ name, points }) => `${name} ${digits(points[points.length - 1][1], 4)}`);
  if (floor !== null) ends.push(`floor ${digits(floor, 4)}`);
  picture.setAttribute("aria-label", `Mean squared error by training step: ${ends.join(", ") || "nothing trained yet"}`);
  const bottom = height - BOTTOM;
  for (const loss of ticks(low, top, 4)) {
    picture.append(
      svg("line", { class: "axis", x1: LEFT, x2: width - RIGHT, y1: y(loss), y2: y(loss) }),
      svg("text", { x: LEFT - 8, y: y(loss) + 4, "text-anchor": "end" }, String(loss)),
    );
  }
  for (const step of ticks(0, steps, width < WIDE ? 2 : 4)) {
    picture.append(svg("text", { x: x(step), y: bottom + 18, "text-anchor": "middle" }, step.toLocaleString("en")));
  }
  picture.append(
    svg("text", { x: (LEFT + width - RIGHT) / 2, y: height - 6, "text-anchor": "middle" }, "training step"),
    svg("text", { x: 12, y: (TOP + bottom) / 2, "text-anchor": "middle", transform: `rotate(-90 12 ${(TOP + bottom) / 2})` }, "mean squared error"),
  );
  const labels: { text: string; colour: string; at: number }[] = [];
  if (floor !== null) {
    picture.append(svg("line", { x1: LEFT, x2: width - RIGHT, y1: y(floor), y2: y(floor), stroke: "var(--ink)", "stroke-dasharray": "5 4" }));
    labels.push({ text: `floor ${digits(floor, 3)}`, colour: "var(--ink)", at: y(floor) });
  }
  for (const { name, colour, points } of drawn) {
    const path = points.map(([step, loss], n) => `${n === 0 ? "M" : "L"}${x(step).toFixed(1)} ${y(loss).toFixed(1)}`).join("");
    picture.append(svg("path", { d: path, fill: "none", stroke: `var(--${colour})`, "stroke-width": 2, "stroke-linejoin": "round" }));
    const last = points[points.length - 1];
    if (points.length === 1) picture.append(svg("circle", { cx: x(last[0]), cy: y(last[1]), r: 3, fill: `var(--${colour})` }));
    labels.push({ text: `${name} ${digits(last[1], 3)}`, colour: `var(--${colour}-text)`, at: y(last[1]) });
  }
  spread(labels.map(({ at }) => at), bottom - 6).forEach((at, n) => {
    const label = svg("text", { class: "name", x: width - RIGHT + 8, y: at + 4 }, labels[n].text);
    label.style.fill = labels[n].colour;
    picture.append(label);
  });
  if (drawn.length === 0) {
    picture.append(svg("text", { x: (LEFT + width - RIGHT) / 2, y: (TOP + bottom) / 2, "text-anchor": "middle" }, "Train to see both lines fall."));
  }
  place.replaceChildren(picture);
}
