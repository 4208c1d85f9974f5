from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers import refused
from kan_diffusion import DiffusionEstimator, table_pipeline
from kan_diffusion.data.codec import TableCodec
from kan_diffusion.data.dependencies import nearest_agreeing
from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.table_pipeline import TableDiffusionPipeline


def _places(num: int = 600) -> pd.DataFrame:
    """Cities imply a region and a code, and their size nearly; regions imply whether it rains."""
    rng = np.random.default_rng(0)
    city = rng.integers(0, 12, num)
    region = np.array(["north", "east", "south", "west"])[city % 4]
    frame = pd.DataFrame(
        {
            "region": region,
            "city": [f"city {one}" for one in city],
            "rain": np.isin(region, ["north", "west"]),
            "code": 100 + 7 * city,
            "size": np.where(rng.random(num) < 0.01, "L", np.array(["S", "M"])[city % 2]),
            "x": rng.normal(size=num),
        }
    )
    frame.loc[rng.random(num) < 0.1, "region"] = None
    return frame


def _found(frame: pd.DataFrame) -> set[tuple[str, str]]:
    codec = TableCodec.fit(frame)
    names = [str(column.name) for column in codec.columns]
    return {(names[each.determinant], names[each.dependent]) for each in codec.dependencies}


def test_what_always_follows_is_found_and_what_nearly_does_is_not() -> None:
    assert _found(_places()) == {("city", "region"), ("city", "rain"), ("city", "code")}


def test_columns_that_follow_are_described() -> None:
    values = TableCodec.fit(_places()).describe().set_index("name")["values"]
    assert values["rain"] == "False, True; follows city"
    assert values["region"].endswith("; follows city")
    assert "follows" not in values["size"]


def test_chance_is_no_dependency() -> None:
    rng = np.random.default_rng(0)
    name = rng.integers(0, 900, 1000)  # nearly every row has a category of its own
    frame = pd.DataFrame(
        {
            "name": [f"n{one}" for one in name],
            "rare": np.where(np.arange(1000) == 7, "yes", "no"),
            "x": rng.normal(size=1000),
        }
    )
    assert _found(frame) == set()
    few = _places(30)
    assert _found(few) == set()


def _require_obeyed(frame: pd.DataFrame, learned: pd.DataFrame) -> None:
    for name in ("region", "rain", "code"):
        known = frame.dropna(subset=["city", name])
        truth = learned.dropna(subset=[name]).groupby("city")[name].first()
        assert (known[name].to_numpy() == truth[known["city"]].to_numpy()).all()


@pytest.fixture(scope="module")
def model() -> DiffusionEstimator:
    logging.getLogger("kan_diffusion").setLevel(logging.ERROR)
    try:
        return DiffusionEstimator(params=500, steps=5, random_state=0, device="cpu").fit(_places())
    finally:
        logging.getLogger("kan_diffusion").setLevel(logging.NOTSET)


@pytest.mark.parametrize(
    "conditions",
    [{}, {"region": "north"}, {"city": "city 7"}, {"rain": True, "region": "west"}, {"code": 107}],
    ids=str,
)
def test_rows_obey_whatever_is_told(
    model: DiffusionEstimator, conditions: dict[str, object]
) -> None:
    rows = model.sample(300, conditions=conditions, random_state=1)
    _require_obeyed(rows, _places())
    for name, cell in conditions.items():
        assert (rows[name] == cell).all()
    if not conditions:
        assert rows["region"].isna().any()


def test_categories_are_drawn_as_the_model_draws_them_where_they_agree(
    model: DiffusionEstimator, monkeypatch: pytest.MonkeyPatch
) -> None:
    # This model has learned next to nothing, so that few of its rows agree.
    monkeypatch.setattr(table_pipeline, "_TRIES", 200)
    told = {"region": "south"}
    own = model.pipeline_
    free = TableDiffusionPipeline(
        own.denoiser, own.scheduler, own.codec.model_copy(update={"dependencies": ()}), own.process
    )
    rows = free.draw(20_000, conditions=told, generator=torch.Generator().manual_seed(0))
    agreeing = rows[rows["city"].isin(["city 2", "city 6", "city 10"])]
    assert 600 < len(agreeing) < 10_000
    shares = agreeing["city"].value_counts(normalize=True)
    found = model.sample(2000, conditions=told, random_state=1)["city"].value_counts(normalize=True)
    assert (found - shares).abs().max() < 0.08


def test_rows_that_contradict_are_kept_as_told(
    model: DiffusionEstimator, caplog: pytest.LogCaptureFixture
) -> None:
    told = pd.DataFrame({"city": ["city 1"] * 20, "region": ["north"] * 20})
    rows = model.sample(like=told, random_state=1)
    pd.testing.assert_frame_equal(rows[["city", "region"]], told[["city", "region"]])
    assert rows["code"].eq(107).all()
    assert "extrapolation" in caplog.text


def test_gaps_are_filled_with_what_follows(model: DiffusionEstimator) -> None:
    rows = _places(80)
    rng = np.random.default_rng(3)
    gaps = rows.mask(rng.random(rows.shape) < 0.4)
    for filled in model.impute(gaps, draws=2):
        _require_obeyed(filled, _places())
        known = gaps.notna()
        pd.testing.assert_frame_equal(
            filled.where(known).astype(object), gaps.where(known).astype(object)
        )


@given(st.data())
def test_the_nearest_that_agrees_is_taken(data: st.DataObject) -> None:
    count, num, each = (data.draw(st.integers(1, 6)) for _ in range(3))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    implied = rng.integers(0, 3, (each, count))
    places, wanted = rng.integers(0, count, num), rng.integers(-1, 3, (each, num))
    found = nearest_agreeing(places, implied, wanted)
    for place, want, got in zip(places, wanted.T, found, strict=True):
        agreeing = [
            other for other in range(count) if ((implied[:, other] == want) | (want < 0)).all()
        ]
        if agreeing:
            assert got in agreeing
            assert abs(got - place) == min(abs(other - place) for other in agreeing)
        else:
            assert got == place


@pytest.mark.parametrize(
    "change",
    [
        {"determinant": 9},
        {"determinant": 5},
        {"dependent": 1},
        {"places": [0]},
        {"places": [12] * 12},
    ],
    ids=str,
)
def test_dependencies_that_fit_no_column_are_refused(change: dict[str, object]) -> None:
    content = TableCodec.fit(_places()).to_dict()
    content["dependencies"][0].update(change)
    with refused("codec: ", KanDiffusionError):
        TableCodec.from_dict(content)


def test_decoding_keeps_what_is_told() -> None:
    codec = TableCodec.fit(_places())
    rng = np.random.default_rng(0)
    rows = torch.randn(200, codec.dim, generator=torch.Generator().manual_seed(0))
    free = codec.decode(rows, rng)
    _require_obeyed(free, _places())
    told = torch.ones_like(rows, dtype=torch.bool)
    pd.testing.assert_frame_equal(
        codec.decode(rows, rng, told),
        codec.model_copy(update={"dependencies": ()}).decode(rows, rng),
    )
