import numpy as np
import pandas as pd
import pytest
import torch

from exact_denoiser import ExactDenoiser
from helpers import refused, seeded
from kan_diffusion.data.densities import GaussianMixture
from kan_diffusion.errors import DataError
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
        "grade": np.array(list("ABC"))[GRADE],
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
    ages = dict(zip(given["member"], given["age"], strict=True))
    assert rows["age"].tolist() == [ages[member] for member in rows["member"]]
    drawn = pipeline.draw(50, conditions={"spend": (250, None)}, generator=seeded())
    assert drawn["member"].is_unique
    assert drawn["member"].str.startswith("m-").all()


def test_given_cells_stay_whatever_the_index_of_their_frame(pipeline):
    given = FRAME[["age", "grade"]][10:30]
    for index in (range(100, 120), list("abcdefghijklmnopqrst"), [7] * 20):
        part = given.set_axis(index)
        rows = CODEC.decode(torch.randn(20, CODEC.dim, generator=seeded()), part)
        assert rows["age"].tolist() == given["age"].tolist()
        filled = pipeline.impute(part.assign(spend=np.nan), generator=seeded())[0]
        assert filled.index.equals(part.index)
        assert filled["grade"].tolist() == given["grade"].tolist()


def test_only_rows_with_gaps_are_drawn(pipeline):
    gaps = FRAME.copy()
    gaps.loc[[7, 200], "spend"] = np.nan
    num_points = []
    first, second = pipeline.impute(gaps, 2, generator=seeded(), steps=2)
    pd.testing.assert_frame_equal(first.drop(index=[7, 200]), FRAME.drop(index=[7, 200]))
    assert first.loc[[7, 200]].notna().all(axis=None)
    assert (first["spend"] != second["spend"]).sum() == 2
    pipeline_calls = type(pipeline).__call__

    def counted(self, num_samples, *args, **options):
        num_points.append(num_samples)
        return pipeline_calls(self, num_samples, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(pipeline), "__call__", counted)
        pipeline.impute(gaps, 3, generator=seeded(), steps=2)
        assert sum(num_points) == 3 * 2
        pd.testing.assert_frame_equal(pipeline.impute(FRAME)[0], FRAME)
        assert sum(num_points) == 3 * 2


def test_every_draw_has_the_dtypes_the_index_and_the_known_cells_of_the_first(pipeline):
    gaps = FRAME.copy().set_axis(range(1000, 1000 + len(FRAME)))
    gaps.loc[[1007, 1200], ["spend", "member"]] = None
    gaps.loc[1008, "grade"] = None
    draws = pipeline.impute(gaps, 3, generator=seeded(), steps=2)
    for draw in draws:
        assert draw.index.equals(gaps.index)
        pd.testing.assert_series_equal(draw.dtypes, draws[0].dtypes)
        assert draw.notna().all(axis=None)
        assert draw["member"].is_unique
        assert (draw == gaps).where(gaps.notna(), True).all(axis=None)
    alike = pipeline.impute(gaps.set_axis([7] * len(gaps)), 2, generator=seeded(), steps=2)
    assert [draw.index.tolist() for draw in alike] == 2 * [[7] * len(gaps)]
    draws[1].loc[1007, "spend"] = -1.0
    assert draws[0].loc[1007, "spend"] != -1.0 != draws[2].loc[1007, "spend"]


def test_an_absent_column_is_a_gap(pipeline):
    filled = pipeline.impute(FRAME.drop(columns=["member", "age"])[:20], generator=seeded())[0]
    assert [*filled] == ["spend", "grade", "sub", "smokes", "member", "age"]
    assert filled.notna().all(axis=None)
    assert filled["member"].is_unique
    assert not filled["member"].isin(FRAME["member"]).any()


def test_conditions_that_no_row_can_meet_together_are_refused(pipeline):
    assert "sub->grade" in CODEC.always
    words = "no row has grade = A, sub = B1: sub->grade holds in all rows; give cells that occur"
    with refused(words, DataError):
        pipeline.draw(5, conditions={"grade": "A", "sub": "B1"})
    rows = pipeline.draw(5, conditions={"grade": "A", "sub": "A1"}, generator=seeded())
    assert (rows["sub"] == "A1").all()


def test_a_number_is_no_truth_value():
    with refused("column 'smokes' has 7 in row 2, and only truth values were there", DataError):
        CODEC.encode(FRAME[:3].assign(smokes=[0, 7, 1]))


def test_what_a_network_draws_too_often_of_rare_texts_is_moved():
    names = ["clerk"] * 150 + ["nurse"] * 100 + [f"title {k}" for k in range(50)]
    codec = TableCodec.fit(pd.DataFrame({"title": names}))
    (column,) = codec.columns
    last = column.encode(pd.Series([column.known[-1]]), None, False)[0, 0]
    exact = ExactDenoiser(process(), GaussianMixture([[float(last)]], variances=1e-6))
    drawn = TableDiffusionPipeline(exact, process(), codec).draw(200, generator=seeded())
    assert drawn["title"].value_counts().max() > 150
    assert set(drawn["title"].value_counts()[1:]) <= {1}


def test_rows_come_as_long_as_there_is_time_and_all_that_meet_conditions(pipeline, caplog):
    few = pipeline.draw(200, conditions={"spend": (243.5, None)}, generator=seeded(), steps=2)
    assert 0 < len(few) < 200
    assert f"{len(few)} rows come instead of 200, since of " in caplog.text
    assert "give more time with max_seconds" in caplog.text
    caplog.clear()
    conditions = {"spend": (241, None)}
    assert len(pipeline.draw(20, conditions=conditions, generator=seeded(), steps=2)) == 20
    assert not caplog.records
    with refused("none of .* rows drawn .* give more time with max_seconds", DataError):
        pipeline.draw(5, conditions={"spend": (250.001, 250.004)}, max_seconds=0.01, steps=1)
    with refused("max_seconds is to be above 0"):
        pipeline.draw(5, conditions=conditions, max_seconds=0.0)


def test_draws_go_on_until_the_time_is_over(pipeline, monkeypatch):
    monkeypatch.setattr("kan_diffusion.tables.pipeline._MOST_DRAWN_FOR_ONE", 0)
    monkeypatch.setattr("kan_diffusion.tables.pipeline._FEWEST_DRAWN", 8)
    conditions = {"spend": (243.5, None)}
    with refused("none of .* rows drawn", DataError):
        pipeline.draw(1, conditions=conditions, generator=seeded(2), steps=2)
    rows = pipeline.draw(1, conditions=conditions, generator=seeded(2), steps=2, max_seconds=60)
    assert len(rows) == 1
