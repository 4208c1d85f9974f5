/**
 * The edges of a KAN as curves: a field of small pictures a layer, a column an input, a row an
 * output. A chosen edge is drawn large, with the edges that it leads to.
 */

import type { Curves, Network } from "../model/denoiser";
import { digits, html, svg, ticks } from "./dom";

export type EdgeId = readonly [layer: number, input: number, output: number];

interface Cell {
  readonly id: EdgeId;
  readonly button: HTMLButtonElement;
  readonly path: SVGElement;
}

const PLACES = 24;
const LARGEST_LAYER = 400;

/** What a layer does with the points that reach it. */
interface Activity {
  readonly layer: Curves;
  readonly low: Float64Array;
  readonly high: Float64Array;
  /** Inputs that reached it (rows, inputs). */
  readonly inputs: Float64Array;
  /** The share of an edge in what its output receives, at input * outputs + output. */
  readonly shares: Float64Array;
}

function activity(layer: Curves, inputs: Float64Array): Activity {
  const { inputs: n, outputs: m } = layer;
  const rows = inputs.length / n;
  const low = new Float64Array(n).fill(Infinity);
  const high = new Float64Array(n).fill(-Infinity);
  const shares = new Float64Array(n * m);
  for (let i = 0; i < n; i++) {
    for (let row = 0; row < rows; row++) {
      low[i] = Math.min(low[i], inputs[row * n + i]);
      high[i] = Math.max(high[i], inputs[row * n + i]);
    }
    if (!(high[i] - low[i] > 1e-6)) {
      low[i] -= 0.5;
      high[i] += 0.5;
    }
    for (let o = 0; o < m; o++) {
      let sum = 0;
      let square = 0;
      for (let row = 0; row < rows; row++) {
        const value = layer.edge(i, o, inputs[row * n + i]);
        sum += value;
        square += value * value;
      }
      shares[i * m + o] = Math.sqrt(Math.max(0, square / rows - (sum / rows) ** 2));
    }
  }
  for (let o = 0; o < m; o++) {
    let total = 0;
    for (let i = 0; i < n; i++) total += shares[i * m + o];
    for (let i = 0; i < n; i++) shares[i * m + o] /= total || 1;
  }
  return { layer, low, high, inputs, shares };
}

interface Ways {
  readonly box: HTMLElement;
  readonly buttons: readonly HTMLButtonElement[];
}

function makeWays(title: string): Ways {
  const buttons = [0, 1, 2].map(() => html("button", { type: "button" }));
  return { buttons, box: html("div", {}, html("p", { textContent: title }), html("div", { className: "ways" }, ...buttons)) };
}

function makeParts() {
  const [title, picture, share] = [html("h3"), html("div"), html("p")];
  const [onward, backward] = [makeWays("It leads on to"), makeWays("It comes from")];
  return { title, picture, share, onward, backward, box: html("div", { className: "detail" }, title, picture, share, onward.box, backward.box) };
}

export class EdgesView {
  private readonly parts = makeParts();
  chosen: EdgeId | null = null;
  private cells: Cell[][] = [];
  private shape = "";
  private activities: Activity[] = [];
  private denoiser: Network | null = null;

  constructor(
    private readonly layers: HTMLElement,
    private readonly onChoose: () => void,
  ) {}

  /** Shows the edges of a denoiser as they are for some points, each at the timestep. */
  show(denoiser: Network | null, points: Float64Array, timestep: number): void {
    this.denoiser = denoiser;
    if (denoiser === null) {
      this.shape = "";
      this.cells = [];
      this.layers.replaceChildren(html("p", { className: "quiet", textContent: "Train, and the curves appear here." }));
      return;
    }
    denoiser.forward(points, new Int32Array(points.length / 2).fill(timestep));
    const inputs = denoiser.lastInputs;
    this.activities = denoiser.curves.map((layer, n) => activity(layer, inputs[n]));
    const shape = JSON.stringify([denoiser.settings, this.activities.map(({ layer }) => this.fit(layer))]);
    if (shape !== this.shape) {
      this.shape = shape;
      this.build();
    }
    this.draw();
  }

