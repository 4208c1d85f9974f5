// The networks of an explanation: one is shown, at one noise level, and one of its edges is chosen.
{
  const data = JSON.parse(document.getElementById("page-data").textContent);
  const state = { view: 0, level: 0, edge: 0 };
  const slider = document.getElementById("level");
  const networks = [...document.querySelectorAll("svg.network")];
  const view = () => data.views[state.view];
  const groupOf = index => networks[state.view].querySelector(`[data-edge="${index}"]`);
  const make = (name, attributes = {}) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return element;
  };
  const written = value => {
    if (value === null || value === undefined) return "–";
    const size = Math.abs(value), tiny = size !== 0 && (size < 1e-3 || size >= 1e5);
    return (tiny ? value.toExponential(2) : String(Number(value.toPrecision(3)))).replace("-", "−");
  };
  const span = values => [Math.min(...values), Math.max(...values)];
  const path = (x, y) => x.map((value, i) => `${i ? "L" : "M"}${value.toFixed(1)} ${y[i].toFixed(1)}`).join("");
  const kindOf = edge => edge.kind in data.kinds ? edge.kind : "formula";
  const nameOf = edge => `${edge.source} to ${edge.target}`;
  const curveOf = (edge, level) => {
    const [x, density] = view().inputs[edge.layer][edge.input][level];
    return { x, density, y: edge.curves[level] };
  };

  // A curve within a rectangle, over the density of its inputs; x and y give the ends of its axes.
  function placed(curve, [x0, x1], [y0, y1], left, top, width, height) {
    const x = curve.x.map(value => left + width * (value - x0) / Math.max(x1 - x0, 1e-12));
    const y = curve.y.map(value => top + height * (y1 - value) / Math.max(y1 - y0, 1e-12));
    return { x, line: path(x, y) };
  }
  function area(x, density, bottom, height) {
    const last = x[x.length - 1];
    return `${path(x, density.map(value => bottom - height * value))}L${last} ${bottom}L${x[0]} ${bottom}Z`;
  }

  function updateNetwork() {
    const most = Math.max(1, ...view().edges.map(edge => edge.importance_by_level[state.level] ?? 0));
    view().edges.forEach((edge, index) => {
      const group = groupOf(index), share = edge.importance_by_level[state.level];
      const fade = data.faintest + (1 - data.faintest) * Math.sqrt(Math.max(share ?? 0, 0) / most);
      const words = edge.text || data.kinds[kindOf(edge)];
      group.setAttribute("aria-label", `${nameOf(edge)}: ${words}, importance ${written(share)}`);
      group.classList.toggle("chosen", index === state.edge);
      group.setAttribute("tabindex", index === state.edge ? 0 : -1);
      for (const line of group.querySelectorAll(".line")) {
        line.setAttribute("opacity", fade);
        line.setAttribute("stroke-width", .9 + 1.6 * fade * fade);
      }
      const box = group.querySelector(".box");
      if (!box || !edge.curves) return;
      const [left, top, side] = ["x", "y", "width"].map(key => box[key].baseVal.value);
      const cx = left + side / 2, cy = top + side / 2;
      const curve = curveOf(edge, state.level);
      const drawn = group.querySelector(".curve-of"), density = group.querySelector(".density");
      box.setAttribute("opacity", .25 + .75 * fade);
      drawn.setAttribute("opacity", Math.max(fade, .35));
      if (curve.x.length < 2) {
        drawn.setAttribute("d", `M${cx - .4 * side} ${cy}L${cx + .4 * side} ${cy}`);
        density.setAttribute("d", "");
        return;
      }
      const [low, high] = span(curve.y), middle = (low + high) / 2;
      const half = Math.max(high - low, view().leastHeights[edge.layer]) / 2;
      const ends = [middle - half, middle + half], corner = [cx - .4 * side, cy - .4 * side];
      const { x, line } = placed(curve, span(curve.x), ends, ...corner, .8 * side, .8 * side);
      drawn.setAttribute("d", line);
      density.setAttribute("d", area(x, curve.density, cy + side / 2, .3 * side));
    });
  }

  // The chosen edge: its curve at this level before those at all others.
  function drawEdge() {
    const edge = view().edges[state.edge], place = document.getElementById("edge-curve");
    const name = document.getElementById("edge-name"), facts = document.getElementById("edge-facts");
    place.replaceChildren();
    facts.replaceChildren();
    name.textContent = edge ? nameOf(edge) : "No edge is left";
    if (!edge) return;
    const fact = (term, value) => {
      if (value === "" || value === undefined || value === null) return;
      const [dt, dd] = ["dt", "dd"].map(tag => document.createElement(tag));
      dt.textContent = term;
      dd.textContent = value;
      facts.append(dt, dd);
    };
    if (edge.curves) {
      const all = edge.curves.map((_, level) => curveOf(edge, level)), at = all[state.level];
      const xs = span(all.flatMap(curve => curve.x)), ys = span(all.flatMap(curve => curve.y));
      const label = `Curve of ${name.textContent} at ${view().levels[state.level]}`;
      const svg = make("svg", { viewBox: "0 0 304 200", role: "img", class: "network", "aria-label": label });
      const group = make("g", { class: kindOf(edge) }), frame = [4, 8, 296, 184];
      const { x, line } = placed(at, xs, ys, ...frame);
      if (at.x.length > 1) group.append(make("path", { class: "density", d: area(x, at.density, 192, 55) }));
      for (const curve of all) {
        group.append(make("path", { class: "curve-of", d: placed(curve, xs, ys, ...frame).line, opacity: .25 }));
      }
      group.append(make("path", { class: "curve-of", d: line, "stroke-width": 2.6 }));
      svg.append(group);
      svg.style.minWidth = 0;
      place.append(svg);
      fact("inputs", `${written(xs[0])} to ${written(xs[1])}`);
      fact("contribution", `${written(ys[0])} to ${written(ys[1])}`);
    } else fact("curve", "left out of this page, which holds those of the most important edges");
    fact("kind", data.kinds[edge.kind] ?? edge.kind);
    fact("formula", edge.text && edge.text.replaceAll(/\bx\b/g, edge.source));
    fact("importance", `${written(edge.importance_by_level[state.level])} here, ${written(edge.importance)} over all levels`);
    fact("R² held out", edge.r2);
    fact("stays a curve", edge.reason);
  }

  function choose(edge) {
    if (edge === state.edge) return;
    for (const [index, chosen] of [[state.edge, false], [edge, true]]) {
      groupOf(index)?.classList.toggle("chosen", chosen);
      groupOf(index)?.setAttribute("tabindex", chosen ? 0 : -1);
    }
    state.edge = edge;
    drawEdge();
  }
  function setLevel(level) {
    state.level = Math.min(Math.max(level, 0), view().levels.length - 1);
    slider.value = state.level;
    const label = view().levels[state.level];
    slider.setAttribute("aria-valuetext", label);
    document.getElementById("level-label").textContent = label;
    for (const figure of document.querySelectorAll("figure[data-level]")) {
      figure.hidden = Number(figure.dataset.level) !== state.level;
    }
    updateNetwork();
    drawEdge();
  }
  function setView(number) {
    state.view = number;
    const importances = view().edges.map(edge => edge.importance ?? 0);
    state.edge = Math.max(importances.indexOf(Math.max(...importances)), 0);
    networks.forEach((network, index) => network.toggleAttribute("hidden", index !== number));
    for (const button of document.querySelectorAll("[data-view]")) {
      button.setAttribute("aria-pressed", Number(button.dataset.view) === number);
    }
    setLevel(state.level);
  }
  networks.forEach(network => {
    for (const group of network.querySelectorAll(".edge")) {
      group.setAttribute("role", "button");
      const index = Number(group.dataset.edge);
      for (const event of ["pointerenter", "click", "focus"]) group.addEventListener(event, () => choose(index));
    }
    network.addEventListener("keydown", event => {
      const level = { ArrowLeft: -1, ArrowRight: 1 }[event.key], step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
      const count = view().edges.length;
      if (level) setLevel(state.level + level);
      else if (step && count) {
        choose((state.edge + step + count) % count);
        groupOf(state.edge).focus();
      } else return;
      event.preventDefault();
    });
  });
  for (const button of document.querySelectorAll("[data-view]")) {
    button.addEventListener("click", () => setView(Number(button.dataset.view)));
  }
  slider.addEventListener("input", () => setLevel(Number(slider.value)));
  state.level = Number(slider.value);
  for (const part of document.querySelectorAll("#explorer [hidden]:is(.controls, .panel)")) part.hidden = false;
  setView(data.views.length - 1);
}
