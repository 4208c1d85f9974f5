/**
 * The edges of a KAN as curves: a field of small pictures a layer, a column an input, a row an
 * output. A chosen edge is drawn large, with the edges that it leads to.
 */

import type { Denoiser } from "../model/denoiser";
import type { Layer } from "../model/layer";
import { ARROWS, digits, html, svg } from "./dom";
import { pathOf, Plot } from "./plot";

export type EdgeId = readonly [layer: number, input: number, output: number];

interface Cell {
  readonly id: EdgeId;
  readonly button: HTMLButtonElement;
  readonly path: SVGElement;
}

/** Pieces of a small picture's curve, and of the large one's. */
const SMALL = 24;
const LARGE = 80;
/** Points that the large picture shows. */
const DOTS = 50;

/** What a layer does with the points that reach it. */
interface Activity {
  readonly layer: Layer;
  /** What reached each of its inputs. */
  readonly reached: readonly Float64Array[];
  /** The share of an edge in what its output receives, by input and output. */
  readonly shares: readonly (readonly number[])[];
}

const rangeOf = (values: Float64Array | readonly number[]): readonly [number, number] => [Math.min(...values), Math.max(...values)];

function activityOf(layer: Layer, inputs: Float64Array): Activity {
  const reached = Array.from({ length: layer.inputs }, (_, i) => inputs.filter((_, n) => n % layer.inputs === i));
  const spreads = reached.map((column, i) => Array.from({ length: layer.outputs }, (_, o) => spreadOf(column.map((x) => layer.edge(i, o, x)))));
  const totals = spreads[0].map((_, o) => spreads.reduce((sum, row) => sum + row[o], 0) || 1);
  return { layer, reached, shares: spreads.map((row) => row.map((spread, o) => spread / totals[o])) };
}

/** Standard deviation. */
function spreadOf(values: Float64Array): number {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  return Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length);
}

/** A title and buttons for the edges before or after the chosen one, which stay where they are under a finger. */
function makeNeighbours(title: string): HTMLElement {
  const buttons = [0, 1, 2].map(() => html("button", { type: "button" }));
  return html("div", {}, html("p", { textContent: title }), html("div", { className: "neighbours" }, ...buttons));
}

export class EdgesView {
  chosen: EdgeId | null = null;
  private cells: Cell[][] = [];
  private shape = "";
  private activities: Activity[] = [];
  private readonly title = html("h3");
  private readonly picture = html("div");
  private readonly share = html("p");
  private readonly onward = makeNeighbours("It leads on to");
  private readonly backward = makeNeighbours("It comes from");
  private readonly detail = html("div", { className: "detail" }, this.title, this.picture, this.share, this.onward, this.backward);

  constructor(
    private readonly layers: HTMLElement,
    private readonly onChoose: () => void,
  ) {}

  /** Shows that there is nothing yet. */
  clear(): void {
    this.shape = "";
    this.layers.replaceChildren(html("p", { className: "quiet", textContent: "Train, and the curves appear here." }));
  }

  /** Shows the edges of a denoiser as they are for some points, each at the timestep. */
  show(denoiser: Denoiser, points: Float64Array, timestep: number): void {
    denoiser.at(points, timestep);
    this.activities = denoiser.layers.map((layer, n) => activityOf(layer, denoiser.lastInputs[n]));
    const shape = denoiser.settings.hidden.join();
    if (shape !== this.shape) {
      this.shape = shape;
      this.build();
    }
    this.draw();
  }

  private choose(id: EdgeId): void {
    this.chosen = id;
    this.draw();
    this.onChoose();
  }

  private cell([layer, input, output]: EdgeId): Cell | undefined {
    return this.cells[layer]?.find(({ id }) => id[1] === input && id[2] === output);
  }

  /** The name of an input of a layer; the layer after the last has the outputs. */
  private name(layer: number, unit: number): string {
    if (layer === 0) return "xy"[unit];
    if (layer === this.activities.length) return `the ${"xy"[unit]} output`;
    return `unit ${unit + 1} of layer ${layer}`;
  }

