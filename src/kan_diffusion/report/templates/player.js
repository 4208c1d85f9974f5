// Players: panels that move in step. Without this script the stills of the figure are seen.
for (const figure of document.querySelectorAll("figure.player")) {
  const motion = JSON.parse(figure.querySelector("script").textContent);
  const last = motion.labels.length - 1;
  const make = (name, attributes, ...children) => {
    const element = Object.assign(document.createElement(name), attributes);
    element.append(...children);
    return element;
  };
  const ABSENT = 65535, BINS = 60;
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  let place = last, playing = 0, before = 0;

  // Where a coordinate is between two frames: 0 to 1 within the panel, NaN for nowhere.
  function reader(panel, dims) {
    const bytes = Uint8Array.from(atob(panel.places), letter => letter.charCodeAt(0));
    const numbers = new Uint16Array(bytes.buffer), size = panel.count * dims;
    const at = (frame, index) => {
      const number = numbers[frame * size + index];
      return number === ABSENT ? NaN : (number / (ABSENT - 1) - .25) * 2;
    };
    return (where, point, axis) => {
      const frame = Math.min(Math.floor(where), last), share = where - frame;
      const index = point * dims + axis, here = at(frame, index);
      return share > 0 && frame < last ? here + share * (at(frame + 1, index) - here) : here;
    };
  }
  const drawers = {
    points(panel) {
      const read = reader(panel, 2), radius = panel.count > 400 ? 1.4 : 2.1;
      return (context, size) => {
        context.globalAlpha = .6;
        for (let i = 0; i < panel.count; i++) {
          context.beginPath();
          context.arc(read(place, i, 0) * size, (1 - read(place, i, 1)) * size, radius, 0, 7);
          context.fill();
        }
      };
    },
    bars(panel) {
      const read = reader(panel, 1);
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

  const stage = make("div", { className: "stage" });
  const panels = motion.panels.map(panel => {
    const canvas = make("canvas", { className: panel.exact ? "exact" : "", ariaLabel: panel.title });
    canvas.setAttribute("role", "img");
    canvas.style.setProperty("--own", panel.colour ?? "#000");
    canvas.style.aspectRatio = panel.kind === "pictures" ? `${panel.width} / ${panel.height}` : "1";
    stage.append(make("div", {}, make("p", { textContent: panel.title }), canvas));
    const context = canvas.getContext("2d");
    const paint = () => {
      const { clientWidth: size, clientHeight: tall } = canvas, sharp = devicePixelRatio || 1;
      if (!size) return;
      const [across, down] = [size, tall].map(side => Math.round(side * sharp));
      if (canvas.width !== across || canvas.height !== down) [canvas.width, canvas.height] = [across, down];
      context.setTransform(sharp, 0, 0, sharp, 0, 0);
      context.clearRect(0, 0, size, tall);
      context.fillStyle = getComputedStyle(canvas).color;
      context.globalAlpha = 1;
      draw(context, size);
    };
    const draw = drawers[panel.kind](panel, paint);
    return paint;
  });

  const button = make("button", { type: "button", textContent: "▶ Play" });
  const slider = make("input", { type: "range", min: 0, max: last, step: "any", ariaLabel: "Frame" });
  const label = make("output"), speed = make("select", { ariaLabel: "Speed" });
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
  let position = last;
  function go(now) {
    if (before) position += (now - before) / 1000 * motion.pace * Number(speed.value);
    position = Math.min(position, last);
    before = now;
    show(position);
    if (position < last) playing = requestAnimationFrame(go);
    else stop();
  }
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
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => show(place));
  figure.prepend(stage, make("div", { className: "transport" }, button, slider, label, speed));
  figure.classList.add("live");
  new ResizeObserver(() => show(place)).observe(stage);
}
