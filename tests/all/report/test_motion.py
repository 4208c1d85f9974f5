import re
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from helpers import seeded
from kan_diffusion.report.explanation import write_explanation
from kan_diffusion.report.motion import write_motion
from kan_diffusion.report.page import Page
from kan_diffusion.report.views import EXACT, MOST_FRAMES, Mover, animate, view_of
from kan_diffusion.study.tasks import NOTHING_ASKED
from kan_diffusion.study.trial import load_run
from made_explanation import make_explanation, make_score
from movers import mover


def test_two_processes_are_counted_by_steps_where_their_times_differ():
    both = [mover("mlp"), mover("mlp", "flow")]
    motion = animate(both, num=30, steps=5)
    assert motion.labels == [f"t = {t:.2f} T" for t in (1, 0.8, 0.6, 0.4, 0.2, 0)]
    motion = animate(both, num=30, steps=7)  # one of them rounds sevenths of T
    assert motion.labels == [f"step {k} of 7" for k in range(8)]
    titles = ["mlp, cosine", "mlp, flow", f"{EXACT}, cosine", f"{EXACT}, flow"]
    assert [panel.title for panel in motion.panels] == titles


def test_models_of_one_name_are_told_apart_and_long_processes_thinned():
    movers = [replace(mover(), source=source) for source in ("runs/a", "runs/b", "runs/b")]
    motion = animate(movers, num=4, steps=100)
    titles = ["mlp (runs/a)", "mlp (runs/b)", "mlp (runs/b) 2", EXACT]
    assert [panel.title for panel in motion.panels] == titles
    assert len(motion.labels) == MOST_FRAMES
    assert (motion.labels[0], motion.labels[-1]) == ("t = 1.00 T", "t = 0.00 T")


def test_a_table_shows_the_encoded_rows_that_its_pipeline_draws(runs):
    config, pipeline = load_run(runs("table"))
    model = Mover("mlp", "mlp", pipeline, config.data)
    _, states = view_of(config.data).reverse(model, NOTHING_ASKED, 15, 4, seeded(1))
    rows = pipeline(15, 4, generator=seeded(1)).samples
    np.testing.assert_array_equal(states[-1], rows.double().numpy())


CHROMIUM = Path("/usr/bin/chromium")
_CLOCK = """<head><script>
// A browser without a screen draws when it likes: here each 16 milliseconds of its virtual time.
requestAnimationFrame = draw => setTimeout(() => draw(performance.now()), 16);
cancelAnimationFrame = clearTimeout;
</script>"""
_PLAYS = """<script>
addEventListener("error", event => document.title = "error: " + event.message);
const [button, slider] = document.querySelectorAll("figure.player button, figure.player input");
const seen = [slider.value];
button.click();
setTimeout(() => { seen.push(slider.value, button.textContent); }, 700);
setTimeout(() => {
  seen.push(slider.value, button.textContent, document.querySelector("output").textContent);
  const data = document.querySelector("canvas").getContext("2d").getImageData(0, 0, 150, 150).data;
  seen.push(String(data.some(value => value)));
  document.body.dataset.seen = seen.join("|");
}, 6000);
</script></body>"""
_EXPLORES = """<script>
addEventListener("error", event => document.title = "error: " + event.message);
const shown = () => [...document.querySelectorAll(".diagram svg.network")]
  .map(svg => svg.hasAttribute("hidden") ? "-" : "+").join("");
const name = () => document.getElementById("edge-name").textContent;
const front = ".diagram svg:not([hidden])";
const curve = () => document.querySelector(`${front} .curve-of`).getAttribute("d");
const seen = [shown(), name()], before = curve();
document.querySelector("[data-view='0']").click();
seen.push(shown(), document.querySelector(".panel").hidden);
const chosen = document.querySelector(`${front} .chosen`);
const press = key => document.activeElement.dispatchEvent(
  new KeyboardEvent("keydown", { key, bubbles: true }));
chosen.focus();
const start = name(), label = document.getElementById("level-label");
press("ArrowDown");
seen.push(name() !== start, label.textContent);
press("ArrowRight");
const [score, ...others] = document.querySelectorAll("figure[data-level]:not([hidden])");
seen.push(label.textContent, others.length, score.dataset.level, curve() !== before);
document.body.dataset.seen = seen.join("|");
</script></body>"""

_BREAKS = """<script>
const broken = [...document.querySelectorAll("tbody th")].flatMap(({ firstChild: text }) =>
  [...text.textContent.matchAll(/[^\\s-]+/g)].filter(({ 0: word, index }) => {
    const range = document.createRange();
    range.setStart(text, index);
    range.setEnd(text, index + word.length);
    return new Set([...range.getClientRects()].map(box => box.top)).size > 1;
  }));
document.body.dataset.seen = `${innerWidth < 640}|${broken.length}`;
</script></body>"""


def dom_after(page, driver, folder, *options):
    """What a browser makes of a page with a driver, which the page's policy would not allow."""
    text = page.read_text().replace("<head>", _CLOCK).replace("</body>", driver)
    page.write_text(re.sub(r"<meta http-equiv=.Content-Security-Policy[^>]*>", "", text))
    options = ["--headless", "--no-sandbox", "--disable-gpu", *options]
    options += ["--virtual-time-budget=9000"]
    profile = f"--user-data-dir={folder / 'profile'}"
    ended = subprocess.run(
        [CHROMIUM, *options, profile, "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert "<title>error" not in ended.stdout
    (seen,) = re.findall('data-seen="([^"]*)"', ended.stdout)
    return seen.split("|"), ended.stdout


@pytest.mark.skipif(not CHROMIUM.exists(), reason="there is no Chromium")
def test_the_player_plays_in_a_browser(tmp_path):
    path = tmp_path / "both.html"
    motion = animate([mover("residual-mlp"), mover("mlp")], num=60, steps=6)
    write_motion(motion, path, "Both")
    seen, dom = dom_after(path, _PLAYS, tmp_path)
    start, midway, pausing, end, playing, label, drawn = seen
    assert (float(start), float(end)) == (6, 6)
    assert 0 < float(midway) < 6
    assert (pausing, playing) == ("❚❚ Pause", "▶ Play")
    assert (label, drawn) == ("t = 0.00 T", "true")
    assert dom.count("<canvas") == len(motion.panels)


@pytest.mark.skipif(not CHROMIUM.exists(), reason="there is no Chromium")
def test_a_network_is_explored_by_mouse_and_keyboard_in_a_browser(tmp_path):
    made = make_explanation(score=make_score(2, names=("network", "formula")))
    path = write_explanation(made, tmp_path)
    seen, _ = dom_after(path, _EXPLORES, tmp_path)
    assert seen[:4] == ["--+", "h1.1 to out1", "+--", "false"]
    assert seen[4:] == ["true", "σ = 0.50", "σ = 0.98", "0", "2", "true"]


@pytest.mark.skipif(not CHROMIUM.exists(), reason="there is no Chromium")
def test_a_narrow_screen_breaks_no_word_of_a_tables_first_column(tmp_path):
    frame = pd.DataFrame({f"column {k}": ["0.123 [0.100, 0.145]"] * 2 for k in range(5)})
    frame.insert(0, "model", ["residual modulated network", "modulated Fourier inputs"])
    path = Page("t").table(frame, "T").write(tmp_path / "page.html")
    seen, _ = dom_after(path, _BREAKS, tmp_path, "--window-size=500,900")
    assert seen == ["true", "0"]
