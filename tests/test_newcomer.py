"""One of each kind is added as the table in CONTRIBUTING says, and a study runs with them."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from kan_diffusion.data.densities import GaussianMixture
from kan_diffusion.data.toys import TOYS
from kan_diffusion.denoisers import Family, NetworkDenoiser
from kan_diffusion.denoisers.families import FAMILIES
from kan_diffusion.evaluation.metrics import SAMPLE_METRICS, Metric
from kan_diffusion.kan.bases import BASES, Basis
from kan_diffusion.processes import PROCESSES, Process
from kan_diffusion.report.study import write_report
from kan_diffusion.study.executors import EXECUTORS, get_executor
from kan_diffusion.study.run import run_study
from kan_diffusion.tables.codec import TableCodec
from kan_diffusion.tables.conditions import read_conditions
from kan_diffusion.tables.kinds import KINDS
from kan_diffusion.tables.kinds.number import Number
from kan_diffusion.tables.page import column_figure
from kan_diffusion.tables.scales import Scale
from kan_diffusion.tables.scores import table_scores
from make import study
from one_by_one import one_by_one

ROOT = Path(__file__).parent.parent


class Bells(Basis):
    """B_g(u) = 1 / cosh(u - g)^2, one bell at every knot, which falls to zero beyond the grid.

    An edge has G + 1 parameters; an input takes 7 (G + 1) operations.
    """

    name = "bells"
    local = True

    def sizes(self) -> tuple[int, int, int]:
        functions = self.num_intervals + 1
        return functions, functions, 7 * functions

    def values(self, u: Tensor) -> Tensor:
        knots = torch.arange(self.num_functions, device=u.device, dtype=u.dtype)
        return torch.cosh(u.unsqueeze(-1) - knots) ** -2

    def slopes(self, u: Tensor) -> Tensor:
        knots = torch.arange(self.num_functions, device=u.device, dtype=u.dtype)
        return -2 * torch.tanh(u.unsqueeze(-1) - knots) * self.values(u)


def three_spots(noise: float = 0.3) -> GaussianMixture:
    """Three equal round Gaussians in a row."""
    return GaussianMixture([[-2.0, 0.0], [0.0, 0.0], [2.0, 0.0]], variances=noise**2)


BELL_KAN = Family(
    "bell-kan",
    NetworkDenoiser,
    depth=1,
    learning_rate=1e-2,
    kind="kan",
    title="Bell KAN",
    settings={"edges": True, "basis": "bells", "num_time_frequencies": 3},
)


def shift(generated: Tensor, real: Tensor, generator: np.random.Generator) -> float:
    """Distance between the means."""
    return float((generated - real.mean(0)).mean(0).norm())


class Hours(Scale):
    """Minutes since midnight, which are drawn as hours."""

    def label(self, axes, log):
        super().label(axes, log)
        axes.xaxis.set_major_formatter(lambda minute, _: f"{minute / 60:.0f} h")
        return "time of day"


class Clock(Number):
    """Times of day such as "08:30", which are minutes since midnight."""

    holds = frozenset({"text"})

    @staticmethod
    def minutes(texts: np.ndarray) -> np.ndarray:
        return np.array([60 * int(text[:2] or 0) + int(text[3:] or 0) for text in texts], int)

    @classmethod
    def fitted(cls, cells):
        return super().fitted(replace(cells, values=cls.minutes(cells.values)))

    def parse(self, series):
        texts, missing = super().parse(series)
        return self.minutes(texts), missing

    def scale(self, present):
        return Hours()

    def restore(self, values, missing):
        texts = [f"{minute // 60:02}:{minute % 60:02}" for minute in values]
        return super().restore(np.array(texts, object), missing)


def test_a_table_has_a_column_of_a_new_kind(monkeypatch):
    monkeypatch.setitem(KINDS, "clock", Clock)
    rng = np.random.default_rng(0)
    minutes = pd.Series(rng.choice(np.arange(8 * 60, 18 * 60, 5), 900))
    at = (minutes // 60).map("{:02}".format) + ":" + (minutes % 60).map("{:02}".format)
    frame = pd.DataFrame({"at": at.where(rng.random(900) > 0.1), "x": rng.normal(size=900)})
    codec = TableCodec.fit(frame, {"at": "clock"})
    back = codec.decode(codec.encode(frame, rng))
    pd.testing.assert_series_equal(back["at"], frame["at"])
    codec = TableCodec.from_dict(codec.to_dict())
    drawn = codec.decode(torch.randn(5000, codec.dim, generator=torch.manual_seed(0)))["at"]
    assert drawn.isna().any()
    assert set(drawn.dropna()) == set(at)
    morning = read_conditions({"at": (None, "09:00")}, codec)["at"].holds(drawn)
    assert set(drawn[morning]) == {time for time in at if time <= "09:00"}
    scores = table_scores(
        frame, frame[::-1], train=frame, kinds={"at": "clock"}, generator=0, effort="quick"
    )
    assert scores.columns.set_index("name").loc["at", ["kind", "shape"]].tolist() == ["clock", 1]
    np.testing.assert_array_equal(scores.cells["at"][1], minutes.where(frame["at"].notna()))
    (axes,) = column_figure("at", *scores.cells["at"]).axes
    assert axes.get_xlabel() == "time of day"
    assert axes.xaxis.get_major_formatter()(540, 0) == "9 h"


def test_a_study_runs_with_one_of_each(tmp_path, monkeypatch):
    monkeypatch.setitem(BASES, Bells.name, Bells)
    monkeypatch.setitem(TOYS, "three-spots", three_spots)
    short = Process(name="short", schedule="linear", num_timesteps=200)
    monkeypatch.setitem(PROCESSES, short.name, short)
    monkeypatch.setitem(FAMILIES, BELL_KAN.name, BELL_KAN)
    monkeypatch.setitem(SAMPLE_METRICS, "shift", Metric("shift", "shift of means", "lower", shift))
    monkeypatch.setitem(EXECUTORS, "one-by-one", one_by_one)

    config = study(
        data=[{"toy": "three-spots", "num_points": 500}],
        process="short",
        models=[{"family": "bell-kan", "params": 608}, {"family": "mlp", "params": 600}],
    )
    executor = get_executor("one-by-one", device="cpu")
    results = run_study(config, tmp_path, executor=executor)
    assert list(results.rows["name"]) == ["Bell KAN", "MLP"]
    assert set(results.rows["data"]) == {"three-spots"}
    assert set(results.rows["process"]) == {"short"}
    assert (results.rows[["excess", "shift"]] > 0).all(axis=None)

    page = write_report(results, tmp_path, figures=False).read_text()
    for name in ("three-spots", "Bell KAN", "shift of means"):
        assert name in page


def test_the_table_names_files_and_registries_that_are_there():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    rows = re.findall(r"^\| ([\w ]+) \|.*\| `([A-Z_]+)` in `([\w/.]+)` \|$", text, re.MULTILINE)
    assert [kind for kind, *_ in rows] == [
        "basis", "toy", "process", "family", "metric", "kind of data", "kind of column",
        "rule of a table", "executor",
    ]  # fmt: skip
    for _, registry, file in rows:
        source = (ROOT / "src/kan_diffusion" / file).read_text()
        assert re.search(rf"^{registry}\b.* = ", source, re.MULTILINE), file
