// The network, one edge's curve, and the score, at one noise level.
{
  const data = JSON.parse(document.getElementById("page-data").textContent);
  const SCALE = 96;  // units of a drawing an inch
  const UP = .5;  // inches above the outputs
  const state = { view: 0, level: 0, edge: 0 };
  const slider = document.getElementById("level");
  const network = document.getElementById("network");
  const make = (name, attributes = {}, ...children) => {
    const element = document.createElementNS(network.namespaceURI, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  };
  const html = (name, text) => {
    const element = document.createElement(name);
    element.textContent = text;
    return element;
  };
  const path = (x, y) => x.map((value, i) => `${i ? "L" : "M"}${value.toFixed(2)} ${y[i].toFixed(2)}`).join("");
  const area = (x, y, base) =>
    `${path(x, y)}L${x[x.length - 1].toFixed(2)} ${base.toFixed(2)}L${x[0].toFixed(2)} ${base.toFixed(2)}Z`;
  const written = value => {
    if (value === null || value === undefined) return "–";
    const size = Math.abs(value);
    const text = size !== 0 && (size < 1e-3 || size >= 1e5) ? value.toExponential(2) : String(Number(value.toPrecision(3)));
    return text.replace("-", "−");
  };
  const span = values => [Math.min(...values), Math.max(...values)];

  // Axes.
  function ticks(low, high, count) {
    const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map(factor => factor * power).find(size => size >= rough);
    const found = [];
    for (let k = Math.ceil(low / step); k * step <= high + 1e-9 * step; k++) found.push(k * step);
    return found;
  }
  function chart(width, height, xs, ys, labels, aria) {
    let [x0, x1] = xs, [y0, y1] = ys;
    if (!(x1 - x0 > 1e-9)) { x0 -= .5; x1 += .5; }
    if (!(y1 - y0 > 1e-9)) { y0 -= .5; y1 += .5; }
    const margin = .06 * (y1 - y0);
    y0 -= margin; y1 += margin;
    const left = 58, right = 10, top = 10, bottom = 40;
    const x = value => left + (width - left - right) * (value - x0) / (x1 - x0);
    const y = value => height - bottom - (height - top - bottom) * (value - y0) / (y1 - y0);
    const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": aria });
    for (const tick of ticks(x0, x1, width / 90)) {
      svg.append(make("line", { class: "grid", x1: x(tick), x2: x(tick), y1: top, y2: height - bottom }));
      svg.append(make("text", { class: "small", x: x(tick), y: height - bottom + 15, "text-anchor": "middle", "font-size": 11 }, written(tick)));
    }
    for (const tick of ticks(y0, y1, height / 55)) {
      svg.append(make("line", { class: "grid", x1: left, x2: width - right, y1: y(tick), y2: y(tick) }));
      svg.append(make("text", { class: "small", x: left - 6, y: y(tick) + 4, "text-anchor": "end", "font-size": 11 }, written(tick)));
    }
    svg.append(make("line", { class: "axis", x1: left, x2: width - right, y1: height - bottom, y2: height - bottom }));
    svg.append(make("text", { class: "small", x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle", "font-size": 11.5 }, labels[0]));
    svg.append(make("text", { class: "small", x: 0, y: 0, "text-anchor": "middle", "font-size": 11.5, transform: `translate(11 ${(top + height - bottom) / 2}) rotate(-90)` }, labels[1]));
    return { svg, x, y, base: height - bottom, high: height - top - bottom };
  }

  // The network.
  const view = () => data.views[state.view];
  const points = (of, curve) => {
    const inputs = of.inputs[curve.inputs];
    return { x: inputs.x, density: inputs.density, y: curve.y.map(value => value * curve.unit) };
  };
  const called = (of, edge) => `${of.units[edge.layer].names[edge.input]} to ${of.units[edge.layer + 1].names[edge.output]}`;
  const line = (x1, y1, x2, y2, extra = {}) => make("line", { x1, y1, x2, y2, ...extra });
  function drawNetwork() {
    const of = view(), up = UP, down = .45;
    const x = inches => inches * SCALE, y = inches => (of.height + up - inches) * SCALE;
    network.replaceChildren();
    network.setAttribute("viewBox", `0 0 ${of.width * SCALE} ${(of.height + up + down) * SCALE}`);
    network.setAttribute("width", of.width * SCALE);
    // On a narrow screen it rolls where its letters would be smaller than nine pixels.
    const ends = [of.units[0], of.units.at(-1)].map(layer => layer.names.length);
    network.style.minWidth = `${of.width * SCALE * 9 / (Math.max(...ends) > 11 ? 11 : 13)}px`;
    const order = of.edges.map((_, i) => i).sort((a, b) => of.edges[a].importance - of.edges[b].importance);
    const groups = [];
    for (const index of order) {
      const edge = of.edges[index];
      const [sx, sy] = of.units[edge.layer].places[edge.input], [tx, ty] = of.units[edge.layer + 1].places[edge.output];
      const group = make("g", { class: `edge kind-${edge.kind}`, role: "button", tabindex: -1 });
      const dashes = data.kinds[edge.kind].dashes.map(length => length * 1.6).join(" ");
      const parts = edge.box
        ? [[sx, sy, edge.box[0], edge.box[1] - edge.box[2] / 2], [edge.box[0], edge.box[1] + edge.box[2] / 2, tx, ty]]
        : [[sx, sy, tx, ty]];
      for (const [a, b, c, d] of parts) {
        group.append(line(x(a), y(b), x(c), y(d), { class: "hit" }), line(x(a), y(b), x(c), y(d), { class: "line", "stroke-dasharray": dashes }));
      }
      if (edge.box) {
        const [cx, cy, side] = edge.box, corner = { x: x(cx - side / 2), y: y(cy + side / 2), width: side * SCALE, height: side * SCALE };
        group.append(make("rect", { class: "back", ...corner }), make("path", { class: "density" }), make("path", { class: "curve", "stroke-width": side > .5 ? 2.2 : 1.5 }), make("rect", { class: "box", ...corner }));
      }
      for (const event of ["pointerenter", "click", "focus"]) group.addEventListener(event, () => choose(index));
      groups[index] = group;
      network.append(group);
    }
    of.groups = groups;
    const legend = document.getElementById("kinds");
    legend.replaceChildren();
    for (const [key, kind] of Object.entries(data.kinds)) {
      if (!of.edges.some(edge => edge.kind === key)) continue;
      const item = html("li", ""), dashes = kind.dashes.map(length => length * 1.6).join(" ");
      const stroke = line(0, 5, 34, 5, { style: "stroke: var(--kind)", "stroke-width": 2.4, "stroke-dasharray": dashes });
      item.append(make("svg", { viewBox: "0 0 34 10", class: `kind-${key}`, "aria-hidden": "true" }, stroke), kind.label);
      legend.append(item);
    }
    of.units.forEach((layer, number) => layer.names.forEach((name, unit) => {
      const [ux, uy] = layer.places[unit], end = number === 0 || number === of.units.length - 1;
      const time = number === 0 && unit >= of.pointInputs;
      const group = make("g", { class: `unit${end ? " end" : ""}${time ? " time" : ""}` });
      group.append(make("title", {}, name));
      if (!layer.named) group.append(make("circle", { cx: x(ux), cy: y(uy), r: 4 }));
      else {
        const crowded = end && layer.names.length > 11;
        const size = crowded ? 11 : 13, wide = Math.max(26, name.length * size * .6 + 12);
        const shift = number === 0 ? 14 : end ? -14 : 0, cy = y(uy) + shift;
        const turned = crowded ? { transform: `rotate(-30 ${x(ux)} ${cy})` } : {};
        group.append(make("rect", { x: x(ux) - wide / 2, y: cy - 12, width: wide, height: 24, rx: end ? 4 : 11, ...turned }));
        group.append(make("text", { x: x(ux), y: cy + 4.5, "text-anchor": "middle", "font-size": size, ...turned }, name));
      }
      network.append(group);
    }));
  }
  function updateNetwork() {
    const of = view(), most = Math.max(1, ...of.edges.map(edge => edge.byLevel[state.level] ?? 0));
    of.edges.forEach((edge, index) => {
      const group = of.groups[index], fade = data.faintest + (1 - data.faintest) * Math.sqrt(Math.max(edge.byLevel[state.level] ?? 0, 0) / most);
      group.setAttribute("aria-label", `${called(of, edge)}: ${edge.text || data.kinds[edge.kind].label}, importance ${written(edge.byLevel[state.level])}`);
      group.classList.toggle("chosen", index === state.edge);
      group.setAttribute("tabindex", index === state.edge ? 0 : -1);
      for (const part of group.querySelectorAll("line.line")) {
        part.setAttribute("opacity", fade);
        part.setAttribute("stroke-width", .9 + 1.6 * fade * fade);
      }
      if (!edge.box) return;
      group.querySelector(".box").setAttribute("opacity", .25 + .75 * fade);
      if (!edge.curves) return;
      const curve = points(of, edge.curves[state.level]), [cx, cy, side] = edge.box;
      const left = (cx - side / 2) * SCALE, size = side * SCALE, top = (of.height + UP - cy - side / 2) * SCALE, bottom = top + size;
      const [x0, x1] = span(curve.x), [y0, y1] = span(curve.y);
      const flat = !(x1 - x0 > 1e-12), across = flat ? [0, 1] : curve.x.map(value => (value - x0) / Math.max(x1 - x0, 1e-12));
      const high = Math.max(y1 - y0, of.leastHeights[edge.layer]);
      const px = across.map(value => left + size * (.1 + .8 * value));
      const py = flat ? [top + size / 2, top + size / 2] : curve.y.map(value => top + size * (.5 - .8 * (value - (y0 + y1) / 2) / high));
      group.querySelector(".curve").setAttribute("d", path(px, py));
      group.querySelector(".curve").setAttribute("opacity", Math.max(fade, .35));
      group.querySelector(".density").setAttribute("d", flat ? "" : area(px, curve.density.map(value => bottom - .3 * size * value), bottom));
    });
  }

  // One edge.
  function drawEdge() {
    const of = view(), edge = of.edges[state.edge];
    const name = document.getElementById("edge-name"), place = document.getElementById("edge-curve"), facts = document.getElementById("edge-facts");
    place.replaceChildren();
    facts.replaceChildren();
    if (!edge) { name.textContent = "No edge is left"; return; }
    name.textContent = called(of, edge);
    if (edge.curves) {
      const all = edge.curves.map(curve => points(of, curve)), at = all[state.level];
      const ends = [span(all.flatMap(curve => curve.x)), span(all.flatMap(curve => curve.y))];
      const source = of.units[edge.layer].names[edge.input];
      const drawn = chart(304, 236, ...ends, [source, "contribution"], `Curve of ${called(of, edge)} at ${of.levels[state.level].label}`);
      const xs = curve => curve.x.map(drawn.x), ys = curve => curve.y.map(drawn.y);
      if (at.x.length > 1) drawn.svg.append(make("path", { class: "density", d: area(xs(at), at.density.map(value => drawn.base - .3 * drawn.high * value), drawn.base) }));
      const shade = make("g", { class: `kind-${edge.kind}` });
      for (const curve of all) shade.append(make("path", { d: path(xs(curve), ys(curve)), fill: "none", style: "stroke: var(--muted)", opacity: .35, "stroke-width": 1 }));
      if (at.x.length > 1) shade.append(make("path", { d: path(xs(at), ys(at)), fill: "none", style: "stroke: var(--kind)", "stroke-width": 2.6, "stroke-linejoin": "round" }));
      else shade.append(make("circle", { cx: drawn.x(at.x[0]), cy: drawn.y(at.y[0]), r: 4, style: "fill: var(--kind)" }));
      drawn.svg.append(shade);
      place.append(drawn.svg);
    } else place.append(html("p", "Its curve is left out of this page, which holds those of the most important edges."));
    const fact = (term, value) => { if (value !== "" && value !== undefined) facts.append(html("dt", term), html("dd", value)); };
    fact("kind", edge.kind === "formula" ? edge.function : data.kinds[edge.kind].label);
    fact("formula", edge.text && edge.text.replaceAll(/\bx\b/g, of.units[edge.layer].names[edge.input]));
    fact("importance", `${written(edge.byLevel[state.level])} here, ${written(edge.importance)} over all levels`);
    fact("size", written(edge.size));
    if (edge.r2 !== undefined && edge.r2 !== null) fact("R² held out", String(edge.r2) + (edge.best ? ` (${edge.best})` : ""));
    if (edge.complexity) fact("complexity", String(edge.complexity));
    fact("stays a curve", edge.reason);
  }

  // The score.
  const own = field => field.name === "exact" ? "var(--ink)" : field.colour;
  function drawScore() {
    const place = document.getElementById("score");
    if (!place) return;
    place.replaceChildren();
    const score = data.score, sigma = view().levels[state.level].sigma;
    const gaps = score.levels.map(level => Math.abs(level.sigma - sigma)), at = gaps.indexOf(Math.min(...gaps));
    if (score.dim === 1) drawLines(place, score, at); else drawFields(place, score, at);
  }
  function drawLines(place, score, at) {
    const x = score.points[at][0], ends = [span(x), span(score.fields.flatMap(field => field.values[at][0]))];
    const drawn = chart(Math.min(680, place.clientWidth), 330, ...ends, [`${score.columns[0]} (standardised)`, "score"], `Score at ${score.levels[at].label}`);
    const px = x.map(drawn.x), legend = html("ul", "");
    legend.className = "legend";
    if (score.density) drawn.svg.append(make("path", { class: "density", d: area(px, score.density[at].map(value => drawn.base - .35 * drawn.high * value), drawn.base) }));
    for (const field of score.fields) {
      const look = { fill: "none", class: field.name === "exact" ? "" : "learned", style: `stroke: ${own(field)}`, "stroke-width": field.name === "exact" ? 1.6 : 2.6, "stroke-dasharray": field.dashes.map(length => length * 2).join(" ") };
      drawn.svg.append(make("path", { d: path(px, field.values[at][0].map(drawn.y)), ...look }));
      const item = html("li", "");
      item.append(make("svg", { viewBox: "0 0 34 10", "aria-hidden": "true" }, make("path", { d: "M0 5L34 5", ...look })), field.name);
      legend.append(item);
    }
    const card = html("div", "");
    card.className = "field wide";
    card.append(html("h4", score.levels[at].label), drawn.svg, legend);
    place.append(card);
  }
  function drawFields(place, score, at) {
    const [xs, ys] = score.points[at], side = score.side[at], all = score.points;
    const ends = [0, 1].map(axis => span(all.flatMap(level => span(level[axis]))));
    const beside = .06 * (ends[0][1] - ends[0][0]);  // half an arrow, as charts have above and below
    ends[0] = [ends[0][0] - beside, ends[0][1] + beside];
    for (const field of score.fields) {
      const drawn = chart(300, 300, ...ends, score.columns, `Score, ${field.name}, at ${score.levels[at].label}`);
      const wide = side ? (drawn.x(xs[xs.length - 1]) - drawn.x(xs[0])) / (side - 1) : 0;
      const tall = side ? (drawn.y(ys[0]) - drawn.y(ys[ys.length - 1])) / (side - 1) : 0;
      if (score.density && side) xs.forEach((value, i) => {
        const shade = score.density[at][i];
        if (shade > .02) drawn.svg.append(make("rect", { class: "cell", x: drawn.x(value) - wide / 2, y: drawn.y(ys[i]) - tall / 2, width: wide, height: tall, style: "fill: var(--muted)", opacity: .42 * shade }));
      });
      const longest = 1.7 * (side ? Math.min(wide, tall) : 8), arrows = [];
      xs.forEach((value, i) => {
        if (side && (Math.floor(i / side) % 2 || (i % side) % 2)) return;
        const u = field.values[at][0][i], v = field.values[at][1][i];
        if (u === null || v === null) return;
        const length = Math.hypot(u, v) / score.scales[at], reach = longest * Math.min(length, 1);
        if (reach < 1) return;
        const angle = Math.atan2(-v, u), dx = Math.cos(angle) * reach / 2, dy = Math.sin(angle) * reach / 2;
        const cx = drawn.x(value), cy = drawn.y(ys[i]), head = Math.min(5, reach * .45);
        const tip = turn => `${(cx + dx + head * Math.cos(angle + turn)).toFixed(1)} ${(cy + dy + head * Math.sin(angle + turn)).toFixed(1)}`;
        arrows.push(`M${(cx - dx).toFixed(1)} ${(cy - dy).toFixed(1)}L${(cx + dx).toFixed(1)} ${(cy + dy).toFixed(1)}M${tip(2.6)}L${(cx + dx).toFixed(1)} ${(cy + dy).toFixed(1)}L${tip(-2.6)}`);
      });
      drawn.svg.append(make("path", { class: field.name === "exact" ? "" : "learned", d: arrows.join(""), fill: "none", style: `stroke: ${own(field)}`, "stroke-width": 1.5, "stroke-linejoin": "round", "stroke-linecap": "round" }));
      const card = html("div", "");
      card.className = "field";
      card.append(html("h4", `${field.name}, ${score.levels[at].label}`), drawn.svg);
      place.append(card);
    }
  }

  // What is chosen.
  function choose(edge) {
    if (edge === state.edge) return;
    const groups = view().groups;
    groups[state.edge]?.classList.remove("chosen");
    groups[state.edge]?.setAttribute("tabindex", -1);
    state.edge = edge;
    groups[edge].classList.add("chosen");
    groups[edge].setAttribute("tabindex", 0);
    drawEdge();
  }
  function setLevel(level) {
    state.level = Math.min(Math.max(level, 0), view().levels.length - 1);
    slider.value = state.level;
    const label = view().levels[state.level].label;
    slider.setAttribute("aria-valuetext", label);
    document.getElementById("level-label").textContent = label;
    updateNetwork();
    drawEdge();
    drawScore();
  }
  function setView(number) {
    state.view = number;
    const importances = view().edges.map(edge => edge.importance ?? 0);
    state.edge = Math.max(importances.indexOf(Math.max(...importances)), 0);
    slider.max = view().levels.length - 1;
    for (const button of document.querySelectorAll("[data-view]")) {
      button.setAttribute("aria-pressed", Number(button.dataset.view) === number);
    }
    drawNetwork();
    setLevel(state.level);
  }
  for (const button of document.querySelectorAll("[data-view]")) {
    button.addEventListener("click", () => setView(Number(button.dataset.view)));
  }
  slider.addEventListener("input", () => setLevel(Number(slider.value)));
  network.addEventListener("keydown", event => {
    const level = { ArrowLeft: -1, ArrowRight: 1 }[event.key], step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (level) setLevel(state.level + level);
    else if (step && view().edges.length) {
      const count = view().edges.length;
      choose((state.edge + step + count) % count);
      view().groups[state.edge].focus();
    } else return;
    event.preventDefault();
  });
  state.level = Number(slider.value);
  document.getElementById("explorer").hidden = false;
  setView(data.views.length - 1);
}
