/**
 * The edges of a KAN as curves: a field of small pictures a layer, a column an input, a row an
 * output. A chosen edge is drawn large, with the edges that it leads to.
 */

import type { Denoiser } from "../model/denoiser";
import type { Layer } from "../model/layer";
import { digits, html, svg } from "./dom";
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
  readonly low: Float64Array;
  readonly high: Float64Array;
  /** Inputs that reached it (rows, inputs). */
  readonly inputs: Float64Array;
  /** The share of an edge in what its output receives, at input * outputs + output. */
  readonly shares: Float64Array;
}

function activityOf(layer: Layer, inputs: Float64Array): Activity {
  const { inputs: n, outputs: m } = layer;
  const rows = inputs.length / n;
  const low = new Float64Array(n);
  const high = new Float64Array(n);
  const shares = new Float64Array(n * m);
  for (let i = 0; i < n; i++) {
    const column = inputs.filter((_, k) => k % n === i);
    low[i] = Math.min(...column);
    high[i] = Math.max(...column);
    if (!(high[i] - low[i] > 1e-6)) {
      low[i] -= 0.5;
      high[i] += 0.5;
    }
    for (let o = 0; o < m; o++) {
      const values = column.map((x) => layer.edge(i, o, x));
      const mean = values.reduce((sum, value) => sum + value, 0) / rows;
      shares[i * m + o] = Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / rows);
    }
  }
  for (let o = 0; o < m; o++) {
    let total = 0;
    for (let i = 0; i < n; i++) total += shares[i * m + o];
    for (let i = 0; i < n; i++) shares[i * m + o] /= total || 1;
  }
  return { layer, low, high, inputs, shares };
}

/** A title and buttons for the edges before or after the chosen one, which stay where they are under a finger. */
interface Neighbours {
  readonly box: HTMLElement;
  readonly buttons: readonly HTMLButtonElement[];
}

function makeNeighbours(title: string): Neighbours {
  const buttons = [0, 1, 2].map(() => html("button", { type: "button" }));
  return { buttons, box: html("div", {}, html("p", { textContent: title }), html("div", { className: "neighbours" }, ...buttons)) };
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
  private readonly detail = html("div", { className: "detail" }, this.title, this.picture, this.share, this.onward.box, this.backward.box);

  constructor(
    private readonly layers: HTMLElement,
    private readonly onChoose: () => void,
  ) {}

  /** Shows the edges of a denoiser as they are for some points, each at the timestep. */
  show(denoiser: Denoiser | null, points: Float64Array, timestep: number): void {
    if (denoiser === null) {
      this.shape = "";
      this.cells = [];
      this.layers.replaceChildren(html("p", { className: "quiet", textContent: "Train, and the curves appear here." }));
      return;
    }
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
    const steps: Record<string, readonly [number, number]> = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const step = steps[event.key];
    const next = event.key === "Enter" && this.isChosen(from) ? this.onwardOf(from)[0] : undefined;
    if (next !== undefined) this.choose(next);
    else if (step === undefined) return;
    event.preventDefault();
    if (next !== undefined) this.focus(next);
    else {
      // On a narrow page the first layer lies on its side: its rows are inputs.
      const isLaid = getComputedStyle(matrix).gridAutoFlow.startsWith("column");
      const [byInput, byOutput] = isLaid ? [step[1], step[0]] : step;
      this.focus([layer, from[1] + byInput, from[2] + byOutput]);
    }
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
    const { layer: { outputs }, shares } = this.activities[layer];
    return shares[input * outputs + output];
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
    const { layer: splines, low, high } = this.activities[layer];
    return Array.from({ length: pieces + 1 }, (_, n) => {
      const x = low[input] + ((high[input] - low[input]) * n) / pieces;
      return [x, splines.edge(input, output, x)] as const;
    });
  }

  private draw(): void {
    const { chosen } = this;
    for (const cells of this.cells) {
      const heights = cells.map(({ id }) => this.curve(id, SMALL).map(([, y]) => y));
      const ranges = heights.map((ys) => [Math.min(...ys), Math.max(...ys)] as const);
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
    const { layer: splines, inputs } = this.activities[layer];
    const curve = this.curve(chosen, LARGE);
    const [first, last] = [curve[0], curve[LARGE]];
    const ys = curve.map(([, y]) => y);
    const room = Math.max(0.05 * (Math.max(...ys) - Math.min(...ys)), 0.02);
    const plot = new Plot({
      width: 318, height: 200, left: 44, right: 8, top: 8, bottom: 42,
      x: [first[0], last[0]],
      y: [Math.min(...ys) - room, Math.max(...ys) + room],
      ticks: [3, 3],
      title: layer === 0 ? `${"xy"[input]} (standardised)` : "what comes in",
      label: `The edge's curve: from ${digits(first[1], 2)} at ${digits(first[0], 2)} to ${digits(last[1], 2)} at ${digits(last[0], 2)}`,
    });
    const rows = inputs.length / splines.inputs;
    for (let row = 0; row < rows; row += Math.max(1, Math.floor(rows / DOTS))) {
      const x = inputs[row * splines.inputs + input];
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

  private fill({ box, buttons }: Neighbours, ids: readonly EdgeId[], nameOf: (id: EdgeId) => string): void {
    box.hidden = ids.length === 0;
    buttons.forEach((button, n) => {
      const id = ids[n];
      button.hidden = id === undefined;
      if (id === undefined) return;
      const text = `${nameOf(id).replace(/^the | of layer \d+| output/g, "")} ${this.percentOf(id)}`;
      if (button.textContent !== text) button.textContent = text;
      button.onclick = () => this.choose(id);
    });
  }
}