  /** Chooses an edge. */
  choose(id: EdgeId): void {
    this.chosen = id;
    this.draw();
    this.onChoose();
  }

  private cell([layer, input, output]: EdgeId): Cell | undefined {
    return this.cells[layer]?.find(({ id }) => id[1] === input && id[2] === output);
  }

  private name(layer: number, unit: number): string {
    return this.denoiser?.nameOf(layer, unit) ?? "";
  }

  /** Columns of a layer's field, its inputs, or its outputs where a narrow field is better laid down; and a cell's size. */
  private fit({ inputs, outputs }: Curves): readonly [columns: number, size: number] {
    const room = this.layers.clientWidth;
    const narrow = outputs > 2 * inputs && (outputs > 12 || room < 500);
    const columns = narrow && room >= 26 * outputs ? outputs : inputs;
    const fitting = columns === inputs ? 340 / Math.max(inputs, outputs) : room / outputs - 2;
    return [columns, Math.max(20, Math.min(38, Math.floor(fitting)))];
  }

  private build(): void {
    const numLayers = this.activities.length;
    this.cells = this.activities.map(({ layer, layer: { inputs, outputs } }, l) => {
      if (inputs * outputs > LARGEST_LAYER) return [];
      const cells: Cell[] = [];
      const [columns] = this.fit(layer);
      for (let row = 0; row < (inputs * outputs) / columns; row++) {
        for (let column = 0; column < columns; column++) {
          const path = svg("path", {});
          const id: EdgeId = columns === inputs ? [l, column, row] : [l, row, column];
          const button = html("button", { type: "button", className: "edge", tabIndex: -1 }, svg("svg", { viewBox: "0 0 32 32", "aria-hidden": "true" }, path));
          button.addEventListener("click", () => {
            this.choose(id);
            this.parts.box.scrollIntoView({ block: "nearest" });
          });
          cells.push({ id, button, path });
        }
      }
      return cells;
    });
    const gated = this.denoiser?.settings._class_name === "GatedDenoiser";
    const ends = gated ? "values and gates of layer 1" : "x, y";
    const titles = (l: number, inputs: number): string =>
      `${l > 0 ? `layer ${l}` : inputs === 2 ? "x, y" : "x, y, time"} → ${l === numLayers - 1 ? ends : `layer ${l + 1}`}`;
    this.layers.replaceChildren(
      ...this.activities.map(({ layer, layer: { inputs, outputs } }, l) => {
        const matrix = html("div", { className: "matrix" }, ...this.cells[l].map(({ button }) => button));
        const [columns, size] = this.fit(layer);
        matrix.style.setProperty("--cell", `${size}px`);
        matrix.style.gridTemplateColumns = `repeat(${columns}, ${size}px)`;
        matrix.setAttribute("role", "group");
        matrix.setAttribute("aria-label", `Edges of layer ${l + 1}: ${columns === inputs ? "columns are inputs, rows outputs" : "rows are inputs, columns outputs"}`);
        matrix.addEventListener("keydown", (event) => this.move(event, l, columns));
        const body = this.cells[l].length > 0 ? matrix : html("p", { className: "quiet", textContent: `${inputs * outputs} edges, too many to draw.` });
        return html("div", { className: "layer" }, html("h3", { textContent: titles(l, inputs) }), body);
      }),
    );
    // Beneath the last of three layers, which has few rows, there is room for the chosen edge.
    (numLayers === 3 ? this.layers.lastElementChild : this.layers)?.append(this.parts.box);
    if (gated) this.layers.prepend(html("p", { className: "quiet", textContent: "A grouped KAN: the edges of deeper layers are multiplied by gates, and no curves of one input." }));
    if (this.chosen === null || this.cell(this.chosen) === undefined) {
      const first = (this.cells[0] ?? []).map(({ id }) => id);
      this.chosen = this.strongest(first)[0]?.id ?? null;
    }
    for (const cells of this.cells) if (cells.length > 0) cells[0].button.tabIndex = 0;
  }

