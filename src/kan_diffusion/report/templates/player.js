// Players: panels that move in step. Without this script the frames of the figure's picture are seen.
for (const figure of document.querySelectorAll("figure.player")) {
  const motion = JSON.parse(figure.querySelector("script").textContent);
  const last = motion.labels.length - 1;
  const make = (name, attributes, ...children) => {
    const element = Object.assign(document.createElement(name), attributes);
    element.append(...children);
    return element;
  };
  const ABSENT = 65535, still = matchMedia("(prefers-reduced-motion: reduce)");
  let place = last, playing = 0, before = 0;

  // Where a coordinate is at a place between two frames: 0 to 1 within the panel, NaN for nowhere.
  const unpacked = text => new Uint16Array(Uint8Array.from(atob(text), letter => letter.charCodeAt(0)).buffer);
  function reader(panel, dims) {
    const numbers = unpacked(panel.places), size = panel.count * dims;
    const at = (frame, index) => {
      const number = numbers[frame * size + index];
      return number === ABSENT ? NaN : (number / (ABSENT - 1) - .25) * 2;
    };
    return (where, point, axis) => {
      const frame = Math.min(Math.floor(where), last), index = point * dims + axis, share = where - frame;
      const here = at(frame, index);
      return share > 0 && frame < last ? here + share * (at(frame + 1, index) - here) : here;
    };
  }
  const drawers = {
    points(panel) {
      const read = reader(panel, 2), radius = panel.count > 400 ? 1.5 : 2.1;
      return (context, size) => {
        const x = (where, i) => read(where, i, 0) * size, y = (where, i) => (1 - read(where, i, 1)) * size;
        context.globalAlpha = .5;
        context.lineWidth = .9;
        for (let i = 0; i < Math.min(panel.trails, panel.count); i++) {
          context.beginPath();
          for (let frame = 0; frame < place; frame++) context.lineTo(x(frame, i), y(frame, i));
          context.lineTo(x(place, i), y(place, i));
          context.stroke();
        }
        for (let i = 0; i < panel.count; i++) {
          const followed = i < panel.trails;
          context.globalAlpha = followed ? 1 : panel.trails ? .35 : .6;
          context.beginPath();
          context.arc(x(place, i), y(place, i), followed ? 2.3 : radius, 0, 7);
          context.fill();
        }
      };
    },
    curve(panel) {
      const read = reader(panel, 2);
      return (context, size) => {
        context.lineWidth = 2;
        context.beginPath();
        for (let i = 0; i < panel.count; i++) context.lineTo(read(place, i, 0) * size, (1 - read(place, i, 1)) * size);
        context.stroke();
      };
    },
    bars(panel) {
      const read = reader(panel, 1), BINS = 60;
      const counts = where => {
        const bars = new Array(BINS).fill(0);
        for (let i = 0; i < panel.count; i++) {
          const bin = Math.floor(read(where, i, 0) * BINS);
          if (bin >= 0 && bin < BINS) bars[bin]++;
        }
        return bars;
      };
      const high = 1.15 * Math.max(...counts(0), ...counts(last));
      return (context, size) => counts(place).forEach((count, bin) => {
        const tall = size * count / high;
        context.fillRect(bin * size / BINS, size - tall, size / BINS + .5, tall);
      });
    },
    pictures(panel, redraw) {
      const sheet = make("img", { onload: redraw, src: panel.sheet });
      return (context, size) => {
        if (!sheet.complete) return;
        context.imageSmoothingEnabled = false;
        const { width, height, across } = panel, frame = Math.round(place);
        const x = frame % across * width, y = Math.floor(frame / across) * height;
        context.drawImage(sheet, x, y, width, height, 0, 0, size, size * height / width);
      };
    },
  };

  const stage = make("div", { className: motion.panels.length > 6 ? "stage many" : "stage" });
  stage.style.setProperty("--panels", motion.panels.length);
  const panels = motion.panels.map(panel => {
    const canvas = make("canvas", { className: panel.kind === "pictures" ? "" : "ink" });
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", panel.title);
    canvas.style.aspectRatio = panel.kind === "pictures" ? `${panel.width} / ${panel.height}` : "1";
    stage.append(make("div", {}, make("p", { textContent: panel.title }), canvas));
    const context = canvas.getContext("2d");
    const paint = () => {
      const size = canvas.clientWidth, sharp = devicePixelRatio || 1, tall = canvas.clientHeight;
      if (!size) return;
      const [across, down] = [size, tall].map(side => Math.round(side * sharp));
      if (canvas.width !== across || canvas.height !== down) [canvas.width, canvas.height] = [across, down];
      context.setTransform(sharp, 0, 0, sharp, 0, 0);
      context.clearRect(0, 0, size, tall);
      context.fillStyle = context.strokeStyle = panel.colour ?? "#000";
      context.globalAlpha = 1;
      draw(context, size);
    };
    const draw = drawers[panel.kind](panel, paint);
    return paint;
  });

  const button = make("button", { type: "button", textContent: "▶ Play" });
  const slider = make("input", { type: "range", min: 0, max: last, step: "any", ariaLabel: "Frame" });
  const label = make("output");
  const speed = make("select", { ariaLabel: "Speed" });
  for (const [factor, text] of [[.25, "¼ speed"], [.5, "½ speed"], [1, "1 × speed"], [2, "2 × speed"]]) {
    speed.append(make("option", { value: factor, textContent: text, selected: factor === 1 }));
  }
  function show(where) {
    place = still.matches ? Math.round(where) : where;
    slider.value = place;
    label.textContent = motion.labels[Math.round(place)];
    slider.setAttribute("aria-valuetext", label.textContent);
    for (const paint of panels) paint();
  }
  function stop() {
    cancelAnimationFrame(playing);
    playing = 0;
    button.textContent = "▶ Play";
  }
  function go(now) {
    const where = (before ? position + (now - before) / 1000 * motion.pace * Number(speed.value) : position);
    position = Math.min(where, last);
    before = now;
    show(position);
    if (position < last) playing = requestAnimationFrame(go);
    else stop();
  }
  let position = last;
  button.addEventListener("click", () => {
    if (playing) return stop();
    position = place >= last ? 0 : place;
    before = 0;
    button.textContent = "❚❚ Pause";
    playing = requestAnimationFrame(go);
  });
  slider.addEventListener("input", () => {
    stop();
    show(Number(slider.value));
  });
  slider.addEventListener("keydown", event => {
    const step = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    stop();
    show(Math.min(Math.max(Math.round(place) + step, 0), last));
  });
  figure.prepend(stage, make("div", { className: "transport" }, button, slider, label, speed));
  figure.classList.add("live");
  new ResizeObserver(() => show(place)).observe(stage);
}
