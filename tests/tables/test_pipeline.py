import numpy as np
import pandas as pd
import pytest
import torch

from exact_denoiser import ExactDenoiser
from helpers import refused, seeded
from kan_diffusion.data.densities import GaussianMixture
from kan_diffusion.diffusion.likelihood import first_noise
from kan_diffusion.errors import DataError
from kan_diffusion.processes import get_process
from kan_diffusion.tables.codec import TableCodec
from kan_diffusion.tables.pipeline import TableDiffusionPipeline
from make import denoiser, process

NUM = 300
RNG = np.random.default_rng(0)
GRADE = RNG.integers(0, 3, NUM)
FRAME = pd.DataFrame(
    {
        "member": [f"m-{place:04d}" for place in range(NUM)],
        "spend": RNG.normal(250, 80, NUM).round(2),
        "grade": pd.Series(np.array(list("ABC"))[GRADE], dtype=object),
        "sub": [f"{letter}{1 + k % 4}" for k, letter in enumerate(np.array(list("ABC"))[GRADE])],
        "smokes": RNG.random(NUM) < 0.4,
        "age": RNG.integers(18, 90, NUM),
    }
)
CODEC = TableCodec.fit(FRAME)


@pytest.fixture(scope="module")
def pipeline():
    """A pipeline that has learned nothing."""
    return TableDiffusionPipeline(denoiser("mlp", CODEC.dim, observable=True), process(), CODEC)


def test_identifiers_stay_with_their_rows_where_rows_are_rejected(pipeline):
    given = FRAME[["member", "age"]][:80].iloc[::-1]
    rows = pipeline.draw(like=given, conditions={"spend": (250, None)}, generator=seeded())
    assert rows["spend"].min() >= 250
    assert rows["member"].notna().all()
    pd.testing.assert_frame_equal(rows[["member", "age"]], given.loc[rows.index])
    drawn = pipeline.draw(50, conditions={"spend": (250, None)}, generator=seeded())
    assert drawn["member"].is_unique
    assert drawn["member"].str.startswith("m-").all()
    with refused("column 'grade' has 'king' in row 3", DataError):
        like = pd.DataFrame({"grade": ["A", "A", "king"]})
        pipeline.draw(like=like, conditions={"age": (20, 60)})


def test_given_cells_stay_whatever_the_index_of_their_frame(pipeline):
    given = FRAME[["age", "grade"]][10:30]
    for index in (range(100, 120), list("abcdefghijklmnopqrst"), [7] * 20):
        part = given.set_axis(index)
        rows = CODEC.decode(torch.randn(20, CODEC.dim, generator=seeded()), part)
        assert rows["age"].tolist() == given["age"].tolist()
        filled = pipeline.impute(part.assign(spend=np.nan), generator=seeded())[0]
        assert filled.index.equals(part.index)
        assert filled["grade"].tolist() == given["grade"].tolist()


def test_given_cells_may_have_another_dtype_than_those_trained_on_and_stay():
    random = np.random.default_rng(0)
    days, when = pd.to_timedelta(random.integers(0, 300, 54), unit="D"), pd.Timestamp("2020-02-02")
    frame = pd.DataFrame(
        {
            "x": random.normal(size=54),
            "job": pd.Categorical(random.choice(list("abc"), 54), list("dcba")),
            "word": random.choice(["u", "v"], 54),
            "when": when + days,
            "there": when.tz_localize("Europe/Berlin") + days,
        }
    )
    codec = TableCodec.fit(frame)
    network = denoiser("mlp", codec.dim, observable=True)
    untrained = TableDiffusionPipeline(network, process(), codec)
    for name, cells, expected in (
        ("x", pd.array([1, None] * 27, dtype="Int64"), 1),
        ("x", np.array([0.5, np.nan] * 27, dtype=np.float32), 0.5),
        ("job", pd.Categorical(["a", None] * 27), "a"),
        ("word", pd.Categorical(["u", None] * 27), "u"),
        ("when", [when.tz_localize("UTC"), pd.NaT] * 27, when),
        ("there", [when, pd.NaT] * 27, when.tz_localize("Europe/Berlin")),
    ):
        given = frame.assign(**{name: cells})
        filled = untrained.impute(given, generator=seeded(), steps=2)[0]
        for made in (filled[name], untrained.draw(like=given[[name]], steps=2)[name]):
            assert made.dtype == frame[name].dtype
            assert made.notna().all()
            assert (made[::2] == expected).all()


def test_an_absent_column_is_a_gap(pipeline):
    filled = pipeline.impute(FRAME.drop(columns=["member", "age"])[:20], generator=seeded())[0]
    assert [*filled] == ["spend", "grade", "sub", "smokes", "member", "age"]
    assert filled.notna().all(axis=None)
    assert filled["member"].is_unique
    assert not filled["member"].isin(FRAME["member"]).any()


def test_conditions_that_no_row_can_meet_together_are_refused(pipeline, caplog):
    assert "sub->grade" in CODEC.always
    words = "no row has grade = A, sub = B1: all rows keep sub->grade; give cells that occur"
    with refused(words, DataError):
        pipeline.draw(5, conditions={"grade": "A", "sub": "B1"})
    rows = pipeline.draw(5, conditions={"grade": "A", "sub": "A1"}, generator=seeded())
    assert (rows["sub"] == "A1").all()
    assert not caplog.text
    given = pd.DataFrame({"grade": ["A", "A"], "sub": ["A1", "B1"]})  # of rows, they stay
    rows = pipeline.draw(like=given, generator=seeded())
    assert rows["sub"].tolist() == ["A1", "B1"]
    assert "1 of 2 rows break sub->grade, which cannot be kept beside their given" in caplog.text