  /** Moves among edges by arrow keys; Enter on the chosen edge follows the strongest one on. */
  private move(event: KeyboardEvent, layer: number, columns: number): void {
    const at = this.cells[layer].findIndex(({ button }) => button === event.target);
    if (at < 0) return;
    const [column, row] = [at % columns, Math.floor(at / columns)];
    if (event.key === "Enter" && this.isChosen(this.cells[layer][at].id)) {
      const next = this.onward(this.cells[layer][at].id)[0];
      if (next === undefined) return;
      event.preventDefault();
      this.choose(next.id);
      this.focus(next.id);
      return;
    }
    const steps: Record<string, readonly [number, number]> = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const step = steps[event.key];
    if (step === undefined) return;
    event.preventDefault();
    const rows = this.cells[layer].length / columns;
    const to = [Math.min(Math.max(column + step[0], 0), columns - 1), Math.min(Math.max(row + step[1], 0), rows - 1)];
    this.focus(this.cells[layer][to[1] * columns + to[0]].id);
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

  private share([layer, input, output]: EdgeId): number {
    const { layer: { outputs }, shares } = this.activities[layer];
    return shares[input * outputs + output];
  }

  private strongest(ids: EdgeId[]): { id: EdgeId; share: number }[] {
    return ids.map((id) => ({ id, share: this.share(id) })).sort((a, b) => b.share - a.share).slice(0, 3);
  }

  /** The edges that the output of an edge enters, those with the largest shares. */
  private onward([layer, , output]: EdgeId): { id: EdgeId; share: number }[] {
    const next = this.activities[layer + 1];
    if (next === undefined) return [];
    return this.strongest(Array.from({ length: next.layer.outputs }, (_, o): EdgeId => [layer + 1, output, o]));
  }

  private backward([layer, input]: EdgeId): { id: EdgeId; share: number }[] {
    const before = this.activities[layer - 1];
    if (before === undefined) return [];
    return this.strongest(Array.from({ length: before.layer.inputs }, (_, i): EdgeId => [layer - 1, i, input]));
  }

  private curve([layer, input, output]: EdgeId, count: number): (readonly [number, number])[] {
    const { layer: spline, low, high } = this.activities[layer];
    return Array.from({ length: count + 1 }, (_, n) => {
      const x = low[input] + ((high[input] - low[input]) * n) / count;
      return [x, spline.edge(input, output, x)] as const;
    });
  }

  private draw(): void {
    const { chosen } = this;
    this.cells.forEach((cells) => {
      const curves = cells.map(({ id }) => this.curve(id, PLACES));
      const middles = curves.map((curve) => (Math.max(...curve.map(([, y]) => y)) + Math.min(...curve.map(([, y]) => y))) / 2);
      // One scale a layer: a flat curve does little.
      let widest = 1e-9;
      curves.forEach((curve, n) => curve.forEach(([, y]) => (widest = Math.max(widest, Math.abs(y - middles[n])))));
      cells.forEach(({ id, button, path }, n) => {
        const line = curves[n].map(([, y], k) => `${k === 0 ? "M" : "L"}${(3 + (26 * k) / PLACES).toFixed(1)} ${(16 - (12 * (y - middles[n])) / widest).toFixed(1)}`);
        path.setAttribute("d", line.join(""));
        const share = this.share(id);
        path.setAttribute("stroke-opacity", Math.min(1, 0.3 + 2.2 * share).toFixed(2));
        button.setAttribute("aria-label", `from ${this.name(id[0], id[1])} to ${this.name(id[0] + 1, id[2])}, ${Math.round(100 * share)} %`);
        button.setAttribute("aria-pressed", String(this.isChosen(id)));
        button.classList.toggle("chosen", this.isChosen(id));
        const leads = chosen !== null && ((id[0] === chosen[0] + 1 && id[1] === chosen[2]) || (id[0] === chosen[0] - 1 && id[2] === chosen[1]));
        button.classList.toggle("leads", leads);
      });
    });
    this.drawDetail();
  }

  private drawDetail(): void {
    const { chosen, denoiser } = this;
    if (denoiser === null) return;
    this.parts.box.hidden = chosen === null || this.cell(chosen) === undefined;
    if (chosen === null || this.cell(chosen) === undefined) return;
    const [layer, input, output] = chosen;
    const { layer: spline, inputs } = this.activities[layer];
    const curve = this.curve(chosen, 80);
    const [width, height, left, top, bottom] = [318, 200, 44, 8, 42];
    const [x0, x1] = [curve[0][0], curve[curve.length - 1][0]];
    const ys = curve.map(([, y]) => y);
    let [y0, y1] = [Math.min(...ys), Math.max(...ys)];
    const room = Math.max(0.05 * (y1 - y0), 0.02);
    [y0, y1] = [y0 - room, y1 + room];
    const sx = (x: number): number => left + ((width - left - 8) * (x - x0)) / (x1 - x0);
    const sy = (y: number): number => top + ((height - top - bottom) * (y1 - y)) / (y1 - y0);
    const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `The edge's curve: from ${digits(curve[0][1], 2)} at ${digits(x0, 2)} to ${digits(curve[80][1], 2)} at ${digits(x1, 2)}` });
    for (const y of ticks(y0, y1, 3)) picture.append(svg("line", { class: "axis", x1: left, x2: width - 8, y1: sy(y), y2: sy(y) }), svg("text", { x: left - 6, y: sy(y) + 4, "text-anchor": "end" }, String(y).replace("-", "−")));
    for (const x of ticks(x0, x1, 3)) picture.append(svg("text", { x: sx(x), y: height - bottom + 17, "text-anchor": "middle" }, String(x).replace("-", "−")));
    picture.append(svg("text", { x: (left + width) / 2, y: height - 5, "text-anchor": "middle" }, layer === 0 && input < 2 ? `${"xy"[input]} (standardised)` : "what comes in"));
    const rows = inputs.length / spline.inputs;
    for (let row = 0; row < rows; row += Math.max(1, Math.floor(rows / 50))) {
      const x = inputs[row * spline.inputs + input];
      picture.append(svg("circle", { cx: sx(x).toFixed(1), cy: sy(spline.edge(input, output, x)).toFixed(1), r: 3 }));
    }
    picture.append(svg("path", { d: curve.map(([x, y], n) => `${n === 0 ? "M" : "L"}${sx(x).toFixed(1)} ${sy(y).toFixed(1)}`).join("") }));
    const { parts } = this;
    parts.title.textContent = `From ${this.name(layer, input)} to ${this.name(layer + 1, output)}`;
    parts.picture.replaceChildren(picture);
    parts.share.textContent = `${Math.round(100 * this.share(chosen))} % of what moves ${this.name(layer + 1, output)} at this noise level.`;
    this.fill(parts.onward, this.onward(chosen), (id) => this.name(id[0] + 1, id[2]));
    this.fill(parts.backward, this.backward(chosen), (id) => this.name(id[0], id[1]));
  }

  /** Puts edges behind buttons that stay where they are, so that none moves away under a finger. */
  private fill(ways: Ways, found: { id: EdgeId; share: number }[], named: (id: EdgeId) => string): void {
    ways.box.hidden = found.length === 0;
    ways.buttons.forEach((button, n) => {
      const way = found[n];
      button.hidden = way === undefined;
      if (way === undefined) return;
      const text = `${named(way.id).replace(/^the | of layer \d+| output/g, "")} ${Math.round(100 * way.share)} %`;
      if (button.textContent !== text) button.textContent = text;
      button.onclick = () => {
        this.choose(way.id);
      };
    });
  }
}