  private build(): void {
    const last = this.activities.length - 1;
    this.cells = this.activities.map(({ layer: { inputs, outputs } }, l) =>
      Array.from({ length: inputs * outputs }, (_, n): Cell => {
        const path = svg("path", {});
        const id: EdgeId = [l, n % inputs, Math.floor(n / inputs)];
        const icon = svg("svg", { viewBox: "0 0 32 32", "aria-hidden": "true" }, path);
        const button = html("button", { type: "button", className: "edge", tabIndex: n === 0 ? 0 : -1 }, icon);
        button.addEventListener("click", () => {
          this.choose(id);
          this.detail.scrollIntoView({ block: "nearest" });
        });
        return { id, button, path };
      }),
    );
    const fields = this.activities.map(({ layer: { inputs } }, l) => {
      const matrix = html("div", { className: "matrix" }, ...this.cells[l].map(({ button }) => button));
      matrix.style.setProperty("--inputs", String(inputs));
      matrix.setAttribute("role", "group");
      matrix.setAttribute("aria-label", `Edges of layer ${l + 1}`);
      matrix.addEventListener("keydown", (event) => this.move(event, l, matrix));
      const title = `${l > 0 ? `layer ${l}` : "x, y"} → ${l === last ? "x, y" : `layer ${l + 1}`}`;
      return html("div", { className: "layer" }, html("h3", { textContent: title }), matrix);
    });
    // Beneath the last of three layers, which has few rows, there is room for the chosen edge.
    if (fields.length === 3) fields[last].append(this.detail);
    else fields.push(this.detail);
    this.layers.replaceChildren(...fields);
    if (this.chosen === null || this.cell(this.chosen) === undefined) this.chosen = this.strongest(this.cells[0].map(({ id }) => id))[0];
  }

  /** Moves among edges by arrow keys; Enter on the chosen edge follows the strongest one on. */
  private move(event: KeyboardEvent, layer: number, matrix: HTMLElement): void {
    const from = this.cells[layer].find(({ button }) => button === event.target)?.id;
    if (from === undefined) return;
    const step = ARROWS[event.key];
    const next = event.key === "Enter" && this.isChosen(from) ? this.onwardOf(from)[0] : undefined;
    if (step === undefined && next === undefined) return;
    event.preventDefault();
    if (next !== undefined) {
      this.choose(next);
      this.focus(next);
      return;
    }
    // On a narrow page the first layer lies on its side: its rows are inputs.
    const isLaid = getComputedStyle(matrix).gridAutoFlow.startsWith("column");
    this.focus([layer, from[1] + step[isLaid ? 1 : 0], from[2] + step[isLaid ? 0 : 1]]);
  }

  private focus(id: EdgeId): void {
    const cell = this.cell(id);
    if (cell === undefined) return;
    for (const { button } of this.cells[id[0]]) button.tabIndex = -1;
    cell.button.tabIndex = 0;
    cell.button.focus();
  }

  private isChosen(id: EdgeId): boolean {
    return this.chosen !== null && this.chosen.every((part, n) => part === id[n]);
  }

  private shareOf([layer, input, output]: EdgeId): number {
    return this.activities[layer].shares[input][output];
  }

  private percentOf(id: EdgeId): string {
    return `${Math.round(100 * this.shareOf(id))} %`;
  }

  private strongest(ids: EdgeId[]): EdgeId[] {
    return ids.sort((a, b) => this.shareOf(b) - this.shareOf(a)).slice(0, 3);
  }

  /** The edges that the output of an edge enters, those with the largest shares. */
  private onwardOf([layer, , output]: EdgeId): EdgeId[] {
    return this.strongest((this.cells[layer + 1] ?? []).map(({ id }) => id).filter(([, input]) => input === output));
  }

  /** The edges that enter the input of an edge. */
  private backwardOf([layer, input]: EdgeId): EdgeId[] {
    return this.strongest((this.cells[layer - 1] ?? []).map(({ id }) => id).filter(([, , output]) => output === input));
  }