def test_what_a_network_draws_too_often_of_rare_texts_is_moved():
    names = ["clerk"] * 150 + ["nurse"] * 100 + [f"title {k}" for k in range(50)]
    codec = TableCodec.fit(pd.DataFrame({"title": names}))
    (column,) = codec.columns
    last = column.encode(pd.Series([column.known[-1]]), None, False)[0, 0]
    exact = ExactDenoiser(process(), GaussianMixture([[float(last)]], variances=1e-6))
    drawn = TableDiffusionPipeline(exact, process(), codec).draw(200, generator=seeded())
    assert drawn["title"].value_counts().max() > 150
    assert set(drawn["title"].value_counts()[1:]) <= {1}


def test_gaps_alone_are_drawn_and_every_draw_keeps_dtypes_index_and_known_cells(pipeline):
    gaps = FRAME.copy().set_axis(range(1000, 1000 + len(FRAME)))
    gaps.loc[[1007, 1200], ["spend", "member"]] = None
    gaps.loc[1008, "grade"] = None
    calls, num_points = type(pipeline).__call__, []

    def counted(self, num_samples, *args, **options):
        num_points.append(num_samples)
        return calls(self, num_samples, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(pipeline), "__call__", counted)
        draws = pipeline.impute(gaps, 3, generator=seeded(), steps=2)
        assert sum(num_points) == 3 * 3
        pd.testing.assert_frame_equal(pipeline.impute(FRAME)[0], FRAME)
        assert sum(num_points) == 3 * 3
    for draw in draws:
        assert draw.index.equals(gaps.index)
        pd.testing.assert_series_equal(draw.dtypes, FRAME.dtypes)
        assert draw.notna().all(axis=None)
        assert draw["member"].is_unique
        assert (draw == gaps).where(gaps.notna(), True).all(axis=None)
    assert len({draw.loc[1007, "spend"] for draw in draws}) == 3
    draws[0].loc[1000] = draws[1].loc[1007]
    assert not draws[1].loc[1000].equals(draws[0].loc[1000])
    assert draws[2].loc[1000].equals(gaps.loc[1000])
    alike = pipeline.impute(gaps.set_axis([7] * len(gaps)), 2, generator=seeded(), steps=2)
    assert [draw.index.tolist() for draw in alike] == 2 * [[7] * len(gaps)]


def test_densities_are_those_of_a_known_mixture_in_the_units_of_the_columns():
    cosine, mixture = get_process("cosine"), GaussianMixture([[-1.5, 0], [1.5, 1]], variances=0.5)
    points, units = mixture.sample(300, seeded()), torch.tensor([50.0, 0.01]).double()
    frame = pd.DataFrame(1000 + units * points)
    codec = TableCodec.fit(frame, scaling="standard")
    standard = mixture.rescaled(points.mean(dim=0), points.std(dim=0, correction=0))
    pipeline = TableDiffusionPipeline(ExactDenoiser(cosine, standard), cosine, codec)
    noise = first_noise(cosine) * points.std()
    exact = mixture.log_density(points[:20], 1.0, noise) - units.log().sum()
    np.testing.assert_allclose(pipeline.log_density(frame[:20]), exact, atol=5e-3)


def test_a_density_of_numbers_that_a_map_makes_normal_integrates_to_one():
    cosine, normal = get_process("cosine"), GaussianMixture([[0.0]], variances=1.0)
    sizes = np.exp(np.random.default_rng(0).normal(size=500))
    pipeline = TableDiffusionPipeline(
        ExactDenoiser(cosine, normal), cosine, TableCodec.fit(pd.DataFrame({"size": sizes}))
    )
    grid = np.geomspace(1e-3, 1e3, 2001)
    density = np.exp(pipeline.log_density(pd.DataFrame({"size": grid}), num_steps=10))
    assert np.trapezoid(density * grid, np.log(grid)) == pytest.approx(1, abs=5e-3)


def test_rows_come_until_draws_or_the_time_are_used(pipeline, caplog, monkeypatch):
    few = pipeline.draw(200, conditions={"spend": (243.5, None)}, generator=seeded(), steps=2)
    assert 0 < len(few) < 200
    assert f"{len(few)} rows come instead of 200, since of " in caplog.text
    assert "give more time with max_seconds" in caplog.text
    conditions = {"spend": (241, None)}
    assert len(pipeline.draw(20, conditions=conditions, generator=seeded(), steps=2)) == 20
    with refused("none of .* rows drawn .* give more time with max_seconds", DataError):
        pipeline.draw(5, conditions={"spend": (250.001, 250.004)}, max_seconds=0.01, steps=1)
    with refused("with max_seconds, or a range in place of a list", DataError):
        pipeline.draw(5, conditions={"spend": [250.001, 250.004]}, max_seconds=0.01, steps=1)
    with refused("max_seconds is to be above 0"):
        pipeline.draw(5, conditions=conditions, max_seconds=0.0)
    monkeypatch.setattr("kan_diffusion.tables.pipeline._MOST_DRAWN_FOR_ONE", 0)
    monkeypatch.setattr("kan_diffusion.tables.pipeline._FEWEST_DRAWN", 8)
    asked = {"conditions": {"spend": (243.5, None)}, "steps": 2}
    with refused("none of .* rows drawn", DataError):
        pipeline.draw(1, generator=seeded(2), **asked)
    assert len(pipeline.draw(1, generator=seeded(2), max_seconds=60, **asked)) == 1