  private curve([layer, input, output]: EdgeId, pieces: number): (readonly [number, number])[] {
    const { layer: splines, reached } = this.activities[layer];
    const [low, high] = rangeOf(reached[input]);
    return Array.from({ length: pieces + 1 }, (_, n) => {
      const x = low + (Math.max(high - low, 1e-6) * n) / pieces;
      return [x, splines.edge(input, output, x)] as const;
    });
  }

  private draw(): void {
    const { chosen } = this;
    for (const cells of this.cells) {
      const heights = cells.map(({ id }) => this.curve(id, SMALL).map(([, y]) => y));
      const ranges = heights.map(rangeOf);
      // One scale a layer: a flat curve does little.
      const widest = Math.max(1e-9, ...ranges.map(([low, high]) => (high - low) / 2));
      cells.forEach(({ id, button, path }, n) => {
        const middle = (ranges[n][0] + ranges[n][1]) / 2;
        path.setAttribute("d", pathOf(heights[n].map((y, k) => [3 + (26 * k) / SMALL, 16 - (12 * (y - middle)) / widest])));
        path.setAttribute("stroke-opacity", Math.min(1, 0.3 + 2.2 * this.shareOf(id)).toFixed(2));
        button.setAttribute("aria-label", `from ${this.name(id[0], id[1])} to ${this.name(id[0] + 1, id[2])}, ${this.percentOf(id)}`);
        button.setAttribute("aria-pressed", String(this.isChosen(id)));
        button.classList.toggle("chosen", this.isChosen(id));
        const isNext = chosen !== null && id[0] === chosen[0] + 1 && id[1] === chosen[2];
        const isBefore = chosen !== null && id[0] === chosen[0] - 1 && id[2] === chosen[1];
        button.classList.toggle("leads", isNext || isBefore);
      });
    }
    if (chosen !== null) this.drawDetail(chosen);
  }

  private drawDetail(chosen: EdgeId): void {
    const [layer, input, output] = chosen;
    const { layer: splines, reached } = this.activities[layer];
    const curve = this.curve(chosen, LARGE);
    const [first, last] = [curve[0], curve[LARGE]];
    const [low, high] = rangeOf(curve.map(([, y]) => y));
    const room = Math.max(0.05 * (high - low), 0.02);
    const plot = new Plot({
      width: 318, height: 200, left: 44, right: 8, top: 8, bottom: 42,
      x: [first[0], last[0]],
      y: [low - room, high + room],
      ticks: [3, 3],
      title: layer === 0 ? `${"xy"[input]} (standardised)` : "what comes in",
      label: `The edge's curve: from ${digits(first[1], 2)} at ${digits(first[0], 2)} to ${digits(last[1], 2)} at ${digits(last[0], 2)}`,
    });
    for (const x of reached[input].subarray(0, DOTS)) {
      plot.picture.append(svg("circle", { cx: plot.x(x).toFixed(1), cy: plot.y(splines.edge(input, output, x)).toFixed(1), r: 3 }));
    }
    plot.line(curve);
    const target = this.name(layer + 1, output);
    this.title.textContent = `From ${this.name(layer, input)} to ${target}`;
    this.picture.replaceChildren(plot.picture);
    this.share.textContent = `${this.percentOf(chosen)} of what moves ${target} at this noise level.`;
    this.fill(this.onward, this.onwardOf(chosen), (id) => this.name(id[0] + 1, id[2]));
    this.fill(this.backward, this.backwardOf(chosen), (id) => this.name(id[0], id[1]));
  }

  private fill(box: HTMLElement, ids: readonly EdgeId[], nameOf: (id: EdgeId) => string): void {
    box.hidden = ids.length === 0;
    box.querySelectorAll("button").forEach((button, n) => {
      const id = ids[n];
      button.hidden = id === undefined;
      if (id === undefined) return;
      const text = `${nameOf(id).replace(/^the | of layer \d+| output/g, "")} ${this.percentOf(id)}`;
      if (button.textContent !== text) button.textContent = text;
      button.onclick = () => this.choose(id);
    });
  }
}
